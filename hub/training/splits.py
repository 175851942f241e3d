"""The splits that a run needs, and a validation split for data sets that have none."""

import logging
import warnings

import numpy as np
from datasets import Dataset, DatasetDict
from sklearn.model_selection import StratifiedGroupKFold

from hub.files import UserError

logger = logging.getLogger(__name__)

EVALUATED_SPLITS = ("validation", "test_photographs", "test_simple", "test")  # the card shows the last one
# Columns that name what several images show: all images of one go to the same side.
_GROUP_COLUMNS = ("group", "field", "photograph")
# The training images are divided into this many folds, of which as many are taken as come nearest to the share.
_FOLDS = 20


def check_splits(
    dataset: DatasetDict, name: str | None, train: bool = False, validation: bool = False, test: bool = False
) -> None:
    """Raise `UserError` if a split is missing that the run cannot do without.

    Args:
        dataset: The splits.
        name: Its folder or id; None for drawn cells.
        train: Whether the run needs the split `train`.
        validation: Whether it needs the split `validation`.
        test: Whether it needs the split `test`.
    """
    needed = {"train": train, "validation": validation, "test": test}
    for split in (split for split, is_needed in needed.items() if is_needed and split not in dataset):
        raise UserError(f"{_holds(dataset, name)}; put images for the split {split} into {split}/<class>/<file>.")


def has_evaluated_split(dataset: DatasetDict, name: str | None, is_needed: bool) -> bool:
    """Return whether there is a split to evaluate on; a line of the log says so where it is not `test`.

    Args:
        dataset: The splits.
        name: Its folder or id; None for drawn cells.
        is_needed: Whether the run cannot do without.

    Raises:
        UserError: There is none, and it is needed.
    """
    found = any(split in dataset for split in EVALUATED_SPLITS)
    remedy = "put images to test on into test/<class>/<file>"
    if not found and is_needed:
        raise UserError(f"{_holds(dataset, name)}, so there is nothing to evaluate on; {remedy}.")
    if "test" not in dataset:
        results = "the results and the card are those of the validation split" if found else "there are no results"
        logger.warning("%s, so %s; %s", _holds(dataset, name), results, remedy)
    return found


def _holds(dataset: DatasetDict, name: str | None) -> str:
    return f"{name or 'the data set'} has no other split than {', '.join(dataset)}"


def cut_validation(dataset: DatasetDict, share: float, seed: int) -> tuple[DatasetDict, str | None]:
    """Cut a validation split from the training split of a data set that has none.

    Images of one group stay together, and each class gives about the same share, as far as groups and numbers allow.

    Args:
        dataset: With a split `train`. The columns `group`, `field` and `photograph`, in this order, name the group of
            an image; an image without any is a group of its own.
        share: The share of the training images, in [0, 1).
        seed: Seed of the choice.

    Returns:
        The splits, and the cut in words; the splits as they are, and None, where there is a validation split, the
        share is 0 or the training images are of fewer than two groups or too few for the share.
    """
    if "validation" in dataset or not share:
        return dataset, None
    train = dataset["train"]
    columns = [name for name in _GROUP_COLUMNS if name in train.column_names]
    validation = _validation_rows(train, columns, share, seed)
    if not 0 < len(validation) < len(train):
        logger.warning(
            "%d training images are too few to cut a validation split from, so the run neither validates nor "
            "calibrates; add a split validation, or name another --validation_split than %g",
            len(train),
            share,
        )
        return dataset, None
    rest = np.setdiff1d(np.arange(len(train)), validation)
    cut = (
        f"{len(validation)} of {len(train)} training images, cut by {columns[0] if columns else 'image'}, seed {seed}"
    )
    logger.info("the data set has no validation split: it is %s", cut)
    return DatasetDict({**dataset, "train": train.select(rest), "validation": train.select(validation)}), cut


def _validation_rows(train: Dataset, columns: list[str], share: float, seed: int) -> np.ndarray:
    """The rows of about a share of the images, stratified by label, no group in part."""
    groups, labels = _group_ids(train, columns), np.array(train["label"][:])
    folds = min(_FOLDS, len(np.unique(groups)), np.bincount(labels).max())
    if folds * share < 0.5:  # One fold would be more than twice the share.
        return np.array([], dtype=int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of classes with fewer images than there are folds
        warnings.simplefilter("ignore", UserWarning)
        parts = [held_out for _, held_out in splitter.split(labels, labels, groups)]
    parts.sort(key=len)  # Large groups make large folds.
    taken = np.abs(np.cumsum([len(part) for part in parts]) - share * len(labels)).argmin() + 1
    rows = np.concatenate(parts[:taken])
    # A class that would be left without a training image keeps its groups.
    lost = np.setdiff1d(labels, np.delete(labels, rows))
    kept = groups[np.isin(labels, lost)]
    return np.sort(rows[~np.isin(groups[rows], kept)])


def _group_ids(train: Dataset, columns: list[str]) -> np.ndarray:
    """An id (N,) for each image's group: the first of the columns that has a value, or else the image itself."""
    ids: dict[object, int] = {}
    values = list(zip(range(len(train)), *(train[name][:] for name in columns), strict=True))
    keys = [next((("group", value) for value in row[1:] if value is not None), row[0]) for row in values]
    return np.array([ids.setdefault(key, len(ids)) for key in keys])
