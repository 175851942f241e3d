"""Figures of the heads for stages and attributes."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score

from hub.evaluation.format import format_percent
from hub.evaluation.intervals import bootstrap_labels


def evaluate_stages(
    logits: np.ndarray,
    stage_logits: np.ndarray,
    references: np.ndarray,
    stage_ids: np.ndarray,
    label_names: Sequence[str],
    stages: Mapping[str, Sequence[str]],
    photographs: Sequence[str | None] | None = None,
) -> dict:
    """Evaluate types and stages together: the stages of a type stand in its place, as classes of their own.

    A stage is predicted as by `analyze`: the likeliest one of the likeliest type. With a wrong type, it is wrong, too.

    Args:
        logits: float (N, C), of the types.
        stage_logits: float (N, S), of the stages of all types.
        references: N true class ids of the types, integers in [0, C).
        stage_ids: N true stage ids, integers in [0, S), below 0 where the stage is not known.
        label_names: The C names of the types.
        stages: The stages of some of the types; one after the other, they are the S stages.
        photographs: The name of the photograph that each image shows, or None where it stands for itself.

    Returns:
        Figures over the images of a known stage and those of a type without stages: `accuracy`, `macro_f1`,
        `num_images`, `label_names` of these classes, `confusion_matrix` as by `WBCMetric`, and `intervals` of the
        shares. Also `stage_accuracy` and `num_staged`, over the images of a known stage alone. An empty dict if no
        stage is known.
    """
    staged = stage_ids >= 0
    if not staged.any():
        return {}
    plain = [name for name in label_names if name not in stages]
    names = [*plain, *(stage for of_type in stages.values() for stage in of_type)]
    class_of_type = np.array([plain.index(name) if name in plain else -1 for name in label_names])
    owners = np.array([owner for owner, of_type in stages.items() for _ in of_type])
    is_own = np.array(label_names)[:, None] == owners  # (C, S)

    likeliest = logits.argmax(-1)
    stage = np.where(is_own[likeliest], stage_logits, -np.inf).argmax(-1)
    predictions = np.where(class_of_type[likeliest] >= 0, class_of_type[likeliest], len(plain) + stage)
    classes = np.where(staged, len(plain) + stage_ids, class_of_type[references])
    both, of_staged, _ = _figures_of_labels(
        np.stack([predictions, predictions], axis=1),
        np.stack([classes, np.where(staged, classes, -1)], axis=1),
        [len(names), len(names)],
        references,
        photographs,
    )
    both["intervals"]["stage_accuracy"] = of_staged["intervals"]["accuracy"]
    known = classes >= 0
    matrix = confusion_matrix(classes[known], predictions[known], labels=range(len(names)))
    return both | {
        "stage_accuracy": of_staged["accuracy"],
        "num_staged": of_staged["num_images"],
        "label_names": names,
        "confusion_matrix": matrix.tolist(),
    }


def evaluate_attributes(
    attribute_logits: Mapping[str, np.ndarray],
    attribute_ids: np.ndarray,
    references: np.ndarray,
    photographs: Sequence[str | None] | None = None,
) -> dict:
    """Evaluate the attributes of which at least one image has a value.

    Args:
        attribute_logits: float (N, V) of each of A attributes, by its name.
        attribute_ids: (N, A) true value ids, integers in [0, V), below 0 where an attribute is not known.
        references: N true class ids of the types, by which the bootstrap is stratified.
        photographs: The name of the photograph that each image shows, or None where it stands for itself.

    Returns:
        `accuracy` and `macro_f1`, means over the attributes, their `intervals`, and `each`, the same for every
        attribute with its `num_images`. An empty dict if nothing is known.
    """
    known = [number for number in range(attribute_ids.shape[1]) if (attribute_ids[:, number] >= 0).any()]
    if not known:
        return {}
    names = [list(attribute_logits)[number] for number in known]
    *each, mean = _figures_of_labels(
        np.stack([attribute_logits[name].argmax(-1) for name in names], axis=1),
        attribute_ids[:, known],
        [attribute_logits[name].shape[1] for name in names],
        references,
        photographs,
    )
    return mean | {"each": dict(zip(names, each, strict=True))}


def heads_rows(results: Mapping) -> list[list[str]]:
    """The figures of stages and attributes of a split as the rows of a table, the first one the head.

    Args:
        results: Holds, as `stages` and `attributes`, what `evaluate_stages` and `evaluate_attributes` returned; either
            may be missing or empty.
    """
    rows = [["", "Images", "Accuracy (%)", "Macro F1 (%)"]]
    if stages := results.get("stages"):
        rows.append(["stages", f"{stages['num_staged']:,}", format_percent(stages, "stage_accuracy"), "–"])
        title = f"types and stages, {len(stages['label_names'])} classes"
        rows.append([title, *_cells(stages)])
    if attributes := results.get("attributes"):
        rows += [[name.replace("_", " "), *_cells(figures)] for name, figures in attributes["each"].items()]
        rows.append([f"mean of {len(attributes['each'])} attributes", *_cells(attributes)])
    return rows


def _cells(figures: Mapping) -> list[str]:
    images = f"{figures['num_images']:,}" if "num_images" in figures else "–"
    return [images, format_percent(figures, "accuracy"), format_percent(figures, "macro_f1")]


def _figures_of_labels(
    predictions: np.ndarray,
    references: np.ndarray,
    sizes: Sequence[int],
    strata: np.ndarray,
    photographs: Sequence[str | None] | None,
) -> list[dict]:
    """Accuracy and macro F1 with intervals of each label (see `bootstrap_labels`), and last of the means over them."""
    rows = np.flatnonzero((references >= 0).any(axis=1))
    predictions, references = predictions[rows], references[rows]
    figures: list[dict] = []
    for number, size in enumerate(sizes):
        known = references[:, number] >= 0
        predicted, true = predictions[known, number], references[known, number]
        macro_f1 = f1_score(true, predicted, labels=range(size), average="macro", zero_division=0)
        accuracy = float(np.mean(predicted == true))
        figures.append({"accuracy": accuracy, "macro_f1": float(macro_f1), "num_images": len(true)})
    figures.append({name: float(np.mean([label[name] for label in figures])) for name in ("accuracy", "macro_f1")})
    shown = None if photographs is None else [photographs[row] for row in rows.tolist()]
    intervals = bootstrap_labels(predictions, references, sizes, strata[rows], photographs=shown)
    return [label | {"intervals": drawn} for label, drawn in zip(figures, intervals, strict=True)]
