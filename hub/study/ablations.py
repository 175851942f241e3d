"""What each idea of Ma et al. 2020 is worth: the rivals of their Table 2, ablations, and the way to another lab.

`python -m hub tables` trains what is missing, each row by `train.py`, and writes the tables and plots. A row is one
set of arguments; it is trained once or more, by seed, on BCCD, and where the way to another lab is asked for, on PBC.
All rows see the same images of the four types that both labs have, the same recipe and the same budget.
"""

import fnmatch
import functools
import itertools
import json
import math
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import ClassLabel, DatasetDict, concatenate_datasets
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hub.data.bccd import BCCD_CLASSES
from hub.data.load import load
from hub.evaluation.compare import Predictions, compare_predictions, read_predictions
from hub.evaluation.format import markdown_table
from hub.evaluation.intervals import bootstrap_intervals
from hub.evaluation.metrics import expected_calibration_error
from hub.evaluation.plots import plot_embeddings, plot_runs
from hub.files import UserError, writing
from hub.study.baselines import BASELINES, load_baseline
from hub.training.images import foremost_cell
from hub.training.memory import keep_freed_memory
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor
from modeling_wbc.configuration_wbc import NORM_LAYOUTS

ROOT = Path(__file__).parents[2]
LABS = {"bccd": "BCCD", "pbc": "PBC"}
# Batches of 64 and a peak of 0.08: what the first stage of the shipped checkpoint was trained with, without what the
# paper does not have (stain jitter, label smoothing).
RECIPE = (
    *("--find_cell", "--do_train", "--do_eval", "--eval_strategy", "epoch", "--bf16"),
    *("--per_device_train_batch_size", "64", "--learning_rate", "0.08", "--lr_scheduler_type", "cosine"),
    *("--warmup_steps", "0.1", "--weight_decay", "5e-4", "--report_to", "none", "--disable_tqdm", "True"),
)
BATCH_SIZE = 64
FULL_EPOCHS = 10
CENTER_LOSS_WEIGHT = 0.0001


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: What `--rows` selects it by, and its folder is called.
        table: `rivals`, `ablations` or `search`, of which the last is told on validation alone.
        cells: Its first cells.
        arguments: Those of `train.py` that make it different.
        seeds: How many times it is trained, at least.
        labs: The data sets that it is trained on, each by itself.
        start: Where the weights start: `random`, `imagenet`, or another row, of its first seed on PBC.
    """

    name: str
    table: str
    cells: tuple[str, ...]
    arguments: tuple[str, ...]
    seeds: int = 1
    labs: tuple[str, ...] = ("bccd",)
    start: str = "random"

    @property
    def network(self) -> str:
        """One of `BASELINES`, or the norm layout of the paper's network."""
        named = dict(itertools.pairwise(self.arguments))
        return named.get("--architecture") or named.get("--norm_layout") or "ibn"

    @property
    def starts_from_row(self) -> bool:
        """Whether it starts from another row, and so from images of PBC."""
        return self.start not in ("random", "imagenet")


_LOSSES = {
    "ce": ("cross entropy", ("--center_loss_weight", "0")),
    "center": ("+ centre", ("--center_loss_weight", str(CENTER_LOSS_WEIGHT), "--mining", "none")),
    "hard": ("+ hard-mined centre", ("--center_loss_weight", str(CENTER_LOSS_WEIGHT))),
    "hard-class": (
        "+ hard-mined centre, by class",
        ("--center_loss_weight", str(CENTER_LOSS_WEIGHT), "--mining", "class"),
    ),
}


def _ablation(norm: str, loss: str = "hard", augment: str = "paper", start: str = "random", **options) -> Row:
    title, arguments = _LOSSES[loss]
    augments = {"none": "none", "paper": "the paper's", "strong": "the paper's, stain varied"}
    starts = {"random": "random", "imagenet": "ImageNet"}
    name = f"{norm}-{loss}" + (f"-{augment}" if augment != "paper" else "")
    return Row(
        name + {"random": "", "imagenet": "-from-imagenet"}.get(start, "-from-pbc"),
        "ablations",
        (norm, title, starts.get(start, "PBC's cells"), augments[augment]),
        ("--norm_layout", norm, *arguments, "--augment", augment),
        labs=("bccd", "pbc") if start == "random" else ("bccd",),
        start=start,
        **options,
    )


REFERENCE = "bn-ce"
PAPERS = "ibn-hard"
_FIELDS = "ibn-hard-field"
# The rows that the others of their table are compared with.
_REFERENCES = {"ablations": REFERENCE, "rivals": "ibn-resnet34"}
_CURVES = (REFERENCE, "bn-hard", "ibn-ce", PAPERS)
ROWS = (
    *(_ablation(norm, loss, seeds=3) for norm in ("bn", "ibn") for loss in ("ce", "hard")),
    *(_ablation(norm) for norm in ("ibn-a", "ibn-b", "ibn-in")),
    *(_ablation("ibn", loss) for loss in ("center", "hard-class")),
    _ablation("ibn", augment="none"),
    _ablation("ibn", augment="strong", seeds=3),
    Row(
        _FIELDS,
        "ablations",
        ("ibn", _LOSSES["hard"][0], "random", "the paper's, of whole fields"),
        ("--norm_layout", "ibn", *_LOSSES["hard"][1], "--augment", "paper", "--find_cell", "False"),
        labs=("bccd", "pbc"),
    ),
    *(_ablation("ibn", start=start, seeds=3) for start in (PAPERS, "imagenet")),
    *(
        Row(
            f"search-{name}-{value}",
            "search",
            (str(weight), str(margin)),
            ("--norm_layout", "ibn", "--center_loss_weight", str(weight), "--center_loss_margin", str(margin)),
        )
        for name, value, weight, margin in (
            ("lambda", 0.001, 0.001, 1.0),
            ("lambda", 0.01, 0.01, 1.0),
            ("margin", 0.1, CENTER_LOSS_WEIGHT, 0.1),
            ("margin", 10.0, CENTER_LOSS_WEIGHT, 10.0),
        )
    ),
    *(
        Row(name, "rivals", (title, str(paper)), arguments)
        for name, title, paper, arguments in (
            ("inception_v3", "Inception v3", 84, ("--architecture", "inception_v3")),
            ("resnet50", "ResNet50", 87, ("--architecture", "resnet50")),
            ("inception_v3-lstm", "Inception v3 and LSTM", 87, ("--architecture", "inception_v3-lstm")),
            ("resnet50-lstm", "ResNet50 and LSTM", 89, ("--architecture", "resnet50-lstm")),
            ("xception-lstm", "Xception and LSTM", 90, ("--architecture", "xception-lstm")),
            ("ibn-resnet34", "IBN-ResNet34, the paper's", 92, ("--center_loss_weight", str(CENTER_LOSS_WEIGHT))),
        )
    ),
)
# What the rows say about each idea: those with it, and those without it that are alike in everything else.
IDEAS = (
    ("IBN in place of BN", ("ibn-ce", PAPERS), (REFERENCE, "bn-hard")),
    ("hard-mined centre loss beside cross entropy", ("bn-hard", PAPERS), (REFERENCE, "ibn-ce")),
    ("mining in place of the plain centre loss", (PAPERS,), ("ibn-center",)),
    ("a start from PBC's cells", ("ibn-hard-from-pbc",), (PAPERS,)),
    ("a start from ImageNet", ("ibn-hard-from-imagenet",), (PAPERS,)),
    ("the paper's augmentation", (PAPERS,), ("ibn-hard-none",)),
    ("varied stain beside it", ("ibn-hard-strong",), (PAPERS,)),
    ("windows in place of whole fields", (PAPERS,), (_FIELDS,)),
)


# --- Running ---


def run(
    output: Path,
    dataset: Path,
    rows: Sequence[str] | None = None,
    budget: tuple[int, int] | None = None,
    imagenet: bool = False,
    report_only: bool = False,
) -> str:
    """Train the rows that are missing, measure what the networks cost, and report.

    Args:
        output: The folder of the rows and the report.
        dataset: The two labs, by `python -m hub dataset build blood8`.
        rows: Only these, by name or table; `*` stands for anything. Default: all.
        budget: Epochs and pixels, of all rows alike. Default: 10 epochs at the size that each network was made for.
        imagenet: Whether to start the baselines from ImageNet weights, and to add rows that do.
        report_only: Whether to train nothing, and only report what is there.

    Returns:
        The tables, as Markdown.

    Raises:
        UserError: No row is selected, a folder holds rows of another budget, or rows failed.
    """
    failed = [] if report_only else _train(output, dataset, rows, budget, imagenet)
    tables = write_report(output)
    if failed:
        raise UserError(f"{len(failed)} runs failed, see their logs: {', '.join(map(str, failed))}")
    return tables


def _train(
    output: Path, dataset: Path, patterns: Sequence[str] | None, size: tuple[int, int] | None, imagenet: bool
) -> list[Path]:
    """Train the selected rows and measure what the networks cost, as far as missing; return the logs of failures."""
    rows = selected(patterns, imagenet)
    budget = {"epochs": size[0], "image_size": size[1]} if size else {"epochs": FULL_EPOCHS}
    plan = {"budget": budget, "imagenet": imagenet}
    known, costs = output / "plan.json", output / "costs.json"
    output.mkdir(parents=True, exist_ok=True)
    if not known.is_file():
        _write_json(known, plan)
    elif json.loads(known.read_text(encoding="utf-8")) != plan:
        raise UserError(f"{known} tells of another budget: name the same, or another --output")
    failed = _train_missing(rows, output, dataset, plan)
    networks = {row.network for row in ROWS if _finished(output, row, "bccd")}
    measured = json.loads(costs.read_text(encoding="utf-8"))["networks"] if costs.is_file() else {}
    if networks - measured.keys():
        # All again: figures are compared that were measured one after the other.
        _write_json(costs, measure_costs(networks | measured.keys(), budget.get("image_size")))
    return failed


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def selected(patterns: Sequence[str] | None, imagenet: bool) -> list[Row]:
    """The rows whose name or table fits one of the patterns, all without patterns; those from ImageNet on demand."""
    rows = [row for row in ROWS if imagenet or row.start != "imagenet"]
    if patterns:
        rows = [row for row in rows if any(fnmatch.fnmatch(of, p) for p in patterns for of in (row.name, row.table))]
    if not rows:
        names = ", ".join(row.name for row in ROWS)
        raise UserError(f"no row is called {' or '.join(patterns)}; there are {names}")
    return rows


def runs_of(rows: Iterable[Row]) -> list[tuple[Row, str, int]]:
    """(row, lab, seed) of what is to be trained: what others start from first, then one seed after the other."""
    runs = [(row, lab, seed) for row in rows for lab in row.labs for seed in range(1, row.seeds + 1)]
    needed = {row.start for row in rows if row.starts_from_row}
    runs += [(row, "pbc", 1) for row in ROWS if row.name in needed and (row, "pbc", 1) not in runs]
    return sorted(runs, key=lambda run: (run[2], run[0].starts_from_row))


def run_folder(output: Path, name: str, lab: str, seed: int) -> Path:
    return output / "rows" / f"{name}-{lab}-{seed}"


def _train_missing(rows: Sequence[Row], output: Path, dataset: Path, plan: dict) -> list[Path]:
    """Train what is not there yet, and return the logs of what failed."""
    shared = output / "data"
    if not shared.exists():
        with writing(shared) as folder:
            with_foremost_cells(shared_types(load(dataset))).save_to_disk(folder)
    runs, failed = runs_of(rows), []
    for number, (row, lab, seed) in enumerate(runs, 1):
        folder = run_folder(output, row.name, lab, seed)
        if (folder / "run.json").is_file():
            continue
        print(f"[{number}/{len(runs)}] {row.name}, {LABS[lab]}, seed {seed}", flush=True)
        start = {"random": "none", "imagenet": None}.get(row.start, run_folder(output, row.start, "pbc", 1))
        arguments = ["--dataset_name", shared, "--train_on", lab, *RECIPE, *row.arguments, "--seed", seed]
        arguments += ["--num_train_epochs", plan["budget"]["epochs"], "--save_total_limit", 1]
        if "image_size" in plan["budget"]:
            arguments += ["--image_size", plan["budget"]["image_size"]]
        if start is not None and not (plan["imagenet"] and row.table == "rivals"):
            arguments += ["--model_name_or_path", start]
        command = [sys.executable, "-m", "accelerate.commands.launch", ROOT / "train.py", *arguments]
        command += ["--output_dir", folder, "--resume_from_checkpoint"]
        folder.parent.mkdir(parents=True, exist_ok=True)
        log, began = folder.with_name(folder.name + ".log"), time.perf_counter()
        with open(log, "ab") as file:
            done = subprocess.run([*map(str, command)], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        if done.returncode:
            failed.append(log)
            print(f"failed: {log}", flush=True)
            continue
        for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            shutil.rmtree(checkpoint)
        told = {"arguments": [*map(str, arguments)], "seconds": round(time.perf_counter() - began), **_machine()}
        _write_json(folder / "run.json", told)
    return failed


def shared_types(dataset: DatasetDict) -> DatasetDict:
    """BCCD and PBC cut to the four types that both have, under these four names alone."""
    names = dataset["train"].features["label"].names
    if "dataset" not in dataset["train"].column_names or not set(BCCD_CLASSES) <= set(names):
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
    """The images with the column `foremost_cell`, so that no row looks for the cells again."""
    image_processor = WBCImageProcessor()

    def find(row: dict) -> dict:
        return {"foremost_cell": foremost_cell(image_processor, row["image"].convert("RGB")).tolist()}

    return DatasetDict(
        {
            split: concatenate_datasets(
                [images, images.select_columns("image").map(find, remove_columns="image")], axis=1
            )
            for split, images in dataset.items()
        }
    )


def _machine() -> dict[str, str]:
    threads = torch.get_num_threads()
    cpu = f"{threads} CPU thread{'s' * (threads != 1)}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return {
        "device": device,
        "software": f"torch {torch.__version__}, transformers {transformers.__version__}, Python "
        f"{platform.python_version()}",
    }


# --- Costs ---


def measure_costs(networks: Iterable[str], image_size: int | None) -> dict:
    """What each network costs, one after the other in this process: `networks`, by name, and the machine.

    They are named as `Row.network` is. Of each: `parameters`; `gmacs`, 10^9 multiplications and additions for an
    image of `image_size` pixels, or of what the network was made for; `images_per_second` of training as the rows are
    trained, from data that lie ready; `latency_ms`, the median time of one image in float32.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    costs = {}
    for name in sorted(networks):
        if name in BASELINES:
            model = load_baseline(name, None, BCCD_CLASSES, image_size, do_train=True)
        else:
            model = WBCForImageClassification(WBCConfig(norm_layout=name, image_size=image_size or 224))
        costs[name] = _cost(model, device)
    return {"networks": costs, **_machine()}


def _cost(model: PreTrainedModel, device: torch.device) -> dict[str, float]:
    size = model.config.image_size
    model = model.to(device, memory_format=torch.channels_last).eval()
    image = torch.randn(1, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    images = image.repeat(BATCH_SIZE, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH_SIZE, device=device) % model.config.num_labels
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def classify():
        with torch.no_grad():
            model(pixel_values=image)

    def step():
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(pixel_values=images, labels=labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    gmacs, latency = _gmacs(model, image), _median_seconds(classify, 20, device)
    model.train()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": size,
        "gmacs": gmacs,
        "latency_ms": 1000 * latency,
        "images_per_second": BATCH_SIZE / _median_seconds(step, 5, device),
    }


def _gmacs(model: PreTrainedModel, image: torch.Tensor) -> float:
    macs = 0

    def count(lstm: nn.LSTM, inputs, outputs):  # which PyTorch's counter passes over
        nonlocal macs
        macs += inputs[0].shape[1] * 4 * lstm.hidden_size * (lstm.input_size + lstm.hidden_size)

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.LSTM)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixel_values=image)
    for hook in hooks:
        hook.remove()
    return (macs + counter.get_total_flops() / 2) / 1e9


def _median_seconds(act, times: int, device: torch.device) -> float:
    seconds = []
    for _ in range(times + 2):
        began = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])  # without the two that warm up


# --- Reporting ---


def write_report(output: Path) -> str:
    """Write `results.json`, `tables.md`, `learning_curves.png` and `embeddings.png` from the rows that are there."""
    results = collect(output)
    _write_json(output / "results.json", results)
    tables = "\n\n".join(f"{caption}\n\n{table}" for caption, table in report(results))
    (output / "tables.md").write_text(tables + "\n", encoding="utf-8")
    histories = {}
    for row in ROWS:
        folders = _finished(output, row, "bccd")
        if row.name in _CURVES and folders:
            histories[", ".join(row.cells[:2])] = [
                json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
                for folder in folders.values()
            ]
    if histories:
        plot_runs(histories, output / "learning_curves.png")
    embedded = {}
    for title, name in (("Cross entropy", "ibn-ce"), ("Cross entropy + hard-mined centre loss", PAPERS)):
        folder = run_folder(output, name, "bccd", 1)
        if (folder / "model.safetensors").is_file():
            embedded[title] = embed(folder, output / "data")
    if embedded:
        plot_embeddings(embedded, BCCD_CLASSES, output / "embeddings.png")
    return tables


def _finished(output: Path, row: Row, lab: str) -> dict[int, Path]:
    """The folders of a row's finished runs on a lab, by seed."""
    folders = {seed: run_folder(output, row.name, lab, seed) for seed in range(1, row.seeds + 1)}
    return {seed: folder for seed, folder in folders.items() if (folder / "run.json").is_file()}


# What a row is measured on: split, data set within it.
_PARTS = {
    "validation": ("validation", None),
    "test": ("test", "bccd"),
    "test_simple": ("test_simple", None),
    "pbc": ("test", "pbc"),
}
# Where ideas are compared: the lab that was trained on, what is measured.
_PLACES = {"test": ("bccd", "test"), "pbc": ("bccd", "pbc"), "back": ("pbc", "test")}


def collect(output: Path) -> dict:
    """Every figure of the rows that are there.

    Returns:
        `plan`, what was asked for; `costs` of `measure_costs`, if they were measured; `rows`: by name and lab
        `seeds`, `seconds` and `device` of the runs and, for each of `validation`, `test` (BCCD's), `test_simple` and
        `pbc` (PBC's test images), `accuracy` of each run, `mean`, its `interval`, `macro_f1`,
        `expected_calibration_error` and the `difference` to its table's row in `_REFERENCES`, from `low` to `high`;
        and `ideas`: by the title in `IDEAS` the runs `with` and `without` it and the difference on BCCD's `test` and,
        of a lab that neither saw, `pbc` and `back`, BCCD's test by what was trained on PBC. `seed_spread` is, by lab
        and figure, the standard deviation of the accuracy from one seed to the next, pooled over the rows of several
        runs.
    """
    results = {"plan": json.loads((output / "plan.json").read_text(encoding="utf-8")), "rows": {}, "ideas": {}}
    if (output / "costs.json").is_file():
        results["costs"] = json.loads((output / "costs.json").read_text(encoding="utf-8"))
    read = functools.cache(read_predictions)  # two figures are of parts of the same file
    runs = {
        (row.name, lab, name): [_part(read, folder, *part) for folder in _finished(output, row, lab).values()]
        for row in ROWS
        for lab in row.labs
        for name, part in _PARTS.items()
    }
    spread = {lab: {name: _seed_spread(runs, lab, name) for name in _PARTS} for lab in LABS}
    results["seed_spread"] = spread
    for row in ROWS:
        for lab in row.labs:
            folders = _finished(output, row, lab)
            if not folders:
                continue
            told = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in folders.values()]
            found = {
                "seeds": [*folders],
                "seconds": [one["seconds"] for one in told],
                "device": told[0]["device"],
                "software": told[0]["software"],
            }
            reference = _REFERENCES.get(row.table)
            for name in _PARTS:
                found[name] = _figures(runs[row.name, lab, name])
                if row.name != reference:
                    others = runs.get((reference, lab, name), ())
                    found[name] |= _difference(runs[row.name, lab, name], others, spread[lab][name])
            results["rows"].setdefault(row.name, {})[lab] = found
    for title, *sides in IDEAS:
        saw_both = any(row.starts_from_row for row in ROWS if row.name in sides[0])
        for where, (lab, name) in _PLACES.items():
            ours, others = ([run for row in side for run in runs.get((row, lab, name), ())] for side in sides)
            compared = _difference(ours, others, spread[lab][name])
            if compared and not (saw_both and where != "test"):
                idea = results["ideas"].setdefault(title, {"with": len(ours), "without": len(others)})
                idea[where] = compared
    return results


def _part(read: Callable[[Path], Predictions], folder: Path, split: str, dataset: str | None) -> Predictions:
    whole = read(folder / f"{split}_predictions.csv")
    if dataset is None:
        return whole
    rows = [row for row, name in enumerate(whole.datasets) if name == dataset]
    return Predictions(
        [whole.images[row] for row in rows],
        [dataset] * len(rows),
        whole.label_names,
        whole.references[rows],
        whole.predictions[rows],
        whole.probabilities[rows],
    )


def _joined(runs: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Predictions, references and photographs of all runs; an image without a photograph stands for itself."""
    return (
        np.concatenate([run.predictions for run in runs]),
        np.concatenate([run.references for run in runs]),
        [photograph or file for run in runs for file, photograph in run.images],
    )


def _seed_spread(runs: dict[tuple[str, str, str], list[Predictions]], lab: str, name: str) -> float | None:
    several = [found for (_, *where), found in runs.items() if where == [lab, name] and len(found) > 1]
    variances = [statistics.variance(run.accuracy for run in found) for found in several]
    return statistics.mean(variances) ** 0.5 if variances else None


def _figures(runs: Sequence[Predictions]) -> dict:
    predictions, references, photographs = _joined(runs)
    drawn = bootstrap_intervals(predictions, references, runs[0].label_names, photographs=photographs)
    accuracy = [run.accuracy for run in runs]
    return {
        "accuracy": accuracy,
        "mean": statistics.mean(accuracy),
        "interval": drawn["accuracy"],
        "macro_f1": statistics.mean(f1_score(run.references, run.predictions, average="macro") for run in runs),
        "expected_calibration_error": statistics.mean(
            expected_calibration_error(run.probabilities, run.references) for run in runs
        ),
    }


def _difference(
    runs: Sequence[Predictions], others: Sequence[Predictions], seed_spread: float | None
) -> dict[str, float]:
    """How much more accurate the ones are than the others, with its interval; nothing where either are missing.

    The bootstrap cannot know how much a single run owes to its seed. There the interval is widened by what the seed
    does elsewhere, `seed_spread`.
    """
    if not runs or not others:
        return {}
    compared = compare_predictions(runs, others)["accuracy"]
    single_runs = [len(runs), len(others)].count(1)
    wider = statistics.NormalDist().inv_cdf(0.975) * (seed_spread or 0) * single_runs**0.5
    difference = compared["difference"]
    return {
        "difference": difference,
        "low": difference - math.hypot(difference - compared["low"], wider),
        "high": difference + math.hypot(compared["high"] - difference, wider),
    }


def report(results: dict) -> list[tuple[str, str]]:
    """What `collect` returns as Markdown: (caption, table) of each table that has a row."""
    measured = results["rows"]
    budget = results["plan"]["budget"]
    size = f"{budget['image_size']} pixels" if "image_size" in budget else "the images that each network was made for"
    epochs = f"{budget['epochs']:g} epoch{'s' * (budget['epochs'] != 1)} at {size}"
    start = "ImageNet weights" if results["plan"]["imagenet"] else "random weights, drawn alike for all"
    intervals = (
        "95 % intervals of accuracies are over photographs, each of PBC's cells being one, those of differences over "
        "photographs and runs"
    )
    tables = []

    def add(caption: str, head: Sequence[str], names: int, table: str, cells) -> None:
        named = [(row, measured[row.name]) for row in ROWS if row.table == table and row.name in measured]
        rows = [[*row.cells, *cells(row, labs)] for row, labs in named if "bccd" in labs]
        if rows:
            tables.append((caption, markdown_table([[*head], *rows], names)))

    def at_home(row: Row, labs: dict) -> list[str]:
        test = labs["bccd"]["test"]
        return [_each(test), _with_interval(test), _against(test), *_further(labs["bccd"])]

    add(
        f"The paper's Table 2: {epochs} on BCCD, from {start}, one run each. 95 % intervals are over photographs"
        f"{_widened(results) or ', to which another seed would add'}.",
        ["Network", "Paper (%)", "TEST (%)", "Less the last row (points)", *_FURTHER, *_COSTS],
        1,
        "rivals",
        lambda row, labs: [
            _with_interval(labs["bccd"]["test"]),
            _against(labs["bccd"]["test"]),
            *_further(labs["bccd"]),
            *_cost_cells(results, row.network),
        ],
    )
    if results["ideas"]:
        head = ["", "Runs with", "without", *(f"{place} (points)" for place in ("BCCD", "BCCD to PBC", "PBC to BCCD"))]
        rows = [
            [title, str(idea["with"]), str(idea["without"]), *(_against(idea.get(where, {})) for where in _PLACES)]
            for title, idea in results["ideas"].items()
        ]
        tables.append(
            (
                f"What each idea adds to the accuracy: {epochs} on one lab's training images, scored on BCCD's TEST "
                f"and on the other lab's test images of the four types. {intervals}{_widened(results)}.",
                markdown_table([head, *rows]),
            )
        )
    add(
        f"The ablations at home: {epochs} on BCCD, scored on BCCD's TEST. {intervals}.",
        [*_ABLATION, "Each seed (%)", "TEST (%)", _TO_REFERENCE, *_FURTHER],
        len(_ABLATION),
        "ablations",
        at_home,
    )
    add(
        f"The ablations in the other lab: {epochs} on one, scored on the other's test images of the four types. "
        f"{intervals}.",
        [
            *_ABLATION,
            *("BCCD to PBC: each seed (%)", "mean (%)", _TO_REFERENCE),
            *("PBC to BCCD: each seed (%)", "mean (%)", _TO_REFERENCE),
        ],
        len(_ABLATION),
        "ablations",
        lambda row, labs: [
            cell
            for lab, part in (("bccd", "pbc"), ("pbc", "test"))
            for cell in (
                (_each(labs[lab][part]), _with_interval(labs[lab][part]), _against(labs[lab][part]))
                if lab in labs and not row.starts_from_row
                else ("–",) * 3
            )
        ],
    )
    searched = {row.name: row.cells for row in ROWS if row.table == "search"}
    if searched.keys() & measured.keys():
        searched[PAPERS] = (str(CENTER_LOSS_WEIGHT), "1.0")
        there = sorted((cells, name) for name, cells in searched.items() if "bccd" in measured.get(name, {}))
        found = [(cells, measured[name]["bccd"]["validation"]) for cells, name in there]
        rows = [[*cells, _each(validation), _with_interval(validation)] for cells, validation in found]
        tables.append(
            (
                f"Weight and margin of the hard-mined loss: {epochs} on BCCD, scored on its validation photographs.",
                markdown_table([["lambda", "margin", "Each seed (%)", "Validation (%)"], *rows], names=0),
            )
        )
    costs = results.get("costs", {"networks": {}})
    ablated = {row.network for row in ROWS if row.table == "ablations" and row.name in measured}
    if norms := [name for name in NORM_LAYOUTS if name in ablated & costs["networks"].keys()]:
        rows = [[norm, *_cost_cells(results, norm)] for norm in norms]
        tables.append((f"What the norms cost on {costs['device']}.", markdown_table([["Norm", *_COSTS], *rows])))
    return tables


_ABLATION = ("Norm", "Loss", "Start", "Augmentation")
_TO_REFERENCE = "Less the first row (points)"
_FURTHER = ("TEST_SIMPLE (%)", "Macro F1 (%)", "Calibration error (%)")
_COSTS = ("Parameters (M)", "GMACs", "Training images/s", "One image (ms)")


def _widened(results: dict) -> str:
    spread = results["seed_spread"]["bccd"]["test"]
    if spread is None:
        return ""
    return (
        "; where one side is a single run, they are widened by what another seed does to the rows of several, on TEST "
        f"a standard deviation of {100 * spread:.1f} points"
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _each(found: dict) -> str:
    return ", ".join(map(_percent, found["accuracy"]))


def _with_interval(found: dict) -> str:
    return "{} ({} to {})".format(*map(_percent, (found["mean"], *found["interval"])))


def _against(found: dict) -> str:
    if "difference" not in found:
        return "–"
    return "{} ({} to {})".format(*(f"{100 * found[name]:+.1f}" for name in ("difference", "low", "high")))


def _further(found: dict) -> list[str]:
    test = found["test"]
    values = (found["test_simple"]["mean"], test["macro_f1"], test["expected_calibration_error"])
    return [*map(_percent, values)]


def _cost_cells(results: dict, network: str) -> list[str]:
    cost = results.get("costs", {"networks": {}})["networks"].get(network)
    if cost is None:
        return ["–"] * len(_COSTS)
    return [
        f"{cost['parameters'] / 1e6:.1f}",
        f"{cost['gmacs']:.2f}",
        f"{cost['images_per_second']:.0f}",
        f"{cost['latency_ms']:.1f}",
    ]


@torch.no_grad()
def embed(folder: Path, data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a trained model makes of BCCD's TEST: embeddings (N, D), class ids (N,) and the class centres (K, D)."""
    dataset = load(data)["test"]
    dataset = dataset.select([row for row, name in enumerate(dataset["dataset"][:]) if name == "bccd"])
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    embeddings = [
        model(**processor(batch["image"], return_tensors="pt")).embeddings
        for batch in dataset.select_columns("image").iter(BATCH_SIZE)
    ]
    centers = model.center_loss.centers
    return torch.cat(embeddings).numpy(), np.array(dataset["label"][:]), centers.numpy()
