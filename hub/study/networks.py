"""The choice of the network to train: the paper's, or a baseline."""

from dataclasses import dataclass, field

from datasets import DatasetDict
from transformers import PreTrainedModel

from hub.files import UserError
from hub.study.baselines import BASELINES, baseline_of, load_baseline
from hub.training.arguments import IMAGENET_WEIGHTS, ModelArguments
from hub.training.heads import head_names
from hub.training.weights import config_overrides, load_model, loading_weights

PAPER_NETWORK = "ibn-resnet34"


@dataclass
class NetworkArguments(ModelArguments):
    """ModelArguments with the choice of a baseline."""

    architecture: str | None = field(
        default=None,
        metadata={
            "choices": [PAPER_NETWORK, *BASELINES],
            "help": f"The network: the paper's, or a baseline, trained with cross entropy alone; baselines need timm. "
            f"Default: that of the weights, or '{PAPER_NETWORK}'.",
        },
    )


def imagenet_weights_of(architecture: str | None) -> str:
    """Return the Hub id of an architecture's ImageNet weights."""
    return BASELINES[architecture].weights if architecture in BASELINES else IMAGENET_WEIGHTS


def load_network(args: NetworkArguments, source: str | None, dataset: DatasetDict, do_train: bool) -> PreTrainedModel:
    """Load the paper's network, or the baseline that `--architecture` or the weights name.

    Args:
        args: The architecture and its settings.
        source: The weights, by folder or id; None for random ones.
        dataset: Names the classes, stages and attributes; baselines leave out the last two.
        do_train: Whether the model is trained, so that a new classifier is allowed.

    Raises:
        UserError: The weights cannot be loaded, or do not match the architecture or the classes.
    """
    names = next(iter(dataset.values())).features["label"].names  # the same in every split
    if source is None and not do_train:
        raise UserError("without training, name the folder of a trained model as --model_name_or_path.")
    with loading_weights(source):
        held = None if source is None else baseline_of(source)
        architecture = args.architecture or held or PAPER_NETWORK
        if architecture in BASELINES:
            if others := sorted(config_overrides(args).keys() - {"image_size"}):
                raise UserError(f"--{others[0]} belongs to {PAPER_NETWORK}; leave it out for {architecture}.")
            return load_baseline(architecture, source, names, args.image_size, do_train)
        if held is not None:
            raise UserError(f"{source} holds {held}, which --architecture {PAPER_NETWORK} does not start from.")
        return load_model(args, source, names, do_train, head_names(dataset, do_train))
