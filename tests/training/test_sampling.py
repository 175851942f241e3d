"""Balanced sampling: the share of every lab, type and photograph, and draws by seed and epoch."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset

from hub.data.load import load
from hub.training.images import CellImages
from hub.training.sampling import BalancedSampler, balanced_weights


def test_balance_over_data_sets_classes_and_photographs(blood):
    rows = load(blood)["train"]
    images = CellImages(rows, None, list(range(5)), seed=1)
    sampler = BalancedSampler(images)
    assert len(sampler) == len(list(sampler)) == len(rows)
    drawn = []
    for epoch in range(1000):
        images.set_epoch(epoch)
        drawn += list(sampler)
    share = np.bincount(drawn, minlength=len(rows)) / len(drawn)
    table = [(row["lab"], row["label"], row["photograph"]) for row in rows.remove_columns("image")]

    def total(*path):
        return sum(share[k] for k, row in enumerate(table) if row[: len(path)] == path)

    for origin in ("bccd", "pbc"):
        classes = {label for name, label, _ in table if name == origin}
        assert total(origin) == pytest.approx(1 / 2, abs=0.02)
        for label in classes:
            assert total(origin, label) == pytest.approx(1 / 2 / len(classes), abs=0.02)
    # Photographs of a class are equally likely, whatever the number of their files.
    for number in range(8):
        path = next(row for row in table if row[2] == f"photo {number}")
        assert total(*path) == pytest.approx(1 / 2 / 4 / 2, abs=0.01)
    # Images without a photograph too, one by one.
    assert [share[k] for k, row in enumerate(table) if row[0] == "pbc"] == pytest.approx([1 / 2 / 3 / 2] * 6, abs=0.01)


def test_draws_depend_on_seed_and_epoch_alone(blood):
    rows = load(blood)["train"]

    def draw(epoch, seed=0):
        images = CellImages(rows, None, list(range(5)), seed=seed)
        images.set_epoch(epoch)
        return list(BalancedSampler(images))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(1) != draw(1, seed=1)


def test_a_row_without_a_value_counts_as_one_of_its_own():
    rows = Dataset.from_dict(
        {"label": [0, 0, 0, 0, 1, 1], "photograph": ["a", "a", None, None, "a", None], "image": [0] * 6}
    )
    expected = [1 / 12, 1 / 12, 1 / 6, 1 / 6, 1 / 4, 1 / 4]
    assert balanced_weights(rows) == pytest.approx(expected)
    assert balanced_weights(rows.remove_columns("photograph")) == pytest.approx([1 / 8] * 4 + [1 / 4] * 2)


def test_processes_share_the_rows_of_an_epoch(blood):
    images = CellImages(load(blood)["train"], None, list(range(5)), seed=1)
    images.set_epoch(2)
    whole = list(BalancedSampler(images))
    batches = [whole[start : start + 2] for start in range(0, len(whole), 2)]
    for process in range(2):
        torch.manual_seed(process)  # other draws of the processes differ
        loader = torch.utils.data.DataLoader(range(len(images)), batch_size=2, sampler=BalancedSampler(images))
        share = prepare_data_loader(
            loader, num_processes=2, process_index=process, put_on_device=False, use_seedable_sampler=True
        )
        assert [batch.tolist() for batch in share][:5] == batches[process:10:2]
