"""Time of the network for a crop, by backend, beside the networks that a user would pick instead.

```bash
python -m tests.benchmarks network
```

Eager PyTorch in float32 but where the name says otherwise, on a CPU, without reading and detection. All networks get
crops of one size; those whose size is fixed get theirs. The networks take turns, a batch each, so that a change of the
machine's speed meets all of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
import torchvision

from hub.data.synthetic import draw_field
from hub.inference.onnx import quantize, write_onnx
from hub.inference.predict import load_classifier
from modeling_wbc import WBCImageProcessor
from space.backends import use_backend
from tests.benchmarks.tables import multiplies_bf16

CHECKPOINT = Path(__file__).parents[2] / "hub" / "checkpoint"
PEERS = {
    "torchvision resnet34": lambda: torchvision.models.resnet34(num_classes=8),
    "timm resnet34": lambda: timm.create_model("resnet34", num_classes=8),
    "timm resnet50": lambda: timm.create_model("resnet50", num_classes=8),
    "timm vit_base_patch16_siglip_224": lambda: timm.create_model("vit_base_patch16_siglip_224", num_classes=8),
}
FIXED_SIZES = {"timm vit_base_patch16_siglip_224": 224}


def ours(folder: Path, processor: WBCImageProcessor) -> dict[str, Callable]:
    """The classifier with each backend."""
    (float32,) = write_onnx(CHECKPOINT, folder)
    cells = [
        processor(draw_field(kind, seed), return_tensors="pt")["pixel_values"]
        for seed in range(8)
        for kind in ("neutrophil", "lymphocyte", "monocyte", "eosinophil")
    ]
    quantize(float32, folder / "int8.onnx", cells)
    files = {"onnx": float32, "onnx-int8": folder / "int8.onnx"}
    networks = {}
    bfloat16 = ["bfloat16"] if multiplies_bf16(torch.device("cpu")) else []
    for backend in ("torch", *bfloat16, "onnx", "onnx-int8"):
        model = load_classifier(CHECKPOINT, torch.device("cpu"))
        use_backend(model, backend, files.get(backend))
        networks[f"ours, {backend}"] = partial(model, output_hidden_states=True)
    return networks


@torch.inference_mode()
def measure(small: bool) -> list[dict]:
    """The rows of the table."""
    processor = WBCImageProcessor.from_pretrained(CHECKPOINT)
    size = processor.size["height"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        networks = {name: make().eval() for name, make in PEERS.items()} | ours(Path(folder), processor)
        for batch in (1, 4) if small else (1, 32):
            times: dict[str, list[float]] = {name: [] for name in networks}
            for _ in range(3 if small else 12):
                for name, network in networks.items():
                    side = FIXED_SIZES.get(name, size)
                    crops = torch.randn(batch, 3, side, side)
                    begun = time.perf_counter()
                    network(crops)
                    times[name].append(time.perf_counter() - begun)
            medians = {name: statistics.median(each[2:]) for name, each in times.items()}
            rows += [
                {
                    "Network": name,
                    "Crops": batch,
                    "Pixels": FIXED_SIZES.get(name, size),
                    "ms a crop": round(1000 * median / batch, 2),
                    "of torchvision resnet34": round(median / medians["torchvision resnet34"], 2),
                }
                for name, median in medians.items()
            ]
    return rows
