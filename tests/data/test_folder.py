"""Anybody's images: lab, groups and splits."""

import pytest

from hub.data.folder import folder_publisher
from hub.files import UserError
from tests.raw_folders import jpeg, make_classes


def make_slides(folder):
    """Two classes of ten slides each, one file a slide and class, and one file of no slide."""
    for position, name in enumerate(("Band", "Segmented")):
        (folder / name).mkdir(parents=True)
        for slide in range(10):
            (folder / name / f"S{slide}_{position}.jpg").write_bytes(jpeg(20 * slide + position))
    (folder / "Band" / "unknown.jpg").write_bytes(jpeg(250))
    return folder


def test_groups_come_from_file_names_and_stay_together(tmp_path, caplog):
    publisher = folder_publisher(make_slides(tmp_path), "Our lab", r"^(S\d+)_")
    dataset = publisher.build(tmp_path, seed=3)
    assert publisher.class_names == ("band", "segmented")
    train, validation = (set(dataset[split]["group"][:]) for split in ("train", "validation"))
    assert not (train & validation) - {None}
    assert 2 <= len(validation - {None}) <= 3
    assert (train | validation) - {None} == {f"S{slide}" for slide in range(10)}
    assert set(dataset["train"]["lab"][:]) == {"Our lab"}
    assert "1 files have no group, such as Band/unknown.jpg" in caplog.text


def test_split_folders_are_kept(tmp_path):
    make_classes(tmp_path / "TRAIN", ("a", "b"), 2)
    make_classes(tmp_path / "val", ("a",), 1)
    dataset = folder_publisher(tmp_path, "x").build(tmp_path)
    assert {split: part.num_rows for split, part in dataset.items()} == {"train": 4, "validation": 1}
    assert set(dataset["train"]["group"][:]) == {None}
    assert dataset["validation"][0]["file_name"] == "val/a/a_000.jpg"


@pytest.mark.parametrize(
    ("lab", "group", "message"),
    [
        ("", None, "the name of the lab is empty"),
        ("x", "(", "is no regular expression"),
        ("x", r"^S\d", "has 0 groups in parentheses; one is needed"),
        ("x", "^(T)", "matches no file name, such as Band/S0_0.jpg"),
    ],
)
def test_wrong_arguments_are_explained(tmp_path, lab, group, message):
    make_slides(tmp_path)
    with pytest.raises(UserError, match=message):
        folder_publisher(tmp_path, lab, group).build(tmp_path)


def test_folders_that_are_no_data_set_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        folder_publisher(tmp_path / "nowhere", "x")
    make_classes(tmp_path, ("a",), 1)
    with pytest.raises(UserError, match="holds 1 class folders; two or more are needed"):
        folder_publisher(tmp_path, "x")
    make_classes(tmp_path / "more", ("a", "b"), 1)
    (tmp_path / "more" / "b" / "b_000.jpg").write_bytes(b"damaged")
    with pytest.raises(UserError, match="holds no readable image of b"):
        folder_publisher(tmp_path / "more", "x").build(tmp_path / "more")
