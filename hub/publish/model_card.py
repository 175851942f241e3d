"""The model card, rendered from measured results."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import DatasetDict
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hub.data.bccd import BCCD_PUBLISHED
from hub.data.columns import class_counts
from hub.evaluation.format import markdown_table, markdown_table_1
from hub.evaluation.heads import heads_rows
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
# Fields of `CardFacts` that the template shows as they are.
_SHOWN = ("label_names", "dataset_name", "split", "base_model", "synthetic", "bccd", "labs", "baseline", "sections")
_METRICS = (
    # key in the results, type on the Hub, name on the card's widget
    ("accuracy", "accuracy", "Accuracy"),
    ("macro_precision", "precision", "Macro precision"),
    ("macro_recall", "recall", "Macro recall"),
    ("macro_f1", "f1", "Macro F1"),
)


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """The content of a model card: every measured or chosen number in it is one of these.

    Attributes:
        results: What `hub.evaluation.metrics.WBCMetric.compute` or `hub.evaluation.subsets.evaluate_logits` returned
            for `split`.
        label_names: The names it was given.
        dataset_name: A dataset's id on the Hub, which the metadata then link to, or any other name of the data.
        split: The split that `results` were measured on.
        base_model: The weights that training started from, linked to where it is a Hub id; None for random weights.
        command: The commands that trained and measured the model, a line each.
        recipe: Hyperparameters by name, in the order to be shown.
        synthetic: Whether the model was trained and measured on drawn cells; the card says so first of all.
        bccd: Whether the data are BCCD; the card then lists the limits of its test split.
        labs: Number of labs of the data: the paper's figures, of BCCD, do not compare with several together.
        baseline: The name of the network, if it is a baseline (`hub.study.baselines`) and not the paper's network.
        model_id: The id of the model on the Hub. Default: the name of the folder.
        dataset_id: The id of the dataset on the Hub. Default: `dataset_name`, if it is one.
        parts: Figures for the metadata in place of `results`: for each configuration of the dataset, the name of the
            part and its results.
        examples: Files in the folder that the Hub's page offers, named after what they show.
        sections: (heading, Markdown) of further measurements.

    Raises:
        ValueError: `synthetic` and `bccd` are both set.
    """

    results: dict
    label_names: Sequence[str]
    dataset_name: str
    split: str
    base_model: str | None
    command: str
    recipe: Mapping[str, object]
    synthetic: bool = False
    bccd: bool = False
    labs: int = 1
    baseline: str | None = None
    model_id: str | None = None
    dataset_id: str | None = None
    parts: Mapping[str, tuple[str, dict]] | None = None
    examples: Sequence[str] = ()
    sections: Sequence[tuple[str, str]] = ()

    def __post_init__(self):
        if self.synthetic and self.bccd:
            raise ValueError("got synthetic=True and bccd=True; drawn cells are not BCCD, set at most one of them")


def write_card(folder: str | Path, facts: CardFacts) -> Path:
    """Write the model card of a trained model, `folder/README.md`, over what is there.

    Args:
        folder: An existing folder. The card shows the confusion matrices, the reliability diagram and the learning
            curves that it holds, so draw them first (`hub.evaluation.plots`).
        facts: The content of the card.

    Returns:
        The path of the card.

    Raises:
        ValueError: The label names are not those of the results.
    """
    folder = Path(folder)
    model_id = facts.model_id or folder.resolve().name
    results = facts.results
    shown = {field: getattr(facts, field) for field in _SHOWN}
    card = ModelCard.from_template(
        _metadata(facts, model_id),
        template_path=str(_TEMPLATE),
        model_id=model_id,
        command=facts.command.strip(),
        recipe=[(_cell(name), _cell(value)) for name, value in facts.recipe.items()],
        table=markdown_table_1(results, facts.label_names, paper=facts.labs == 1),
        n_images=sum(map(sum, results["confusion_matrix"])),
        n_photographs=results.get("num_photographs"),
        intervals="intervals" in results,
        parts=markdown_table(parts_rows(results)) if results.get("subsets") else None,
        heads=markdown_table(rows) if len(rows := heads_rows(results)) > 1 else None,
        kept="kept" in results,
        onnx=(folder / ONNX_NAME).is_file(),
        plots={name: title for name, title in PLOTS.items() if (folder / name).is_file()},
        **shown,
    )
    path = folder / "README.md"
    card.save(path)
    return path


def _metadata(facts: CardFacts, model_id: str) -> ModelCardData:
    """The metadata at the head of a card, which the Hub searches and shows."""
    dataset_id = facts.dataset_id or (None if facts.synthetic else _hub_id(facts.dataset_name))
    widget = [
        {
            "src": f"https://huggingface.co/{model_id}/resolve/main/{name}",
            "example_title": Path(name).stem.replace("-", " "),
        }
        for name in facts.examples
    ]
    whole = (facts.dataset_name, facts.results)
    parts: list[tuple[str | None, tuple[str, dict]]] = [*facts.parts.items()] if facts.parts else [(None, whole)]
    return ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["white-blood-cell", "hematology", "microscopy", "medical", *(() if facts.baseline else _PAPERS_TAGS)],
        datasets=dataset_id and [dataset_id],
        base_model=facts.base_model and _hub_id(facts.base_model),
        metrics=[kind for _, kind, _ in _METRICS],
        model_name=model_id.split("/")[-1],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                # The Hub requires a type; for local files it is the builder that reads them.
                dataset_type=dataset_id or "imagefolder",
                dataset_name=part_name,
                dataset_config=config,
                dataset_split=facts.split,
                metric_type=kind,
                metric_name=name,
                metric_value=measured[key],
            )
            for config, (part_name, measured) in parts
            for key, kind, name in _METRICS
            if key in measured
        ],
        widget=widget or None,
    )


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
    facts = CardFacts(
        results=results,
        label_names=names,
        dataset_name=shown_name,
        split=split,
        base_model=training["base_model"],
        command=training["command"],
        recipe=training["recipe"],
        synthetic=dataset_name is None,
        bccd=bccd,
        baseline=baseline,
        model_id=model_id,
        sections=[_VALIDATION_NOTE] if split == "validation" else (),
    )
    write_card(folder, facts)
