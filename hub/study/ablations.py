"""The value of each idea of Ma et al. 2020: the baselines of their Table 2, ablations, and transfer to another lab.

`python -m hub ablations` trains the missing rows by `train.py`, measures the costs of the networks, and writes the
tables and plots. The rows stand in `ablation_rows.py`.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, DatasetDict, concatenate_datasets
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hub.data.bccd import BCCD_CLASSES
from hub.data.load import load
from hub.evaluation.plots import plot_embeddings, plot_runs
from hub.files import UserError, write_json, writing
from hub.study.ablation_report import report
from hub.study.ablation_results import collect, read_json
from hub.study.ablation_rows import LABS, PAPER, ROWS, Row, Run, finished_runs, run_folder, runs_of, selected
from hub.study.costs import BATCH_SIZE, machine, measure_costs
from hub.training.images import foremost_cell
from modeling_wbc import WBCImageProcessor
from modeling_wbc.reading_wbc import read_image

_ROOT = Path(__file__).parents[2]
# The first stage of the shipped checkpoint had these batches and this learning rate. Its additions to the paper (stain
# jitter, label smoothing) are left out.
RECIPE = (
    *("--find_cell", "--do_train", "--do_eval", "--eval_strategy", "epoch", "--bf16"),
    *("--per_device_train_batch_size", str(BATCH_SIZE), "--learning_rate", "0.08", "--lr_scheduler_type", "cosine"),
    *("--warmup_steps", "0.1", "--weight_decay", "5e-4", "--report_to", "none", "--disable_tqdm", "True"),
)
FULL_EPOCHS = 10
# The rows whose learning curves and embeddings are drawn.
_CURVES = ("bn-ce", "bn-hard", "ibn-ce", "ibn-hard")
_EMBEDDED = {"Cross entropy": "ibn-ce", "Cross entropy + hard-mined centre loss": PAPER}


def run(
    output: Path,
    dataset: Path,
    rows: Sequence[str] | None = None,
    budget: tuple[int, int] | None = None,
    imagenet: bool = False,
    report_only: bool = False,
) -> str:
    """Train the missing rows, measure the costs of the networks, and report.

    Args:
        output: The folder of the rows and the report.
        dataset: The two labs, by `python -m hub dataset build blood8`.
        rows: Only these, by name or table; `*` stands for anything. Default: all.
        budget: Epochs and pixels of all rows. Default: 10 epochs at the size that each network was made for.
        imagenet: Whether to start the baselines from ImageNet weights, and to add rows that do.
        report_only: Whether to train nothing and only report the finished rows.

    Returns:
        The tables, as Markdown.

    Raises:
        UserError: No row is selected, a folder holds rows of another budget or none, or rows failed.
        OSError: A file cannot be read or written.
    """
    failed = []
    if not report_only:
        chosen = selected(rows, imagenet)
        plan = _agree_on_plan(output, budget, imagenet)
        failed = _train_missing(chosen, output, dataset, plan)
        _measure_missing_costs(output, plan)
    tables = write_report(output)
    if failed:
        raise UserError(f"{len(failed)} runs failed, see their logs: {', '.join(map(str, failed))}")
    return tables


# --- Training ---


def _agree_on_plan(output: Path, budget: tuple[int, int] | None, imagenet: bool) -> dict:
    """Write the plan to `plan.json`, or check that the one there is the same."""
    settings = {"epochs": budget[0], "image_size": budget[1]} if budget else {"epochs": FULL_EPOCHS}
    plan = {"budget": settings, "imagenet": imagenet}
    path = output / "plan.json"
    if not path.is_file():
        write_json(path, plan)
    elif read_json(path) != plan:
        raise UserError(f"{path} holds another budget: name the same --budget and --imagenet, or another --output")
    return plan


def _train_missing(rows: Sequence[Row], output: Path, dataset: Path, plan: dict) -> list[Path]:
    """Train the missing runs, and return the logs of those that failed."""
    data = output / "data"
    if not data.exists():
        with writing(data) as folder:
            with_foremost_cells(shared_types(load(dataset))).save_to_disk(folder)
    runs, failed = runs_of(rows), []
    for number, one in enumerate(runs, 1):
        folder = run_folder(output, one.row.name, one.lab, one.seed)
        if (folder / "run.json").is_file():
            continue
        print(f"[{number}/{len(runs)}] {one.row.name}, {LABS[one.lab]}, seed {one.seed}", flush=True)
        if (log := _train(_arguments(one, output, plan), folder)) is not None:
            failed.append(log)
            print(f"failed: {log}", flush=True)
    return failed


def _arguments(one: Run, output: Path, plan: dict) -> list[str]:
    """The arguments of `train.py` for a run, without those that say where it writes."""
    row, lab, seed = one
    arguments = ["--dataset_name", output / "data", "--train_on", lab, *RECIPE, *row.arguments, "--seed", seed]
    arguments += ["--num_train_epochs", plan["budget"]["epochs"], "--save_total_limit", 1]
    if "image_size" in plan["budget"]:
        arguments += ["--image_size", plan["budget"]["image_size"]]
    # train.py starts from ImageNet weights unless it is given others or `none`.
    from_imagenet = row.start == "imagenet" or (plan["imagenet"] and row.table == "baselines")
    if not from_imagenet:
        start = run_folder(output, row.start, "pbc", 1) if row.starts_from_row else "none"
        arguments += ["--model_name_or_path", start]
    return [*map(str, arguments)]


def _train(arguments: list[str], folder: Path) -> Path | None:
    """Train one run in a process of its own; return its log if it failed."""
    command = [sys.executable, "-m", "accelerate.commands.launch", str(_ROOT / "train.py"), *arguments]
    command += ["--output_dir", str(folder), "--resume_from_checkpoint"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    log, began = folder.with_name(folder.name + ".log"), time.perf_counter()
    with open(log, "ab") as file:
        done = subprocess.run(command, cwd=_ROOT, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        return log
    for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        shutil.rmtree(checkpoint)
    seconds = round(time.perf_counter() - began)
    write_json(folder / "run.json", {"arguments": arguments, "seconds": seconds, **machine()})
    return None


def shared_types(dataset: DatasetDict) -> DatasetDict:
    """Keep the images of the four types that BCCD and PBC share, with these four as the only classes.

    Raises:
        UserError: The data set does not hold both labs.
    """
    names = dataset["train"].features["label"].names
    if "lab" not in dataset["train"].column_names or not set(BCCD_CLASSES) <= set(names):
        raise UserError("the tables need both labs: build the data set with `python -m hub dataset build blood8`")
    new_id = {names.index(name): index for index, name in enumerate(BCCD_CLASSES)}
    cut = {}
    for split in ("train", "validation", "test_photographs", "test_simple", "test"):
        labels = dataset[split]["label"][:]
        rows = [row for row, label in enumerate(labels) if label in new_id]
        cut[split] = (
            dataset[split]
            .select(rows)
            .remove_columns("label")
            .add_column("label", [new_id[labels[row]] for row in rows], feature=ClassLabel(names=[*BCCD_CLASSES]))
        )
    return DatasetDict(cut)


def with_foremost_cells(dataset: DatasetDict) -> DatasetDict:
    """Add the column `foremost_cell`, so that the detector runs once and not in every row."""
    image_processor = WBCImageProcessor()

    def find(row: dict) -> dict:
        return {"foremost_cell": foremost_cell(image_processor, read_image(row["image"])).tolist()}

    return DatasetDict(
        {
            split: concatenate_datasets(
                [images, images.select_columns("image").map(find, remove_columns="image")], axis=1
            )
            for split, images in dataset.items()
        }
    )


def _measure_missing_costs(output: Path, plan: dict) -> None:
    """Write `costs.json` if a network of a finished row is missing in it."""
    path = output / "costs.json"
    networks = {row.network for row in ROWS if finished_runs(output, row, "bccd")}
    measured = read_json(path)["networks"].keys() if path.is_file() else set()
    if networks - measured:
        # All networks again: only figures that were measured one after the other can be compared.
        write_json(path, measure_costs(networks | measured, plan["budget"].get("image_size")))


# --- Reporting ---


def write_report(output: Path) -> str:
    """Write `results.json`, `tables.md`, `learning_curves.png` and `embeddings.png` of the finished rows.

    Returns:
        The tables, as Markdown.

    Raises:
        UserError: `output` is not the folder of a study.
    """
    results = collect(output)
    write_json(output / "results.json", results)
    tables = "\n\n".join(f"{caption}\n\n{table}" for caption, table in report(results))
    (output / "tables.md").write_text(tables + "\n", encoding="utf-8")
    histories = {
        ", ".join(row.columns[:2]): [read_json(folder / "trainer_state.json")["log_history"] for folder in folders]
        for row in ROWS
        if row.name in _CURVES and (folders := finished_runs(output, row, "bccd").values())
    }
    if histories:
        plot_runs(histories, output / "learning_curves.png")
    embedded = {
        title: embed(folder, output / "data")
        for title, name in _EMBEDDED.items()
        if ((folder := run_folder(output, name, "bccd", 1)) / "model.safetensors").is_file()
    }
    if embedded:
        plot_embeddings(embedded, BCCD_CLASSES, output / "embeddings.png")
    return tables


@torch.no_grad()
def embed(folder: Path, data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embed BCCD's TEST with a trained model.

    Returns:
        The embeddings, float32 (N, D), the class ids, int (N,), and the class centres, float32 (K, D).
    """
    dataset = load(data)["test"]
    dataset = dataset.select([row for row, name in enumerate(dataset["lab"][:]) if name == "bccd"])
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    embeddings = [
        model(**processor(batch["image"], return_tensors="pt")).embeddings
        for batch in dataset.select_columns("image").iter(BATCH_SIZE)
    ]
    centers = model.center_loss.centers
    return torch.cat(embeddings).numpy(), np.array(dataset["label"][:]), centers.numpy()
