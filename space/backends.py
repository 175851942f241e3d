"""What computes the network of a classifier: PyTorch in float32 or bfloat16, or ONNX Runtime in float32 or int8."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput, cached_file

# The file of each backend of ONNX Runtime, in the folder or the repository of the weights.
ONNX_FILES = {"onnx": "onnx/model.onnx", "onnx-int8": "onnx/model_int8.onnx"}
BACKENDS = ("torch", "bfloat16", *ONNX_FILES)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to a device; on a CPU, its weights get the order that convolutions would else bring about anew."""
    return model.to(device, memory_format=torch.channels_last if device.type == "cpu" else torch.preserve_format)


def use_backend(model, backend: str, path: str | os.PathLike | None = None) -> None:
    """Have another backend compute the forward pass of a classifier from now on, and with it `analyze`.

    Args:
        model: A `WBCForImageClassification` in eval mode. For ONNX Runtime, it lies on the CPU.
        backend: One of `BACKENDS`.
        path: The ONNX file. Default: the one beside the weights, see `find_onnx`.

    Raises:
        ValueError: if there is no such backend, package or file.
    """
    if backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}, but {', '.join(BACKENDS)}")
    if backend == "bfloat16":
        model.forward = partial(_autocast, model.forward, model.device.type)
    elif backend != "torch":
        source = model.config.name_or_path
        path = path or find_onnx(source, backend)
        if path is None:
            option = " --calibrate DATASET" if backend == "onnx-int8" else ""
            command = f"python -m hub model onnx {source} --output {source}{option}"
            raise ValueError(f"{source} has no {ONNX_FILES[backend]}, which `{command}` writes")
        model.forward = _onnx_forward(path)


def find_onnx(source: str, backend: str) -> str | None:
    """Return the path of the ONNX file that lies with weights, from the Hub if need be, or None without one."""
    return cached_file(
        source,
        ONNX_FILES[backend],
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def named_outputs(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Name each tensor of the model's output: an ONNX model has no nested outputs.

    The feature maps are one, `last_hidden_state`; the logits of an attribute are `attribute_logits.<its name>`.
    """
    named = {}
    for name, value in outputs.items():
        if name == "hidden_states":
            named["last_hidden_state"] = value[-1]
        elif isinstance(value, Mapping):
            named |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            named[name] = value
    return named


def _nested_outputs(named: Mapping[str, Tensor]) -> ModelOutput:
    """Undo `named_outputs`; of the feature maps, the last one is left."""
    outputs: dict[str, Any] = {}
    for name, value in named.items():
        owner, dot, key = name.partition(".")
        if dot:
            outputs.setdefault(owner, {})[key] = value
        elif name == "last_hidden_state":
            outputs["hidden_states"] = (value,)
        else:
            outputs[name] = value
    return ModelOutput(**outputs)


def _autocast(forward: Callable[..., ModelOutput], device: str, pixel_values: Tensor, **kwargs) -> ModelOutput:
    """Run a forward pass in bfloat16 where that is precise enough; the result is float32."""
    with torch.autocast(device, torch.bfloat16):
        outputs = forward(pixel_values, **kwargs)
    return _nested_outputs({name: value.float() for name, value in named_outputs(outputs).items()})


def _onnx_forward(path: str | os.PathLike) -> Callable[..., ModelOutput]:
    """Load an ONNX model, and return a forward pass with its outputs by their names."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError("this backend needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait for the next batch leave their cores to those that read images and find cells.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def forward(pixel_values: Tensor, **_) -> ModelOutput:
        arrays = session.run(names, {"pixel_values": pixel_values.numpy(force=True)})
        return _nested_outputs({name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)})

    return forward
