"""The model card, from what was measured."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import DatasetDict
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hub.data.bccd import BCCD_PUBLISHED
from hub.data.columns import class_counts
from hub.evaluation.format import markdown_table, markdown_table_1
from hub.evaluation.plots import plot_confusion_matrix, plot_learning_curves
from hub.evaluation.subsets import parts_rows

logger = logging.getLogger(__name__)

_TEMPLATE = Path(__file__).parent / "cards" / "model.md"
PLOTS = {
    "confusion_matrix.png": "Confusion matrix",
    "confusion_matrix_bccd.png": "Confusion matrix, BCCD",
    "confusion_matrix_pbc.png": "Confusion matrix, PBC",
    "reliability.png": "Reliability diagram",
    "learning_curves.png": "Learning curves",
}
_VALIDATION_NOTE = (
    "Validation images",
    "Training was watched on these images, and temperature and OOD threshold are fitted to them. A test on other "
    "images may give lower figures.",
)
ONNX_NAME = "onnx/model.onnx"
_PAPERS_TAGS = ("resnet", "ibn-net", "center-loss")
_METRICS = (
    # key in the results, type on the Hub, name on the card's widget
    ("accuracy", "accuracy", "Accuracy"),
    ("macro_precision", "precision", "Macro precision"),
    ("macro_recall", "recall", "Macro recall"),
    ("macro_f1", "f1", "Macro F1"),
)


def write_card(
    folder: str | Path,
    *,
    results: dict,
    label_names: Sequence[str],
    dataset_name: str,
    split: str,
    base_model: str | None,
    command: str,
    recipe: dict[str, object],
    synthetic: bool = False,
    bccd: bool = False,
    several: bool = False,
    rival: str | None = None,
    model_id: str | None = None,
    dataset_id: str | None = None,
    parts: Mapping[str, tuple[str, dict]] | None = None,
    examples: Sequence[str] = (),
    sections: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write the model card of a trained model, `folder/README.md`, over what is there.

    Every measured or chosen number in it comes from the arguments.

    Args:
        folder: An existing folder. Confusion matrices, reliability diagram and learning curves are shown where it
            holds them, so draw them first (`hub.plots`).
        results: What `hub.metrics.WBCMetric.compute` or `hub.evaluation.evaluate_logits` returned for `split`.
        label_names: The names it was given.
        dataset_name: A dataset's id on the Hub, which the metadata then link to, or any other name for the data.
        split: The split that `results` were measured on.
        base_model: What the weights started from, linked to where it is a Hub id; None for random weights.
        command: The command that trained the model and measured it, exactly.
        recipe: Hyperparameters by name, in the order to be shown.
        synthetic: The model was trained and measured on drawn cells; the card says so first of all.
        bccd: The data are BCCD; the card then tells the limits of its test split.
        several: The data are of more labs than BCCD's: beside all of them the paper's figures say nothing.
        rival: What network it is, if it is not the paper's (`hub.rivals`).
        model_id: The id the model is to have on the Hub; the folder's name where there is none yet.
        dataset_id: That of the dataset. Default: `dataset_name`, if it is one.
        parts: What the metadata tell in place of `results`: for each configuration of the dataset, the name of the
            part and its results.
        examples: Files in the folder for the Hub's page to offer, named after what they show.
        sections: (heading, Markdown) of what else was measured.

    Returns:
        The path of the card.

    Raises:
        ValueError: `synthetic` and `bccd` are both set, or label_names are not those of the results.
    """
    if synthetic and bccd:
        raise ValueError("got synthetic=True and bccd=True; drawn cells are not BCCD, set at most one of them")
    folder = Path(folder)
    model_id = model_id or folder.resolve().name
    dataset_id = dataset_id or (None if synthetic else _hub_id(dataset_name))
    widget = [
        {
            "src": f"https://huggingface.co/{model_id}/resolve/main/{name}",
            "example_title": Path(name).stem.replace("-", " "),
        }
        for name in examples
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["white-blood-cell", "hematology", "microscopy", "medical", *(() if rival else _PAPERS_TAGS)],
        datasets=dataset_id and [dataset_id],
        base_model=base_model and _hub_id(base_model),
        metrics=[kind for _, kind, _ in _METRICS],
        model_name=model_id.split("/")[-1],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                # the Hub wants a type; for files of one's own that is the builder that reads them
                dataset_type=dataset_id or "imagefolder",
                dataset_name=part_name,
                dataset_config=config,
                dataset_split=split,
                metric_type=kind,
                metric_name=name,
                metric_value=measured[key],
            )
            for config, (part_name, measured) in (parts or {None: (dataset_name, results)}).items()
            for key, kind, name in _METRICS
            if key in measured
        ],
        widget=widget or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=_TEMPLATE,
        model_id=model_id,
        label_names=label_names,
        dataset_name=dataset_name,
        split=split,
        base_model=base_model,
        command=command.strip(),
        recipe=[(_cell(name), _cell(value)) for name, value in recipe.items()],
        synthetic=synthetic,
        bccd=bccd,
        table=markdown_table_1(results, label_names, paper=not several),
        n_images=sum(map(sum, results["confusion_matrix"])),
        n_photographs=results.get("num_photographs"),
        intervals="intervals" in results,
        parts=markdown_table(parts_rows(results)) if results.get("subsets") else None,
        kept="kept" in results,
        several=several,
        rival=rival,
        sections=sections,
        onnx=(folder / ONNX_NAME).is_file(),
        plots={name: title for name, title in PLOTS.items() if (folder / name).is_file()},
    )
    path = folder / "README.md"
    card.save(path)
    return path


def _cell(value: object) -> str:
    """Return the value as the text of a Markdown table's cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _hub_id(name: str) -> str | None:
    """Return `name` if it is a repository's id on the Hub (owner/name), None if it is a local path or another name."""
    if name.count("/") != 1 or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def write_report(
    output_dir: str,
    dataset: DatasetDict,
    dataset_name: str | None,
    split: str,
    results: dict,
    names: list[str],
    baseline: str | None,
    model_id: str | None,
) -> None:
    """Draw the plots and write the model card of a model that was trained and evaluated in a folder.

    A folder without `train_results.json` gets the confusion matrix alone, and one whose log has nothing to draw, as of
    a run shorter than `--logging_steps`, no learning curves.

    Args:
        output_dir: The output folder of `train.py`.
        dataset: The data set of the evaluation.
        dataset_name: Its folder or id; None for drawn cells.
        split: The split that the card shows the results of.
        results: Its results, as `hub.evaluation.subsets.evaluate_logits` gives them.
        names: The class names, in the order of the model's class ids.
        baseline: The network in words, if it is a baseline and not the paper's.
        model_id: The model's id on the Hub, if it is pushed there.
    """
    folder = Path(output_dir)
    bccd = split == "test" and class_counts(dataset["test"]) == BCCD_PUBLISHED["test"]
    shown_name = "BCCD" if bccd else dataset_name or "drawn cells"
    plot_confusion_matrix(results, names, folder / "confusion_matrix.png", f"{shown_name}, {split}")
    trained = folder / "train_results.json"
    if not trained.is_file():
        logger.info(f"no model card: {folder} does not hold a model that was trained there")
        return
    training = json.loads(trained.read_text(encoding="utf-8"))
    state = folder / "trainer_state.json"
    history = json.loads(state.read_text(encoding="utf-8"))["log_history"] if state.is_file() else []
    try:
        plot_learning_curves(history, folder / "learning_curves.png")
    except ValueError:
        logger.info("no learning curves: the run logged no loss; see --logging_steps")
    write_card(
        folder,
        results=results,
        label_names=names,
        dataset_name=shown_name,
        split=split,
        base_model=training["base_model"],
        command=training["command"],
        recipe=training["recipe"],
        synthetic=dataset_name is None,
        bccd=bccd,
        rival=baseline,
        model_id=model_id,
        sections=[_VALIDATION_NOTE] if split == "validation" else (),
    )
