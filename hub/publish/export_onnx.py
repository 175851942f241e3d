"""The classifier as ONNX, checked against PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hub.files import UserError
from modeling_wbc import WBCForImageClassification, WBCImageProcessor

EXAMPLES = Path(__file__).parents[2] / "examples"
# The largest difference of a logit, in float32: the order of a sum differs between the two programs.
TOLERANCE = 1e-4
_OPSET = 18


class _OnnxOutputs(nn.Module):
    """The classifier, returning the outputs of the ONNX model as a tuple."""

    names = ("logits", "distance", "novelty", "embeddings")

    def __init__(self, model: WBCForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixel_values)
        return tuple(outputs[name] for name in self.names)


def export_onnx(source: str | os.PathLike, path: Path) -> None:
    """Write a classifier as a float32 ONNX model, and check its logits on the examples against PyTorch.

    The input is `pixel_values`, float32 (N, 3, S, S) for any N, as the image processor returns them. The outputs are
    `logits` (N, C), `distance` (N,), `novelty` (N,) and `embeddings` (N, D), float32, see
    [`WBCImageClassifierOutput`].

    Args:
        source: A classifier, by folder or id on the Hub.
        path: The file to write.

    Raises:
        UserError: A logit differs from PyTorch's by more than `TOLERANCE`.
        OSError: The classifier cannot be loaded.
    """
    import onnx
    import onnxruntime

    model = _OnnxOutputs(WBCForImageClassification.from_pretrained(source, dtype=torch.float32)).eval()
    pictures = sorted(EXAMPLES.glob("*.jpg"))
    images = WBCImageProcessor.from_pretrained(source)(pictures, return_tensors="pt")["pixel_values"]
    program = torch.onnx.export(
        model,
        (images,),
        dynamo=True,
        verbose=False,
        opset_version=_OPSET,
        input_names=["pixel_values"],
        output_names=list(model.names),
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch_size")}},
    )
    exported = program.model_proto
    # The metadata name source files by their paths on this machine.
    for part in (exported, exported.graph, *exported.graph.node, *exported.graph.input, *exported.graph.output):
        part.ClearField("metadata_props")
    onnx.save(exported, path)
    session = onnxruntime.InferenceSession(path)
    logits, *_ = session.run(None, {"pixel_values": images.numpy()})
    with torch.no_grad():
        expected, *_ = model(images)
    if (difference := np.abs(logits - expected.numpy()).max()) > TOLERANCE:
        raise UserError(f"the logits of {path} differ from PyTorch's by {difference:.2g}, allowed are {TOLERANCE:.2g}")
