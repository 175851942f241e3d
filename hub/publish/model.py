"""The model repository: weights ready to publish, what they are worth, their card, and all of it staged."""

import csv
import json
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME

from hub.evaluation.format import markdown_table, markdown_table_1, ood_tables
from hub.evaluation.intervals import wilson_interval
from hub.evaluation.plots import plot_confusion_matrix, plot_reliability
from hub.files import UserError
from hub.publish.model_card import ONNX_NAME, PLOTS, write_card
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor

_DATA_SETS = {"bccd": "BCCD", "pbc": "PBC"}
_EXAMPLES = Path(__file__).parents[2] / "examples"
# Of float32, where the order of a sum differs.
ONNX_TOLERANCE = 1e-4
# Of what the Trainer measures, what another machine does not reproduce.
_SPEEDS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def export(source: str, folder: Path) -> None:
    """Write a classifier to a folder as it is published: float16 weights, configuration, image processor and code.

    The configuration says float32, so that the weights load as that unless asked otherwise.

    Raises:
        UserError: A weight is beyond the range of float16.
        OSError: The classifier cannot be loaded.
    """
    model = WBCForImageClassification.from_pretrained(source, dtype=torch.float32)
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    if beyond := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise UserError(f"{source} has weights beyond the range of float16, or not finite: {', '.join(beyond)}")
    folder.mkdir(parents=True, exist_ok=True)
    WBCImageProcessor.from_pretrained(source).save_pretrained(folder)
    model.save_pretrained(folder, state_dict=weights)


def report(folder: Path, evaluation: Path, foreign: Path, training: Sequence[Path]) -> None:
    """Write what an exported classifier is worth beside it: `results.json`, plots and card.

    Args:
        folder: The exported classifier's.
        evaluation: Where `train.py --do_eval` wrote its results and predictions.
        foreign: Where `python -m hub foreign` wrote its results.
        training: Where `train.py` wrote the weights, stage by stage; the last ones were exported.

    Raises:
        OSError: A file is missing.
    """
    splits = {
        path.name.removesuffix("_results.json"): {
            key: value for key, value in json.loads(path.read_text()).items() if key not in _SPEEDS
        }
        for path in sorted(evaluation.glob("*_results.json"))
    }
    predictions = _read_rows(evaluation / "test_predictions.csv")
    before = _read_rows(training[-1] / "test_predictions.csv")
    moved = sum(row["prediction"] != same["prediction"] for row, same in zip(predictions, before, strict=True))
    stages = [json.loads((stage / "train_results.json").read_text()) for stage in training]
    config = WBCConfig.from_pretrained(folder)
    results = {
        "training": [{key: stage[key] for key in ("command", "base_model", "recipe")} for stage in stages],
        "evaluation": f"accelerate launch train.py --do_eval --model_name_or_path {folder} "
        f"--dataset_name {stages[-1]['dataset']} --output_dir {evaluation}",
        "temperature": config.temperature,
        "max_novelty": config.max_novelty,
        "splits": splits,
        "moved_by_float16": wilson_interval(moved, len(predictions)),
        **json.loads((foreign / "foreign_results.json").read_text()),
        "software": {"python": platform.python_version(), "torch": torch.__version__}
        | {"transformers": transformers.__version__, "numpy": np.__version__},
        "commit": _commit(),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")

    test = splits["test"]
    names, parts = test["label_names"], test["subsets"]
    reliability = {}
    for key, title in _DATA_SETS.items():
        plot_confusion_matrix(parts[key], names, folder / f"confusion_matrix_{key}.png", f"{title}, test")
        answers = [row for row in predictions if row["dataset"] == key]
        confidence = np.array([max(float(row[name]) for name in names) for row in answers])
        reliability[f"{title}, test"] = confidence, np.array([row["prediction"] == row["label"] for row in answers])
    plot_reliability(reliability, folder / "reliability.png")
    write_results_card(folder, results)


def write_results_card(folder: Path, results: dict, **options) -> None:
    """Write the card of what `report` found, `results`, beside it; `options` are those of `write_card`."""
    test, stages = results["splits"]["test"], results["training"]
    parts, sections = {}, []
    for key, title in _DATA_SETS.items():
        # BCCD over the four classes that it has: the paper's table.
        part = test["subsets"].get(f"{key}_4_classes", test["subsets"][key])
        parts[key] = (title, part)
        table = markdown_table_1(part, part["label_names"], paper=key == "bccd")
        sections.append((f"{title}, {part['num_images']:,} test images", table))
    sections.append(("Images without a white cell", "\n\n".join(map(markdown_table, ood_tables(results)))))
    write_card(
        folder,
        results=test,
        label_names=test["label_names"],
        dataset_name=" and ".join(_DATA_SETS.values()),
        split="test",
        base_model=stages[0]["base_model"],
        command="\n".join([*(stage["command"] for stage in stages), results["evaluation"]]),
        recipe=stages[-1]["recipe"],
        bccd=True,
        several=True,
        parts=parts,
        sections=sections,
        **options,
    )


def stage(checkpoint: Path, folder: Path, repo_id: str, dataset_id: str) -> None:
    """Write the model's repository: what `export` and `report` left, weights for ONNX, and the card of its id.

    Args:
        checkpoint: The exported classifier's folder, with its report.
        folder: An empty folder.
        repo_id: The id it is to have on the Hub.
        dataset_id: The id of the dataset that it was trained and measured on.

    Raises:
        UserError: A file is missing, configuration and weights disagree, or ONNX gives other logits.
    """
    needed = (CONFIG_NAME, SAFE_WEIGHTS_NAME, IMAGE_PROCESSOR_NAME, "results.json")
    if missing := [name for name in needed if not (checkpoint / name).is_file()]:
        raise UserError(
            f"{checkpoint} has no {' and no '.join(missing)}: name a folder that `python -m hub model export` and "
            "`python -m hub model report` wrote"
        )
    check_weights(checkpoint)
    processor = json.loads((checkpoint / IMAGE_PROCESSOR_NAME).read_text(encoding="utf-8"))
    modules = WBCConfig.from_pretrained(checkpoint).auto_map | processor.get("auto_map", {})
    code = {checkpoint / f"{reference.split('.')[0]}.py" for reference in modules.values()}
    code |= {Path(path) for source in code for path in get_relative_import_files(source)}
    for path in [*(checkpoint / name for name in needed), *code, *(checkpoint / name for name in PLOTS)]:
        if path.is_file() or path.name not in PLOTS:
            shutil.copy(path, folder)
    (folder / "examples").mkdir()
    examples = [Path(shutil.copy(path, folder / "examples")) for path in sorted(_EXAMPLES.glob("*.jpg"))]
    (folder / ONNX_NAME).parent.mkdir()
    export_onnx(checkpoint, folder / ONNX_NAME)
    write_results_card(
        folder,
        json.loads((checkpoint / "results.json").read_text(encoding="utf-8")),
        model_id=repo_id,
        dataset_id=dataset_id,
        examples=[path.relative_to(folder).as_posix() for path in examples],
    )


def check_weights(folder: Path) -> None:
    """Raise `UserError` unless the weights in a folder are those that its configuration describes."""
    path = folder / SAFE_WEIGHTS_NAME
    with torch.device("meta"):
        expected = {
            name: tuple(tensor.shape)
            for name, tensor in WBCForImageClassification(WBCConfig.from_pretrained(folder)).state_dict().items()
        }
    try:
        with safe_open(path, framework="pt") as weights:
            found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): export the classifier again") from error
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path} does not fit {folder / CONFIG_NAME}: {name} has the shape {found.get(name)} in the weights, "
                f"and {expected.get(name)} by the configuration"
            )


class _OnnxOutputs(nn.Module):
    """The classifier with a tuple of what ONNX is to give."""

    names = ("logits", "distance", "novelty", "embeddings")

    def __init__(self, model: WBCForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixel_values)
        return tuple(outputs[name] for name in self.names)


def export_onnx(source: str | Path, path: Path) -> None:
    """Write a classifier's float32 ONNX, with `pixel_values` (N, 3, S, S) in and four outputs, for any N.

    The outputs are `logits`, `distance`, `novelty` and `embeddings` of [`WBCImageClassifierOutput`]. It is checked
    against PyTorch on the drawn examples.

    Raises:
        UserError: A logit differs by more than `ONNX_TOLERANCE`.
    """
    import onnx
    import onnxruntime

    model = _OnnxOutputs(WBCForImageClassification.from_pretrained(source, dtype=torch.float32)).eval()
    pictures = [Image.open(path) for path in sorted(_EXAMPLES.glob("*.jpg"))]
    images = WBCImageProcessor.from_pretrained(source)(pictures, return_tensors="pt")["pixel_values"]
    program = torch.onnx.export(
        model,
        (images,),
        dynamo=True,
        verbose=False,
        opset_version=18,
        input_names=["pixel_values"],
        output_names=list(model.names),
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch_size")}},
    )
    exported = program.model_proto
    # Where on this machine the code lies is nobody's business.
    for part in (exported, exported.graph, *exported.graph.node, *exported.graph.input, *exported.graph.output):
        part.ClearField("metadata_props")
    onnx.save(exported, path)
    session = onnxruntime.InferenceSession(path)
    logits, *_ = session.run(None, {"pixel_values": images.numpy()})
    with torch.no_grad():
        expected, *_ = model(images)
    if (difference := np.abs(logits - expected.numpy()).max()) > ONNX_TOLERANCE:
        raise UserError(f"the logits of {path} differ from PyTorch's by {difference:.2g}")


def _read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _commit() -> str | None:
    """The commit that this code is at, with a + where files differ from it; None outside of a clone."""
    here = Path(__file__).parent
    try:
        commit, changed = (
            subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "--", "*.py"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed)
