"""The model repository: its card."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .evaluation import parts_rows
from .metrics import markdown_table, markdown_table_1

_TEMPLATE = Path(__file__).parent / "cards" / "model.md"
_PLOTS = ("confusion_matrix.png", "learning_curves.png")
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
    model_id: str | None = None,
) -> Path:
    """Write the model card of a trained model, `folder/README.md`, over what is there.

    Every measured or chosen number in it comes from the arguments.

    Args:
        folder: An existing folder. `confusion_matrix.png` and `learning_curves.png` are shown where it holds them, so
            draw them first (`hub.plots`).
        results: What `hub.metrics.WBCMetric.compute` or `hub.evaluation.evaluate_logits` returned for `split`.
        label_names: The names it was given.
        dataset_name: A dataset's id on the Hub, which the metadata then link to, or any other name for the data.
        split: The split that `results` were measured on.
        base_model: What the weights started from, linked to where it is a Hub id; None for random weights.
        command: The command that trained the model and measured it, exactly.
        recipe: Hyperparameters by name, in the order to be shown.
        synthetic: The model was trained and measured on drawn cells; the card says so first of all.
        bccd: The data are BCCD; the card then tells the limits of its test split.
        model_id: The id the model is to have on the Hub; the folder's name where there is none yet.

    Returns:
        The path of the card.

    Raises:
        ValueError: `synthetic` and `bccd` are both set, or label_names are not those of the results.
    """
    if synthetic and bccd:
        raise ValueError("got synthetic=True and bccd=True; drawn cells are not BCCD, set at most one of them")
    folder = Path(folder)
    model_id = model_id or folder.resolve().name
    dataset_id = None if synthetic else _hub_id(dataset_name)
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["white-blood-cell", "hematology", "microscopy", "medical", "resnet", "ibn-net", "center-loss"],
        datasets=dataset_id and [dataset_id],
        base_model=base_model and _hub_id(base_model),
        metrics=[kind for _, kind, _ in _METRICS],
        model_name=model_id.split("/")[-1],
        eval_results=[
            EvalResult(
                task_type="image-classification",
                # the Hub wants a type; for files of one's own that is the builder that reads them
                dataset_type=dataset_id or "imagefolder",
                dataset_name=dataset_name,
                dataset_split=split,
                metric_type=kind,
                metric_name=name,
                metric_value=results[key],
            )
            for key, kind, name in _METRICS
        ],
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
        table=markdown_table_1(results, label_names),
        n_images=sum(map(sum, results["confusion_matrix"])),
        n_photographs=results.get("num_photographs"),
        intervals="intervals" in results,
        parts=markdown_table(parts_rows(results)) if results.get("subsets") else None,
        plots=[name for name in _PLOTS if (folder / name).is_file()],
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
