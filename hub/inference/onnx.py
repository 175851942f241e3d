"""The classifier as ONNX, in float32 and in int8."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import Tensor, nn

from hub.data.load import load
from hub.files import UserError
from modeling_wbc import WBCForImageClassification, WBCImageProcessor
from space.backends import ONNX_FILES, named_outputs

# The largest difference of a logit, in float32: the order of a sum differs between the two programs.
TOLERANCE = 1e-4
_OPSET = 18
_CALIBRATION_CELLS = 256
_NORMALIZER = ".stain."  # in the names of the stain normaliser's weights


class _WholeForward(nn.Module):
    """The classifier's whole forward pass, with its outputs as a tuple, the logits first."""

    def __init__(self, model: WBCForImageClassification):
        super().__init__()
        self.model = model

    def names(self, pixel_values: Tensor) -> list[str]:
        """The names of the outputs."""
        return list(self._outputs(pixel_values))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._outputs(pixel_values).values())

    def _outputs(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return named_outputs(self.model(pixel_values, output_hidden_states=True))


def export_onnx(model: WBCForImageClassification, pixel_values: Tensor, path: Path) -> None:
    """Write a classifier as a float32 ONNX model, and check its logits against PyTorch's.

    The input is `pixel_values`, float32 (N, 3, S, S) for any N, as the image processor returns them. The outputs are
    those of the model, float32, see [`WBCImageClassifierOutput`], by the names of `named_outputs`: `logits` (N, K),
    `distance` (N,), `novelty` (N,), `embeddings` (N, D), `last_hidden_state` (N, D, h, w), and those of further heads.

    Args:
        model: The classifier, float32.
        pixel_values: (N, 3, S, S) float32, images to trace it with and to compare the logits on, N being 2 or more.
        path: The file to write.

    Raises:
        UserError: A logit differs from PyTorch's by more than `TOLERANCE`.
    """
    import onnx
    import onnxruntime

    whole = _WholeForward(model).eval()
    with torch.no_grad():
        names, (expected, *_) = whole.names(pixel_values), whole(pixel_values)
    program = torch.onnx.export(
        whole,
        (pixel_values,),
        dynamo=True,
        verbose=False,
        opset_version=_OPSET,
        input_names=["pixel_values"],
        output_names=names,
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch_size")}},
    )
    exported = program.model_proto
    # The metadata name source files by their paths on this machine.
    for part in (exported, exported.graph, *exported.graph.node, *exported.graph.input, *exported.graph.output):
        part.ClearField("metadata_props")
    onnx.save(exported, path)
    session = onnxruntime.InferenceSession(path)
    (logits,) = session.run(["logits"], {"pixel_values": pixel_values.numpy()})
    if (difference := np.abs(logits - expected.numpy()).max()) > TOLERANCE:
        raise UserError(f"the logits of {path} differ from PyTorch's by {difference:.2g}, allowed are {TOLERANCE:.2g}")


def write_onnx(source: str | os.PathLike, output: Path, calibration: str | None = None) -> list[Path]:
    """Write the ONNX files that the backends look for: `onnx/model.onnx`, and with a data set `onnx/model_int8.onnx`.

    Args:
        source: A classifier, by folder or id on the Hub.
        output: The folder to write to, over what is there; may be that of the classifier.
        calibration: A data set as for train.py's `--dataset_name`; the ranges of the activations in int8 are those of
            cells of its training images.

    Returns:
        The files.

    Raises:
        UserError: ONNX gives other logits, or there is no such data set.
        OSError: The classifier cannot be loaded, or a file cannot be written.
    """
    splits: Mapping[str, datasets.Dataset] = {} if calibration is None else load(calibration)
    if calibration is not None and "train" not in splits:
        raise UserError(f"{calibration} has no split train to calibrate with")
    model = WBCForImageClassification.from_pretrained(source, dtype=torch.float32).eval()
    written = [output / ONNX_FILES["onnx"]]
    written[0].parent.mkdir(parents=True, exist_ok=True)
    size = model.config.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    export_onnx(model, images, written[0])
    if calibration is not None:
        written.append(output / ONNX_FILES["onnx-int8"])
        cells = _cells(model.image_processor_or_default(), splits["train"])
        quantize(written[0], written[1], cells)
    return written


def _cells(image_processor: WBCImageProcessor, images: datasets.Dataset) -> Iterator[Tensor]:
    """The foremost cell (1, 3, S, S) of images drawn from a data set."""
    count = min(len(images), _CALIBRATION_CELLS)
    for index in np.random.default_rng(0).permutation(len(images))[:count].tolist():
        yield image_processor(images[index]["image"], return_tensors="pt")["pixel_values"]


def quantize(path: Path, output: Path, cells: Iterable[Tensor]) -> None:
    """Write an ONNX model with its convolutions in int8, whose ranges are those of `cells`.

    Weights have a scale for each channel, and seven bits: on CPUs without VNNI instructions, sums of products of eight
    overflow. Norms, heads, distance, novelty and the stain normaliser stay in float32: they cost little, and their
    sums, squares and logarithms need it.

    Args:
        path: The float32 model that `export_onnx` wrote.
        output: The file to write.
        cells: (N, 3, S, S) float32 each.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self._cells = iter(cells)

        def get_next(self):
            cell = next(self._cells, None)
            return None if cell is None else {"pixel_values": cell.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        # ONNX Runtime's symbolic inference cannot follow the stain normaliser; ONNX's own infers what is needed.
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        normalizer = [node.name for node in nodes if any(_NORMALIZER in name for name in node.input)]
        quantize_static(
            prepared,
            output,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=normalizer,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
