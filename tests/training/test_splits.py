"""The cut of a validation split: by group, stratified, seeded, and left out where images are too few."""

from collections import Counter

import datasets
import numpy as np
import pytest

from hub.files import UserError
from hub.training.splits import check_splits, cut_validation, has_evaluated_split


def splits_of(labels, **columns):
    count = len(labels)
    features = {"label": labels, "row": list(range(count)), **columns}
    return datasets.DatasetDict(train=datasets.Dataset.from_dict(features))


def rows(dataset):
    return {split: set(part["row"]) for split, part in dataset.items()}


def test_each_class_gives_its_share():
    labels = [0] * 200 + [1] * 100 + [2] * 40
    cut, words = cut_validation(splits_of(labels), 0.15, seed=1)
    assert Counter(cut["validation"]["label"]) == {0: 30, 1: 15, 2: 6}
    assert rows(cut)["train"] | rows(cut)["validation"] == set(range(340))
    assert not rows(cut)["train"] & rows(cut)["validation"]
    assert words == "51 of 340 training images, cut by image, seed 1"
    again, _ = cut_validation(splits_of(labels), 0.15, seed=1)
    other, _ = cut_validation(splits_of(labels), 0.15, seed=2)
    assert rows(cut) == rows(again) != rows(other)
    half, _ = cut_validation(splits_of(labels), 0.5, seed=1)
    assert len(half["validation"]) == 170


@pytest.mark.parametrize("column", ["group", "field", "photograph"])
def test_a_group_stays_on_one_side(column):
    rng = np.random.default_rng(0)
    groups = [f"slide {number}" for number in rng.integers(0, 40, 400)]
    labels = rng.integers(0, 3, 400).tolist()
    cut, words = cut_validation(splits_of(labels, **{column: groups}), 0.15, seed=0)
    assert not set(cut["train"][column]) & set(cut["validation"][column])
    assert 40 <= len(cut["validation"]) <= 80
    assert f"cut by {column}" in words


def test_an_image_of_unknown_group_stands_for_itself_or_its_photograph():
    field = ["a"] * 10 + [None] * 30
    photograph = [None] * 10 + ["b"] * 10 + [None] * 20
    cut, _ = cut_validation(splits_of([0] * 40, field=field, photograph=photograph), 0.25, seed=0)
    for group in (set(range(10)), set(range(10, 20))):
        assert group <= rows(cut)["train"] or group <= rows(cut)["validation"]
    assert 5 <= len(cut["validation"]) <= 15


def test_a_class_keeps_a_training_image():
    for seed in range(10):
        cut, _ = cut_validation(splits_of([0] * 40 + [1] + [2]), 0.15, seed)
        assert {1, 2} <= set(cut["train"]["label"])


@pytest.mark.parametrize(
    "dataset", [splits_of([0, 1, 2, 3]), splits_of([0, 0, 1, 1]), splits_of([0] * 50, group=["one"] * 50)]
)
def test_too_few_images_or_groups_are_said(dataset, caplog):
    cut, words = cut_validation(dataset, 0.15, seed=0)
    assert cut.keys() == {"train"}
    assert words is None
    assert "too few to cut a validation split from" in caplog.text


def test_a_validation_split_that_is_there_stays():
    dataset = splits_of([0] * 50)
    dataset["validation"] = dataset["train"].select([0])
    assert cut_validation(dataset, 0.15, seed=0) == (dataset, None)
    assert cut_validation(splits_of([0] * 50), 0.0, seed=0)[0].keys() == {"train"}


def test_what_cannot_be_evaluated_is_named_with_the_remedy(caplog):
    flat = splits_of([0, 1])
    with pytest.raises(UserError, match=r"cells has no other split than train; put .* into validation/<class>/<file>"):
        check_splits(flat, "cells", train=True, validation=True)
    with pytest.raises(UserError, match=r"cells has no .* nothing to evaluate on; put .* into test/<class>/<file>"):
        has_evaluated_split(flat, "cells", is_needed=True)
    assert not has_evaluated_split(flat, "cells", is_needed=False)
    assert has_evaluated_split(flat | {"validation": flat["train"]}, "cells", is_needed=True)
    assert caplog.text.count("put images to test on into test/<class>/<file>") == 2
    caplog.clear()
    assert has_evaluated_split(flat | {"test": flat["train"]}, "cells", is_needed=True)
    assert not caplog.text
