"""A moving average of the weights over the steps of a training."""

import logging
from pathlib import Path

from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

AVERAGE_NAME = "average.safetensors"


class AveragedWeights(TrainerCallback):
    """The exponential moving average of a model's parameters and buffers, of the norms' statistics as well.

    Averages of the weights along a training lie in flatter minima than its last weights, and flat minima read images
    of other sources better (Izmailov et al. 2018, Cha et al. 2021).

    Args:
        model: The model as it is before the training, on its device.
        decay: Share of the former average at each step, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Take the weights after a step into the average, which is that of the first step alone at first."""
        self.averaged.update_parameters(model)

    def copy_to(self, model: nn.Module) -> None:
        """Give a model the averaged weights, if there were any steps."""
        if self.averaged.n_averaged:
            model.load_state_dict(self.averaged.module.state_dict())

    def save(self, folder: Path) -> None:
        """Write the average beside the weights of a checkpoint."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.averaged.module, str(folder / AVERAGE_NAME))

    def load(self, folder: Path) -> None:
        """Read the average of a checkpoint; one of a training without an average has none, so that it begins anew."""
        path = folder / AVERAGE_NAME
        if not path.is_file():
            logger.warning(f"{folder} holds no average of weights: --ema_decay averages from here on.")
            return
        load_model(self.averaged.module, str(path))
        self.averaged.n_averaged.fill_(1)
