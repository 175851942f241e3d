"""BCCD: its raw folders, labels, splits by photograph, and doubtful labels.

WBC_BCCD_DIR, the folder of the published images, switches on the tests at the end.
"""

import json
import os
import random
import shutil
import zipfile
from pathlib import Path

import datasets
import pytest
from PIL import ImageFile
from sklearn.model_selection import train_test_split

from hub.data.bccd import (
    BCCD,
    BCCD_CLASSES,
    bccd_differences,
    bccd_rows,
    build_bccd,
    doubtful_labels,
    extract_images,
    find_photographs,
    publisher_split,
    read_cell_labels,
    read_labels,
    validation_photographs,
)
from hub.data.columns import counts_rows
from hub.data.overlaps import Overlap, fields
from hub.evaluation.format import text_table
from hub.files import UserError
from hub.publish.dataset_card import findings
from tests.raw_folders import FILES_OF_PHOTOGRAPH, LABELS, counts, jpeg, make_bccd


def build(source):
    """The data set alone, without what was found out about its photographs."""
    return build_bccd(source)[0]


# --- Raw folders ---


@pytest.mark.parametrize(
    "place", ["", "images", "_inputs/images", "wbc-1a2b/_inputs/images", "dataset2-master/dataset2-master/images"]
)
def test_bccd_is_found_in_every_published_layout(tmp_path, place):
    make_bccd(tmp_path / "raw" / place)
    dataset = build(tmp_path / "raw")
    assert counts(dataset) == {"train": [3] * 4, "test": [2] * 4, "test_simple": [1] * 4}
    for part in dataset.values():
        assert part.features == BCCD.columns
        assert set(part["photograph"][:]) == set(part["match_error"][:]) == {None}
    assert dataset["train"][0]["file_name"] == "TRAIN/EOSINOPHIL/_0_0.jpeg"


def test_bccd_rows_are_the_files_in_order(bccd):
    part = build(bccd)["test"]
    names = part["file_name"][:]
    assert names == sorted(names)
    assert len(set(names)) == 8
    for row in part.cast_column("image", datasets.Image(decode=False)):
        assert row["image"]["bytes"] == (bccd / row["file_name"]).read_bytes()
        assert row["file_name"].split("/")[1].lower() == BCCD_CLASSES[row["label"]]


def test_class_folders_match_in_any_case_and_hidden_files_are_skipped(bccd, caplog):
    (bccd / "TRAIN" / "MONOCYTE").rename(bccd / "TRAIN" / "Monocyte")
    (bccd / "TRAIN" / "NEUTROPHIL" / ".DS_Store").write_bytes(b"x")
    (bccd / "TRAIN" / "NEUTROPHIL" / "._0_3.jpeg").write_bytes(b"x")
    (bccd / "TRAIN" / ".hidden").mkdir()
    assert counts(build(bccd))["train"] == [3] * 4
    (message,) = caplog.messages
    assert str(bccd) in message
    assert "Original_Images" in message
    assert "no validation split" in message


@pytest.mark.parametrize("lenient", [False, True])
def test_what_does_not_decode_is_named_and_left_out(bccd, caplog, monkeypatch, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    folder = bccd / "TRAIN" / "LYMPHOCYTE"
    whole = jpeg(9, (96, 96))
    (folder / "cut.jpeg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpeg").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    (folder / "folder").mkdir()
    dataset = build(bccd)
    assert counts(dataset)["train"] == [3] * 4
    assert ImageFile.LOAD_TRUNCATED_IMAGES == lenient
    for name, reason in {
        "cut.jpeg": "truncated",
        "empty.jpeg": "no image",
        "notes.txt": "no image",
        "folder": "directory",
    }.items():
        assert any(str(folder / name) in message and reason in message for message in caplog.messages)
    assert "4 files were left out" in caplog.messages


def test_bccd_errors_name_the_folder_and_what_was_looked_for(bccd, tmp_path):
    def message():
        with pytest.raises(UserError) as error:
            build(bccd)
        return str(error.value)

    (bccd / "TEST" / "BASOPHIL").mkdir()
    assert str(bccd / "TEST" / "BASOPHIL") in message()
    assert "eosinophil, lymphocyte" in message()
    (bccd / "TEST" / "BASOPHIL").rmdir()

    shutil.move(bccd / "TEST" / "MONOCYTE", tmp_path / "kept")
    assert f"{bccd / 'TEST'} holds no class folder monocyte" in message()
    (bccd / "TEST" / "MONOCYTE").mkdir()
    assert f"{bccd / 'TEST' / 'MONOCYTE'} is empty" in message()
    (bccd / "TEST" / "MONOCYTE" / "a.jpeg").write_bytes(b"damaged")
    assert "split test" in message()
    assert "no readable image of monocyte" in message()

    shutil.rmtree(bccd / "TEST_SIMPLE")
    assert str(bccd) in message()
    assert "TEST_SIMPLE" in message()


def test_a_source_without_data_is_an_error(tmp_path):
    with pytest.raises(UserError, match=f"no such folder: {tmp_path}/nowhere"):
        build(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{tmp_path} holds none of the folders test, test_simple, train"):
        build(tmp_path)


def test_two_data_sets_in_one_source_are_an_error(tmp_path):
    make_bccd(tmp_path / "a" / "images")
    make_bccd(tmp_path / "b" / "images")
    with pytest.raises(UserError, match="several data sets"):
        build(tmp_path)


def test_counts_table_is_aligned_and_differences_are_named(bccd):
    dataset = build(bccd)
    lines = text_table(counts_rows(dataset)).splitlines()
    assert lines[0].split() == ["train", "test", "test_simple"]
    assert lines[1].split() == ["eosinophil", "3", "2", "1"]
    assert lines[-1].split() == ["total", "12", "8", "4"]
    assert len({len(line) for line in lines}) == 1
    assert "test monocyte: 2 images, published 620 (-618)" in bccd_differences(dataset)


def test_kaggles_layout_and_the_archives(raw, built, tmp_path):
    kaggle = tmp_path / "kaggle"
    (kaggle / "dataset2-master" / "dataset2-master").mkdir(parents=True)
    (kaggle / "dataset-master" / "dataset-master").mkdir(parents=True)
    (kaggle / "dataset2-master" / "dataset2-master" / "images").symlink_to(raw / "images")
    (kaggle / "dataset-master" / "dataset-master" / "JPEGImages").symlink_to(raw / "Original_Images")
    (kaggle / "dataset-master" / "dataset-master" / "labels.csv").symlink_to(raw / "labels.csv")
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(raw.rglob("*.jp*g")):
            inside = path.relative_to(raw)
            top = "wbc-1a2b/_inputs" if inside.parts[0] == "images" else "wbc-1a2b"
            file.write(path, f"{top}/{inside}")
        file.write(raw / "labels.csv", "wbc-1a2b/_inputs/labels.csv")
    (tmp_path / "extracted").mkdir()
    extract_images(archive, tmp_path / "extracted")
    shutil.copy(raw / "photographs.json", tmp_path)  # so that no photograph is looked for again
    for source in (kaggle, tmp_path / "extracted"):
        photographs, labels = find_photographs(source)
        assert len(photographs) == len(labels) == 36
        assert {split: len(rows) for split, rows in bccd_rows(source, 0, tmp_path).splits.items()}[
            "test"
        ] == 8 * FILES_OF_PHOTOGRAPH


# --- Labels ---


def test_labels_are_rows_with_one_label_and_a_photograph(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        '\ufeff,Image,Category\n,3,MONOCYTE\n,1,"NEUTROPHIL, EOSINOPHIL"\n,2,\n,0,BASOPHIL\n,4,MONOCYTE\n',
        encoding="utf-8",
    )
    names = [f"BloodImage_{number:05d}" for number in range(4)]
    assert read_cell_labels(path, names) == {
        "BloodImage_00003": ["monocyte"],
        "BloodImage_00001": ["neutrophil", "eosinophil"],
        "BloodImage_00002": [],
        "BloodImage_00000": ["basophil"],
    }
    assert list(read_labels(path, names).items()) == [
        ("BloodImage_00003", "monocyte"),
        ("BloodImage_00000", "basophil"),
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a,b\n1,2\n", "Image and Category were expected"),
        (b",Image,Category\n,1,M\n,x,M\n", "line 3: Image is 'x'; a number was expected"),
        (b",Image,Category\n,1,\xff\n", "no CSV file in UTF-8"),
    ],
)
def test_damaged_labels_are_explained(tmp_path, content, message):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path / 'labels.csv'}.*{message}"):
        read_labels(tmp_path / "labels.csv", [])


def test_the_list_of_doubtful_labels_is_well_formed():
    rows = doubtful_labels()
    assert len({row["photograph"] for row in rows}) == len(rows) > 0
    for row in rows:
        assert row["label"] in BCCD_CLASSES
        assert row["looks_like"] in {*BCCD_CLASSES, "unclear"} - {row["label"]}
        assert row["reason"]


# --- Photographs ---


def test_every_file_gets_its_photograph(built, drawn):
    dataset, _registration = built
    expected = photograph_of_each_file(drawn)
    for split in ("train", "validation", "test"):
        for name, photograph, field, error in zip(
            *(dataset[split][column][:] for column in ("file_name", "photograph", "group", "match_error")), strict=True
        ):
            assert photograph == expected(name)
            assert error < 3
            assert field == ("BloodImage_00000" if photograph == "BloodImage_00032" else photograph)
    assert dataset["train"].num_rows + dataset["validation"].num_rows == 28 * FILES_OF_PHOTOGRAPH
    assert dataset["test"].num_rows == 8 * FILES_OF_PHOTOGRAPH
    assert dataset["test_simple"].num_rows == 8


def photograph_of_each_file(drawn):
    """Photograph of each file by its name, given that files were numbered in the order they were made."""
    train_names, test_names = train_test_split(list(drawn), test_size=0.2, random_state=10)  # as published
    in_order = [name for name in train_names + test_names for _ in range(FILES_OF_PHOTOGRAPH)]
    return lambda file_name: in_order[int(Path(file_name).name.split("_")[1])]


def test_photographs_are_splits_of_their_own(built, raw):
    dataset, _registration = built
    for split in ("train", "validation", "test"):
        part = dataset[f"{split}_photographs"]
        assert set(part["photograph"][:]) == set(dataset[split]["photograph"][:])
        for row in part.cast_column("image", datasets.Image(decode=False)):
            assert row["image"]["bytes"] == (raw / row["file_name"]).read_bytes()
            assert LABELS[int(row["photograph"][-5:])] == BCCD_CLASSES[row["label"]]


def test_no_photograph_and_no_field_is_on_two_sides_for_any_seed():
    rng = random.Random(0)
    for seed in range(200):
        names = [f"BloodImage_{number:05d}" for number in range(150)]
        labels = {name: rng.choices(BCCD_CLASSES, [5, 2, 1, 9])[0] for name in names}
        pairs = [sorted(rng.sample(names, 2)) for _ in range(40)]
        overlaps = [Overlap(first, second, (0, 0), 0.5, 0.9) for first, second in pairs]
        field = fields(names, overlaps)
        train_names, test_names = publisher_split(labels)
        chosen = validation_photographs(train_names, test_names, labels, field, seed)
        assert chosen == validation_photographs(train_names[::-1], test_names, labels, field, seed)
        assert chosen <= set(train_names)
        assert not {field[name] for name in chosen} & {field[name] for name in set(names) - chosen if name in labels}
        for label in BCCD_CLASSES:
            total = sum(labels[name] == label for name in train_names)
            assert sum(labels[name] == label for name in chosen) <= round(0.15 * total)
        # Most of the share is used although fields go as a whole.
        assert len(chosen) >= 0.5 * 0.15 * len(train_names)


def test_another_seed_holds_out_other_photographs(raw, built):
    parts = {seed: set(build_bccd(raw, seed)[0]["validation"]["photograph"][:]) for seed in (0, 1, 2)}
    assert len(set(map(frozenset, parts.values()))) > 1


def test_a_damaged_photograph_puts_no_other_on_a_wrong_side(raw, built, tmp_path, caplog):
    """The publisher's split of one photograph less is another one; what the files show decides."""
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    (copy / "Original_Images" / "BloodImage_00004.jpg").write_bytes(b"damaged")
    dataset, _registration = build_bccd(copy)
    before, _ = built
    assert str(copy / "Original_Images" / "BloodImage_00004.jpg") in caplog.text
    assert caplog.text.count("shows no photograph of its class") == FILES_OF_PHOTOGRAPH
    for split in ("train", "validation"):
        shown = set(dataset[f"{split}_photographs"]["photograph"][:])
        assert not shown & set(before["test_photographs"]["photograph"][:])
    assert dataset["test_photographs"]["photograph"][:] == before["test_photographs"]["photograph"][:]


def test_the_table_lies_beside_the_source(built, raw):
    assert (
        len(json.loads((raw / "photographs.json").read_text(encoding="utf-8"))["files"])
        == 36 * FILES_OF_PHOTOGRAPH + 8
    )


# --- The published images ---


@pytest.mark.skipif("WBC_BCCD_DIR" not in os.environ, reason="WBC_BCCD_DIR is not set")
def test_published_bccd_has_the_published_counts():
    dataset, registration = build_bccd(Path(os.environ["WBC_BCCD_DIR"], "images"))
    assert registration is None  # the photographs are not there but beside it
    assert {split: part.num_rows for split, part in dataset.items()} == {
        "train": 9957,
        "test": 2487,
        "test_simple": 71,
    }
    assert not bccd_differences(dataset)
    assert dataset["test_simple"][0]["image"].size == (320, 240)


@pytest.mark.skipif("WBC_BCCD_DIR" not in os.environ, reason="WBC_BCCD_DIR is not set")
def test_photographs_of_published_bccd(tmp_path):
    """Every eighth file of TRAIN and TEST, which takes two minutes; a build of the whole prints the same findings."""
    published, source = Path(os.environ["WBC_BCCD_DIR"]), tmp_path / "bccd"
    for split, step in {"TRAIN": 8, "TEST": 8, "TEST_SIMPLE": 1}.items():
        for label in BCCD_CLASSES:
            folder = Path("images", split, label.upper())
            (source / folder).mkdir(parents=True)
            for file in sorted((published / folder).iterdir())[::step]:
                (source / folder / file.name).symlink_to(file)
    (source / "Original_Images").symlink_to(published / "Original_Images")
    (source / "labels.csv").symlink_to(published / "labels.csv")
    dataset, registration = build_bccd(source)

    found = findings(dataset, registration)
    for row in found["shown"].values():
        assert row["matched"] == row["files"]
        assert row["worst"] < 3.5
    assert found["shown"]["test_simple"]["photographs"] == 69
    assert [line for line in found["exceptions"] if "`test`" not in line] == [
        "`TEST_SIMPLE/EOSINOPHIL/_0_5239.jpeg` and `TEST_SIMPLE/EOSINOPHIL/_4_8814.jpeg` both show BloodImage_00093.",
        "`TEST_SIMPLE/EOSINOPHIL/_1_5031.jpeg` and `TEST_SIMPLE/EOSINOPHIL/_6_7701.jpeg` both show BloodImage_00139.",
        "No file of `test_simple` shows BloodImage_00062, which is on TEST's side.",
        "No file of `test_simple` shows BloodImage_00095, which is on TEST's side.",
    ]
    assert len(found["overlaps"]) == 44
    train_names, test_names = map(set, publisher_split(registration.labels))
    across = [o for o in registration.overlaps if len({o.first, o.second} & train_names) == 1]
    assert sum(len({o.first, o.second} & test_names) == 1 for o in across) == 9
    for split, side in {"train": train_names, "validation": train_names, "test": test_names}.items():
        assert set(dataset[f"{split}_photographs"]["photograph"][:]) <= side
    assert dataset["test_photographs"][0]["image"].size == (640, 480)
    for row in doubtful_labels():
        assert registration.labels[row["photograph"]] == row["label"]
    usable = {name for name, label in registration.labels.items() if label != "basophil"}
    for seed in range(20):
        chosen = validation_photographs(
            train_names & usable, test_names & usable, registration.labels, registration.fields, seed
        )
        assert len(chosen) == 41
        kept = (train_names | test_names) - chosen
        assert not {registration.fields[name] for name in chosen} & {registration.fields[name] for name in kept}
