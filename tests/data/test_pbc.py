"""PBC: its raw folders and splits.

WBC_PBC_DIR, the folder of the published images, switches on the test at the end.
"""

import os
import shutil

import numpy as np
import pytest

from hub.data.bccd import BCCD_CLASSES
from hub.data.columns import STAGES
from hub.data.pbc import PBC, PBC_CLASSES, build_pbc
from hub.files import UserError
from tests.raw_folders import counts, make_pbc


@pytest.mark.parametrize("place", ["", "PBC_dataset_normal_DIB"])
def test_pbc_is_split_by_class_and_seed(tmp_path, place):
    make_pbc(tmp_path / "raw" / place)
    dataset = build_pbc(tmp_path / "raw", seed=1)
    assert counts(dataset) == {"train": [8] * 8, "validation": [1] * 8, "test": [1] * 8}
    assert dataset["train"].features == PBC.columns
    names = {split: part["file_name"][:] for split, part in dataset.items()}
    assert len({name for part in names.values() for name in part}) == 80
    assert {split: part["file_name"][:] for split, part in build_pbc(tmp_path / "raw", seed=1).items()} == names
    assert build_pbc(tmp_path / "raw", seed=2)["test"]["file_name"][:] != names["test"]
    for row in dataset["test"]:
        assert row["file_name"].split("/")[0] == PBC_CLASSES[row["label"]]


def test_stages_are_read_from_file_names(tmp_path):
    make_pbc(tmp_path)
    names = {"BNE_1": "band neutrophil", "SNE_2": "segmented neutrophil", "NEUTROPHIL_3": None}
    names |= {"PMY_1": "promyelocyte", "MY_2": "myelocyte", "MMY_3": "metamyelocyte", "IG_4": None}
    for name in names:
        folder = "neutrophil" if "NE" in name else "ig"
        min((tmp_path / folder).glob(f"{folder[:2].upper()}_0*")).rename(tmp_path / folder / f"{name}.jpg")
    found = {}
    for part in build_pbc(tmp_path).values():
        for row in part:
            stage = row["stage"] if row["stage"] is None else STAGES[row["stage"]]
            found[row["file_name"].rpartition("/")[2].removesuffix(".jpg")] = stage
    assert {name: found.pop(name) for name in names} == names
    assert set(found.values()) == {None}


def test_pbc_errors_name_the_folder(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} holds none of the folders basophil"):
        build_pbc(tmp_path)
    make_pbc(tmp_path / "raw")
    (tmp_path / "raw" / "ig" / "IG_000.jpg").write_bytes(b"damaged")
    with pytest.raises(UserError, match="9 readable images of ig"):
        build_pbc(tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / "ig")
    with pytest.raises(UserError, match=f"{tmp_path / 'raw'} holds no class folder ig"):
        build_pbc(tmp_path / "raw")


def test_shared_classes_of_bccd_and_pbc_have_one_name():
    assert set(BCCD_CLASSES) < set(PBC_CLASSES)
    assert list(PBC_CLASSES) == sorted(PBC_CLASSES)


@pytest.mark.skipif("WBC_PBC_DIR" not in os.environ, reason="WBC_PBC_DIR is not set")
def test_published_pbc_has_the_published_counts():
    dataset = build_pbc(os.environ["WBC_PBC_DIR"])
    assert np.sum(list(counts(dataset).values()), axis=0).tolist() == [
        1218, 3117, 1551, 2895, 1214, 1420, 3329, 2348,
    ]  # fmt: skip
    assert [dataset[split].num_rows for split in ("train", "validation", "test")] == [13673, 1709, 1710]
