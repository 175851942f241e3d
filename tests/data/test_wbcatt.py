"""WBCAtt: attributes and splits of PBC's images, and how far its annotators agree.

WBC_WBCATT_DIR, the folder of the published tables, switches on the test at the end.
"""

import os
from pathlib import Path

import pytest

from hub.data.columns import ATTRIBUTES
from hub.data.pbc import PBC_CLASSES, build_pbc
from hub.data.wbcatt import annotator_agreement, read_wbcatt
from hub.files import UserError
from tests.raw_folders import make_pbc, make_wbcatt

NAMES = [f"BA_{index:03d}.jpg" for index in range(8)]


@pytest.mark.parametrize("place", ["", "submission"])
def test_splits_follow_wbcatt_where_it_has_the_image(tmp_path, place):
    make_pbc(tmp_path / "pbc")
    wbcatt = make_wbcatt(tmp_path / "wbcatt", NAMES, place)
    plain, with_attributes = build_pbc(tmp_path / "pbc", seed=1), build_pbc(tmp_path / "pbc", seed=1, wbcatt=wbcatt)
    split_of = {name: split for split, part in plain.items() for name in part["file_name"][:]}
    expected = dict.fromkeys(NAMES[:4], "train") | dict.fromkeys(NAMES[4::2], "validation")
    expected |= dict.fromkeys(NAMES[5::2], "test")
    seen = 0
    for split, part in with_attributes.items():
        for row in part.remove_columns("image"):
            name = row["file_name"].rpartition("/")[2]
            listed = name in expected and PBC_CLASSES[row["label"]] == "basophil"
            assert split == (expected[name] if listed else split_of[row["file_name"]])
            assert [row[attribute] for attribute in ATTRIBUTES] == [0 if listed else None] * 11
            seen += listed
    assert seen == len(NAMES)
    assert set(plain["train"]["granularity"][:]) == {None}


def test_agreement_is_that_of_the_two_annotations(tmp_path):
    rows = annotator_agreement(make_wbcatt(tmp_path, NAMES))
    assert [row["attribute"] for row in rows] == list(ATTRIBUTES)
    assert rows[0] == {"attribute": "cell_size", "images": 4, "agreement": 0.5, "kappa": 0.0}
    assert {(row["agreement"], row["kappa"]) for row in rows[1:]} == {(1.0, None)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "pbc_attr_v1_val.csv").unlink(), "holds no pbc_attr_v1_val.csv; get it from"),
        (lambda folder: (folder / "pbc_attr_v1_val.csv").write_text("img_name\nx\n"), "has no column cell_size"),
        (lambda folder: edit(folder / "pbc_attr_v1_test.csv", "big", "huge"), "gives cell_size as 'huge'"),
        (lambda folder: edit(folder / "pbc_attr_v1_test.csv", "BA_005", "BA_000"), "lists the image BA_000.jpg twice"),
        (lambda folder: edit(folder / "pbc_attr_reannotations.csv", "BA_001", "XX_001"), "lists XX_001.jpg, which no"),
        (lambda folder: [edit(path, "BA_", "ZZ_") for path in folder.glob("*.csv")], "lists none of the images"),
    ],
)
def test_damaged_tables_are_named(tmp_path, damage, message):
    make_pbc(tmp_path / "pbc")
    make_wbcatt(tmp_path / "wbcatt", NAMES)
    damage(tmp_path / "wbcatt")
    with pytest.raises(UserError, match=message):
        build_pbc(tmp_path / "pbc", wbcatt=tmp_path / "wbcatt")


def edit(path, old, new):
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@pytest.mark.skipif("WBC_WBCATT_DIR" not in os.environ, reason="WBC_WBCATT_DIR is not set")
def test_published_tables_have_the_published_counts():
    folder = Path(os.environ["WBC_WBCATT_DIR"])
    assert read_wbcatt(folder)["split"].value_counts().to_dict() == {"train": 6169, "test": 3099, "validation": 1030}
    agreement = {row["attribute"]: row for row in annotator_agreement(folder)}
    assert {row["images"] for row in agreement.values()} == {1000}
    assert all(0.6 < row["agreement"] <= 1 and row["kappa"] <= 1 for row in agreement.values())
    # Granules are what tells the types apart, so annotators agree on them.
    assert agreement["granularity"]["kappa"] > 0.9
