"""The classifier as ONNX for its repository, checked against PyTorch on the drawn examples."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from hub.inference.onnx import export_onnx
from modeling_wbc import WBCForImageClassification, WBCImageProcessor

EXAMPLES = Path(__file__).parents[2] / "examples"


def export_published(source: str | os.PathLike, path: Path) -> None:
    """Write a classifier as a float32 ONNX model, see `export_onnx`, and check its logits on the examples.

    Args:
        source: A classifier, by folder or id on the Hub.
        path: The file to write.

    Raises:
        UserError: A logit differs from PyTorch's.
        OSError: The classifier cannot be loaded.
    """
    pictures = sorted(EXAMPLES.glob("*.jpg"))
    images = WBCImageProcessor.from_pretrained(source)(pictures, return_tensors="pt")["pixel_values"]
    export_onnx(WBCForImageClassification.from_pretrained(source, dtype=torch.float32), images, path)
