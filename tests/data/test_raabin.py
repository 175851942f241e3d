"""Raabin-WBC as its publisher lays it out."""

import shutil

import pytest

from hub.data.columns import class_counts
from hub.data.raabin import RAABIN, RAABIN_CLASSES
from hub.files import UserError
from tests.raw_folders import make_classes


@pytest.fixture
def raabin(tmp_path):
    names = [name.title() for name in RAABIN_CLASSES]
    make_classes(tmp_path / "Train", names, 5)
    make_classes(tmp_path / "TestA", names, 2, start=7)
    make_classes(tmp_path / "TestB", ["Lymphocyte", "Neutrophil"], 1, start=9)
    return tmp_path


@pytest.mark.parametrize("place", ["", "Raabin-WBC"])
def test_raabin_has_a_validation_split_and_two_tests(raabin, tmp_path, place):
    if place:
        for name in ("Train", "TestA", "TestB"):
            (tmp_path / place).mkdir(exist_ok=True)
            (tmp_path / name).rename(tmp_path / place / name)
    dataset = RAABIN.build(tmp_path)
    counted = {split: list(class_counts(part).values()) for split, part in dataset.items()}
    assert counted == {"train": [4] * 5, "validation": [1] * 5, "test": [2] * 5, "test_b": [0, 0, 1, 0, 1]}
    assert not set(dataset["train"]["file_name"][:]) & set(dataset["validation"]["file_name"][:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "TestB"), "holds no folder TestB"),
        (lambda folder: shutil.rmtree(folder / "TestA" / "Monocyte"), "TestA holds no class folder monocyte"),
        (lambda folder: (folder / "Train" / "Artifact").mkdir(), "unknown class folder .*Artifact"),
    ],
)
def test_raabin_errors_name_the_folder(raabin, damage, message):
    damage(raabin)
    with pytest.raises(UserError, match=message):
        RAABIN.build(raabin)
