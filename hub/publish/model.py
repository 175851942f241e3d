"""The model repository: export a trained classifier, report its figures, stage its files."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME

from hub.data.columns import RENAMED
from hub.evaluation.format import labs_table, markdown_table, markdown_table_1, ood_tables
from hub.evaluation.intervals import wilson_interval
from hub.evaluation.plots import plot_confusion_matrix, plot_reliability
from hub.files import UserError, write_json
from hub.publish.export_onnx import EXAMPLES, export_published
from hub.publish.model_card import ONNX_NAME, PLOTS, CardFacts, write_card
from hub.publish.versions import CHANGELOG_NAME
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor

RESULTS_NAME = "results.json"
# The predictions of the test split, by which a later version is compared with this one.
PREDICTIONS_NAME = "predictions.csv"
_DATA_SETS = {"bccd": "BCCD", "pbc": "PBC"}  # which have a test split
_TRAINED_ON = _DATA_SETS | {"chula": "Chula"}
# Figures of the Trainer that depend on the machine.
_SPEEDS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


def export(source: str | os.PathLike, folder: Path) -> Path:
    """Write a classifier for publication: float16 weights, configuration, image processor and code.

    The configuration says float32, so the weights load in that precision unless another one is asked for.

    Args:
        source: A classifier, by folder or id on the Hub.
        folder: The folder to write, over what is there.

    Returns:
        `folder`.

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
    return folder


def report(
    folder: Path,
    evaluation: Path,
    ood: Path,
    training: Sequence[Path],
    labs: Path | None = None,
    exported: Path | None = None,
) -> dict:
    """Write `results.json`, predictions, plots and card beside an exported classifier.

    Args:
        folder: The folder of the exported classifier.
        evaluation: The output folder of `train.py --do_eval`, with results and predictions.
        ood: The output folder of `python -m hub ood`.
        training: The output folders of `train.py` and of `python -m hub model average`, in order.
        labs: The output folder of `python -m hub labs`, whose table the card shows.
        exported: The output folder of `train.py --do_eval` with the weights that were exported, before the rounding to
            float16. Default: the last of `training`.

    Returns:
        The content of `results.json`.

    Raises:
        OSError: A file is missing.
    """
    splits = {
        path.name.removesuffix("_results.json"): {
            key: value for key, value in _read_json(path).items() if key not in _SPEEDS
        }
        for path in sorted(evaluation.glob("*_results.json"))
    }
    predictions, before = (_read_predictions(run) for run in (evaluation, exported or training[-1]))
    moved = sum(answer != same for answer, same in zip(predictions["prediction"], before["prediction"], strict=True))
    stages = [_read_json(stage / "train_results.json") for stage in training]
    config = WBCConfig.from_pretrained(folder)
    results = {
        "training": [{key: stage[key] for key in ("command", "base_model", "recipe")} for stage in stages],
        "evaluation": f"accelerate launch train.py --do_eval --model_name_or_path {folder} "
        f"--dataset_name {stages[-1]['dataset']} --output_dir {evaluation}",
        "temperature": config.temperature,
        "max_novelty": config.max_novelty,
        "max_smear_novelty": config.max_smear_novelty,
        "min_focus": config.min_focus,
        "splits": splits,
        "moved_by_float16": wilson_interval(moved, len(predictions)),
        **_read_ood(ood),
        **({} if labs is None else {"labs": _read_json(labs / RESULTS_NAME)["labs"]}),
        "software": {"python": platform.python_version(), "torch": torch.__version__}
        | {"transformers": transformers.__version__, "numpy": np.__version__},
        "commit": _commit(),
    }
    write_json(folder / RESULTS_NAME, results)
    shutil.copy(evaluation / "test_predictions.csv", folder / PREDICTIONS_NAME)
    _draw_plots(folder, splits["test"], predictions)
    write_results_card(folder, results)
    return results


def read_results(path: Path) -> dict:
    """Read the results of `report` or `python -m hub ood`, also of files written when "ood" was called "foreign"."""
    return {"ood" if key == "foreign" else key: value for key, value in _read_json(path).items()}


def _read_ood(folder: Path) -> dict:
    """Read the results of `python -m hub ood`, also under the former name of the file."""
    former = folder / "foreign_results.json"
    return read_results(former if former.is_file() else folder / "ood_results.json")


def _draw_plots(folder: Path, test: dict, predictions: pd.DataFrame) -> None:
    """Draw the confusion matrix of each data set, and the reliability diagram of all."""
    names, parts, reliability = test["label_names"], test["subsets"], {}
    if "lab" not in predictions:  # Predictions of an earlier version.
        predictions = predictions.rename(columns=RENAMED)
    for key, title in _DATA_SETS.items():
        plot_confusion_matrix(parts[key], names, folder / f"confusion_matrix_{key}.png", f"{title}, test")
        answers = predictions[predictions["lab"] == key]
        right = answers["prediction"] == answers["label"]
        reliability[f"{title}, test"] = answers[names].max(axis=1).to_numpy(), right.to_numpy()
    plot_reliability(reliability, folder / "reliability.png")


def write_results_card(folder: Path, results: dict, **options) -> Path:
    """Write the card of a classifier on BCCD, PBC and perhaps Chula from the content of its `results.json`.

    Args:
        folder: The folder of the classifier, with its plots.
        results: What `report` or `read_results` returned.
        **options: Further fields of [`CardFacts`], of where the model is published.

    Returns:
        The path of the card.
    """
    test, stages = results["splits"]["test"], results["training"]
    validated = results["splits"].get("validation", test)["subsets"]
    trained_on = [title for key, title in _TRAINED_ON.items() if key in validated]
    parts, sections = {}, []
    for key, title in _DATA_SETS.items():
        # BCCD over the four classes that occur in it, as in the paper's table 1.
        part = test["subsets"].get(f"{key}_4_classes", test["subsets"][key])
        parts[key] = (title, part)
        table = markdown_table_1(part, part["label_names"], paper=key == "bccd")
        sections.append((f"{title}, {part['num_images']:,} test images", table))
    if "labs" in results:
        sections.append(("Labs, on the cells that the model finds", markdown_table(labs_table(results))))
    sections.append(("Images without a white cell", "\n\n".join(map(markdown_table, ood_tables(results)))))
    facts = CardFacts(
        results=test,
        label_names=test["label_names"],
        dataset_name=" and ".join(filter(None, (", ".join(trained_on[:-1]), trained_on[-1]))),
        split="test",
        base_model=stages[0]["base_model"],
        command="\n".join([*(stage["command"] for stage in stages), results["evaluation"]]),
        recipe=stages[-1]["recipe"],
        bccd=True,
        labs=len(trained_on),
        parts=parts,
        sections=sections,
        **options,
    )
    return write_card(folder, facts)


def stage(checkpoint: Path, folder: Path, repo_id: str, dataset_id: str) -> None:
    """Write the model's repository: the files of `export` and `report`, an ONNX model, and a card with the ids.

    Args:
        checkpoint: The folder of the exported classifier, with its report.
        folder: An empty folder.
        repo_id: The id of the model on the Hub.
        dataset_id: The id of the dataset that it was trained and measured on.

    Raises:
        UserError: A file is missing, configuration and weights disagree, or ONNX gives other logits.
    """
    needed = (CONFIG_NAME, SAFE_WEIGHTS_NAME, IMAGE_PROCESSOR_NAME, RESULTS_NAME)
    if missing := [name for name in needed if not (checkpoint / name).is_file()]:
        raise UserError(
            f"{checkpoint} has no {' and no '.join(missing)}: name a folder that `python -m hub model export` and "
            "`python -m hub model report` wrote"
        )
    check_weights(checkpoint)
    others = [path for name in (*PLOTS, PREDICTIONS_NAME, CHANGELOG_NAME) if (path := checkpoint / name).is_file()]
    for path in [*(checkpoint / name for name in needed), *_code(checkpoint), *others]:
        shutil.copy(path, folder)
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("*.png"))
    examples = sorted((folder / "examples").glob("*.jpg"))
    (folder / ONNX_NAME).parent.mkdir()
    export_published(checkpoint, folder / ONNX_NAME)
    write_results_card(
        folder,
        read_results(checkpoint / RESULTS_NAME),
        model_id=repo_id,
        dataset_id=dataset_id,
        examples=[path.relative_to(folder).as_posix() for path in examples],
    )


def _code(checkpoint: Path) -> set[Path]:
    """The Python files that configuration and image processor name, and those that these import."""
    processor = _read_json(checkpoint / IMAGE_PROCESSOR_NAME)
    modules = WBCConfig.from_pretrained(checkpoint).auto_map | processor.get("auto_map", {})
    named = {checkpoint / f"{reference.split('.')[0]}.py" for reference in modules.values()}
    return named | {Path(path) for source in named for path in get_relative_import_files(source)}


def check_weights(folder: Path) -> None:
    """Raise `UserError` unless the weights in a folder have the names and shapes that its configuration describes."""
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


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_predictions(run: Path) -> pd.DataFrame:
    """Read the predictions of a run on the test split; every value but a probability is text."""
    return pd.read_csv(run / "test_predictions.csv", keep_default_na=False)


def _commit() -> str | None:
    """The commit of this code, with a + where files differ from it; None outside of a clone."""
    here = Path(__file__).parent
    try:
        commit, changed = (
            subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "--", "*.py"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed)
