"""Average two classifiers, of which one was trained on from the other: `python -m hub model average`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from hub.files import UserError, write_json
from hub.training.trainer import TRAINING_NAME
from modeling_wbc import WBCForImageClassification, WBCImageProcessor


def average(first: str | os.PathLike, second: str | os.PathLike, share: float, folder: Path) -> Path:
    """Write the classifier whose weights lie between those of two others (WiSE-FT, Wortsman et al. 2022).

    Fine-tuning for images of another kind costs accuracy on those of before. On the straight line from the weights
    before it to those after it, most of the one is kept and most of the other is gained. Means and variances of the
    norms are averaged alike; temperature and thresholds are those of `second` and want to be fitted again.

    Args:
        first: The classifier before the fine-tuning, by folder or id on the Hub.
        second: The one after it, whose configuration and image processor are kept.
        share: Of `second` in the average, in [0, 1].
        folder: The folder to write, over what is there; with the `train_results.json` of `second`, whose command
            becomes that of the average.

    Returns:
        `folder`.

    Raises:
        UserError: `share` is out of range, or the weights of the two have other names or shapes.
        OSError: A classifier cannot be loaded.
    """
    if not 0 <= share <= 1:
        raise UserError(f"--share is {share}; give 0 to 1")
    before, model = (WBCForImageClassification.from_pretrained(each, dtype=torch.float32) for each in (first, second))
    old, new = before.state_dict(), model.state_dict()
    shapes = [{(name, tensor.shape) for name, tensor in weights.items()} for weights in (old, new)]
    if other := sorted({name for name, _ in shapes[0] ^ shapes[1]}):
        raise UserError(f"{first} and {second} do not hold the same weights: {', '.join(other[:3])} differ")
    mean = {
        name: torch.lerp(old[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in new.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    training = Path(second, TRAINING_NAME)
    if training.is_file():  # the recipe of the average, for `python -m hub model report`
        command = f"python -m hub model average {first} {second} --share {share} --output {folder}"
        results = json.loads(training.read_text(encoding="utf-8"))
        write_json(folder / TRAINING_NAME, results | {"command": command})
    WBCImageProcessor.from_pretrained(second).save_pretrained(folder)
    model.save_pretrained(folder, state_dict=mean)
    return folder
