"""The example images: what their names say, and where they come from."""

import csv
import os
import re
from pathlib import Path

import pytest
from sklearn.model_selection import train_test_split

from hub.data.bccd import publisher_split, read_labels
from hub.data.chula import CHULA_CLASSES, slide_number
from hub.data.pbc import PBC_CLASSES
from hub.data.raw import list_files
from hub.data.splits import hold_out
from space.examples import copy_examples, examples_row

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = {
    name: Path(os.environ[f"WBC_{name}_DIR"])
    for name in ("BCCD", "PBC", "WBCATT", "CHULA")
    if f"WBC_{name}_DIR" in os.environ
}
STAGES = {"myelocyte": "ig", "neutrophil-band": "neutrophil", "neutrophil-segmented": "neutrophil"}


def origins() -> dict[str, str]:
    """The publisher's file of each example, from the table of the folder's README."""
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(\S+)` \|.*\| `(\S+)` \|$", table, re.MULTILINE))


def test_they_are_few_small_and_credited(classifier, tmp_path):
    paths = copy_examples(tmp_path)
    assert {path.name for path in paths} == origins().keys()
    assert len(paths) <= 14
    assert max(path.stat().st_size for path in paths) <= 60 * 1024
    row = examples_row(paths, classifier.image_processor.fetch_images)
    assert row.count("<button") == len(paths)
    assert "CC BY 4.0" in row


def test_the_model_calls_them_what_they_are(classifier):
    paths = [path for path in sorted(EXAMPLES.glob("*.jpg")) if not path.name.startswith("chula")]
    answers = [answer for answer, _ in classifier.answers([(path.name, str(path)) for path in paths], 64)]
    named = [path.stem.partition("-")[2] for path in paths]
    assert [answer["label"] for answer in answers] == [STAGES.get(name, name) for name in named]
    assert {answer["label"] for answer in answers} == set(classifier.labels)


@pytest.mark.skipif(len(DATA) < 4, reason="WBC_BCCD_DIR, ... name no folders of real images")
def test_no_training_split_holds_them():
    """The splits, taken from the names of all files: to read the images takes a minute."""
    photographs = {path.stem: path for path in (DATA["BCCD"] / "Original_Images").glob("*.jpg")}
    _, test = publisher_split(read_labels(DATA["BCCD"] / "labels.csv", photographs))
    held_out = [photographs[name] for name in test]

    cells = list_files(DATA["PBC"], PBC_CLASSES)
    _, rest = train_test_split(cells, test_size=0.2, random_state=0, stratify=[label for _, label in cells])
    _, test = train_test_split(rest, test_size=0.5, random_state=0, stratify=[label for _, label in rest])
    listed = {split: names_of(DATA["WBCATT"] / f"pbc_attr_v1_{split}.csv") for split in ("train", "val", "test")}
    held_out += [path for path, _ in test if path.name not in listed["train"] | listed["val"]]

    windows = [
        {"label": label, "group": slide_number(path.stem.split("_")[0])}
        for path, label in list_files(DATA["CHULA"] / "cells", CHULA_CLASSES)
    ]
    slides = {row["group"] for row in hold_out(windows, 0)[1]}
    fields = (DATA["CHULA"] / "fields").glob("*.jpg")
    held_out += [path for path in fields if slide_number(path.stem.split("_")[0]) in slides]

    found = {path.name: path for path in held_out}
    for name, origin in origins().items():
        assert (EXAMPLES / name).read_bytes() == found[origin].read_bytes(), name


def names_of(table: Path) -> set[str]:
    with open(table, newline="", encoding="utf-8") as file:
        return {row["img_name"] for row in csv.DictReader(file)}
