"""The stages and attributes that a data set names, and their ids for the heads of the model."""

import logging
from dataclasses import dataclass, field

import torch
from datasets import ClassLabel, Dataset, DatasetDict
from torch import Tensor

from hub.files import UserError
from modeling_wbc import WBCConfig
from modeling_wbc.heads_wbc import UNKNOWN_ID

logger = logging.getLogger(__name__)

STAGE_COLUMN = "stage"


@dataclass(frozen=True)
class HeadNames:
    """The names of the labels of a data set beside the types.

    Attributes:
        stages: The stages of each type, see `WBCConfig.stages`; empty if there are none.
        attributes: The values of each attribute, see `WBCConfig.attributes`; empty if there are none.
    """

    stages: dict[str, list[str]] = field(default_factory=dict)
    attributes: dict[str, list[str]] = field(default_factory=dict)


def head_names(dataset: DatasetDict, do_train: bool) -> HeadNames:
    """Return the stages and attributes of which at least one row is labelled.

    The column `stage` holds the stages; the rows tell the type of each. Every other column of `ClassLabel` but `label`
    is an attribute.

    Args:
        dataset: With a column `label`.
        do_train: Whether the model is trained, so that the rows of the split `train` count, and not those of all.

    Raises:
        UserError: A stage occurs in rows of several types.
    """
    owners: dict[str, str] = {}
    attributes: dict[str, dict[str, None]] = {}
    for rows in [dataset["train"]] if do_train else dataset.values():
        types = rows.features["label"].names
        for name, feature in rows.features.items():
            if name == "label" or not isinstance(feature, ClassLabel):
                continue
            known = sorted({pair for pair in zip(rows[name][:], rows["label"][:], strict=True) if _is_known(pair[0])})
            if name != STAGE_COLUMN and known:
                attributes.setdefault(name, {}).update(dict.fromkeys(feature.names))
            elif name == STAGE_COLUMN:
                for stage, label in known:
                    owner = owners.setdefault(feature.names[stage], types[label])
                    if owner != types[label]:
                        raise UserError(
                            f"the stage {feature.names[stage]!r} occurs in rows of {owner} and of {types[label]}: "
                            f"correct the column `{STAGE_COLUMN}`, or leave it out with --stage_loss_weight 0"
                        )
    stages: dict[str, list[str]] = {}
    for stage, owner in owners.items():
        stages.setdefault(owner, []).append(stage)
    return HeadNames(stages, {name: list(values) for name, values in attributes.items()})


def choose_heads(config: WBCConfig, names: HeadNames, source: str | None, do_train: bool) -> set[str]:
    """Set the stages and attributes of the model's configuration, in its order if it knows all of the data set's.

    A head whose weight in the loss is 0 stays off. Otherwise, training starts a new head for names that the weights do
    not know, and evaluation alone measures a head if the weights have one.

    Args:
        config: The configuration of the weights, which is changed.
        names: Those of the data set.
        source: The weights, by folder or id; None for random ones.
        do_train: Whether the model is trained.

    Returns:
        Which of `stages` and `attributes` got new names, and so need a new head.

    Raises:
        UserError: The weights are to be evaluated on stages or attributes that their head does not know.
    """
    new = set()
    for kind in ("stages", "attributes"):
        wanted, held = getattr(names, kind), getattr(config, kind) or {}
        flag = f"{kind[:-1]}_loss_weight"
        unknown = [
            f"{value} ({name})"
            for name, values in wanted.items()
            for value in values
            if value not in held.get(name, ())
        ]
        if not unknown or not getattr(config, flag):
            continue
        if do_train:
            logger.info(f"a new head, which starts at random, for the {kind} {wanted}")
            setattr(config, kind, wanted)
            new.add(kind)
        elif held:
            raise UserError(
                f"the dataset's {kind} {', '.join(unknown)} are unknown to {source}, which tells apart {held}. "
                f"Evaluate it on a dataset of these, leave them out with --{flag} 0, or train it with --do_train."
            )
    return new


def head_ids(dataset: Dataset, config: WBCConfig) -> dict[str, Tensor]:
    """Return the ids of the stages and attributes of each row, as far as the model has the heads.

    Args:
        dataset: N rows, with or without the columns.
        config: The configuration of the model.

    Returns:
        `stage_ids` (N,) and `attribute_ids` (N, A), int64, as `WBCForImageClassification.forward` takes them: -100
        where the data set lacks the column, the row the label or the model the name.
    """
    ids = {}
    if config.active_stages:
        stages = [stage for stages in config.active_stages.values() for stage in stages]
        ids["stage_ids"] = _column_ids(dataset, STAGE_COLUMN, stages)
    if config.active_attributes:
        columns = [_column_ids(dataset, name, values) for name, values in config.active_attributes.items()]
        ids["attribute_ids"] = torch.stack(columns, dim=1)
    return ids


def _column_ids(dataset: Dataset, column: str, names: list[str]) -> Tensor:
    """The position in `names` of the value of each row, int64 (N,), -100 where there is none."""
    feature = dataset.features.get(column)
    if not isinstance(feature, ClassLabel):
        return torch.full((len(dataset),), UNKNOWN_ID)
    positions = {feature.str2int(name): number for number, name in enumerate(names) if name in feature.names}
    return torch.tensor([positions.get(value, UNKNOWN_ID) for value in dataset[column][:]])


def _is_known(value: int | None) -> bool:
    return value is not None and value >= 0
