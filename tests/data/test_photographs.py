"""Which photograph a file shows, which photographs overlap, and the splits that follow from it."""

import csv
import io
import json
import logging
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from tests.data.test_build import make_pbc

import train
from hub.__main__ import main
from hub.data import photographs as photographs_module
from hub.data.bccd import (
    BCCD_CLASSES,
    _extract_images,
    bccd_differences,
    bccd_rows,
    build_bccd,
    doubtful_labels,
    find_photographs,
    validation_photographs,
)
from hub.data.columns import features
from hub.data.load import load
from hub.data.pbc import build_pbc
from hub.data.photographs import (
    Overlap,
    PhotographIndex,
    contact_sheet,
    fields,
    find_overlaps,
    grey,
    publisher_split,
    read_labels,
    register,
)
from hub.data.synthetic import draw_field
from hub.publish.dataset import findings

ROOT = Path(__file__).parents[2]
# Photographs of each class; the split that the publisher's seed gives of these 36 has all classes on both sides.
LABELS = ["eosinophil", "lymphocyte", "monocyte", "neutrophil"] * 9


def encode(image, format="JPEG"):
    content = io.BytesIO()
    image.save(content, format, quality=92)
    return content.getvalue()


def augmented(photograph, seed):
    torch.manual_seed(seed)
    return encode(train.PublisherAugmentation()(photograph))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def drawn():
    """Photographs of BCCD's size by name, all of other fields but number 32, which shows that of number 0, shifted."""
    images = {}
    for number, label in enumerate(LABELS):
        images[f"BloodImage_{number:05d}"] = draw_field(label, seed=number, size=(640, 480))
    wide = draw_field(LABELS[0], seed=99, size=(800, 600))
    images["BloodImage_00000"] = wide.crop((0, 0, 640, 480))
    images["BloodImage_00032"] = wide.crop((100, 60, 740, 540))
    return images


@pytest.fixture(scope="module")
def raw(drawn, tmp_path_factory):
    """BCCD in small, laid out and made as its publisher did."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "Original_Images").mkdir()
    for name, image in drawn.items():
        (folder / "Original_Images" / f"{name}.jpg").write_bytes(encode(image))
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "Image", "Category"])
        writer.writerows(("", number, label.upper()) for number, label in enumerate(LABELS))
        writer.writerow(["", 36, "NEUTROPHIL, EOSINOPHIL"])
        writer.writerow(["", 37, ""])
    train_names, test_names = train_test_split(list(drawn), test_size=0.2, random_state=10)
    seed = 0
    for split, names, count in (("TRAIN", train_names, 3), ("TEST", test_names, 3), ("TEST_SIMPLE", test_names, 0)):
        for name in names:
            label = LABELS[int(name[-5:])]
            place = folder / "images" / split / label.upper()
            place.mkdir(parents=True, exist_ok=True)
            if not count:
                (place / f"_{int(name[-5:])}_0.jpeg").write_bytes(
                    encode(drawn[name].resize((320, 240), Image.Resampling.BOX))
                )
            for _ in range(count):
                (place / f"_{seed}_{random.Random(seed).randrange(9999)}.jpeg").write_bytes(
                    augmented(drawn[name], seed)
                )
                seed += 1
    return folder


@pytest.fixture(scope="module")
def built(raw):
    return build_bccd(raw)


def truth(drawn):
    """Photograph of each file by its name, given that files were numbered in the order they were made."""
    train_names, test_names = train_test_split(list(drawn), test_size=0.2, random_state=10)
    in_order = [name for name in train_names + test_names for _ in range(3)]
    return lambda file_name: in_order[int(Path(file_name).name.split("_")[1])]


# --- One file ---


def test_augmented_files_are_found_and_laid_over_their_photographs(drawn):
    index = PhotographIndex({name: grey(encode(image)) for name, image in drawn.items()})
    for seed, (name, image) in enumerate(drawn.items()):
        file = augmented(image, seed)
        match = index.find(grey(file))
        assert match.photograph == name
        assert match.error < 3
        # Drawn by the transform, the photograph lies where the file shows it.
        drawn_over = contact_sheet([("x", file, encode(image), match)])
        boxes = ((6, 20, 230, 188), (236, 20, 460, 188))
        left, right = (np.asarray(drawn_over.crop(box).convert("L"), float) for box in boxes)
        assert np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.97


def test_a_file_of_no_photograph_matches_none(drawn):
    index = PhotographIndex({name: grey(encode(image)) for name, image in drawn.items()})
    assert index.find(grey(augmented(draw_field("monocyte", seed=777, size=(640, 480)), 1))) is None
    assert index.find(np.zeros((240, 320), np.uint8)) is None
    assert PhotographIndex({}).find(grey(encode(drawn["BloodImage_00001"]))) is None


def test_matching_is_deterministic(drawn):
    photographs = {name: grey(encode(image)) for name, image in drawn.items()}
    file = grey(augmented(drawn["BloodImage_00005"], 5))
    first, second = (PhotographIndex(photographs).find(file) for _ in range(2))
    assert first.error == second.error
    assert np.array_equal(first.transform, second.transform)


# --- Overlaps and fields ---


def test_a_shifted_field_overlaps_and_no_other_does(drawn):
    (overlap,) = find_overlaps({name: grey(encode(image)) for name, image in drawn.items()})
    assert (overlap.first, overlap.second) == ("BloodImage_00000", "BloodImage_00032")
    assert overlap.shift == (-50, -30)  # in pixels of 320 x 240
    assert overlap.area == pytest.approx((270 / 320) * (210 / 240), abs=0.001)
    assert overlap.correlation > 0.95


def test_fields_join_what_overlaps_through_others():
    pairs = [("b", "c"), ("d", "e"), ("a", "c")]
    overlaps = [Overlap(first, second, (0, 0), 1.0, 1.0) for first, second in pairs]
    assert fields("abcdef", overlaps) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d", "f": "f"}


# --- Labels ---


def test_labels_are_rows_with_one_label_and_a_photograph(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('\ufeff,Image,Category\n,3,MONOCYTE\n,1,"NEUTROPHIL, EOSINOPHIL"\n,2,\n,0,BASOPHIL\n,4,MONOCYTE\n')
    names = [f"BloodImage_{number:05d}" for number in range(4)]
    assert list(read_labels(path, names).items()) == [
        ("BloodImage_00003", "monocyte"),
        ("BloodImage_00000", "basophil"),
    ]


@pytest.mark.parametrize("text, message", [("a,b\n1,2\n", "Image and Category"), (",Image,Category\n,x,M\n", "'x'")])
def test_damaged_labels_are_explained(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "labels.csv", [])


# --- The data set ---


def test_every_file_gets_its_photograph(built, drawn):
    dataset, _registration = built
    expected = truth(drawn)
    for split in ("train", "validation", "test"):
        for name, photograph, field, error in zip(
            *(dataset[split][column][:] for column in ("file_name", "photograph", "field", "match_error")), strict=True
        ):
            assert photograph == expected(name)
            assert error < 3
            assert field == ("BloodImage_00000" if photograph == "BloodImage_00032" else photograph)
    assert dataset["train"].num_rows + dataset["validation"].num_rows == 28 * 3
    assert dataset["test"].num_rows == 8 * 3
    assert dataset["test_simple"].num_rows == 8


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


def test_another_seed_holds_out_other_photographs(raw):
    parts = {seed: set(build_bccd(raw, seed)[0]["validation"]["photograph"][:]) for seed in (0, 1, 2)}
    assert len(set(map(frozenset, parts.values()))) > 1


def test_what_is_not_as_expected_is_told(raw, tmp_path):
    """A file of TRAIN's photographs in TEST, a photograph shown twice in TEST_SIMPLE, and one of none."""
    copy = tmp_path / "raw"
    subprocess.run(["cp", "-r", raw, copy], check=True)
    stray = sorted((copy / "images" / "TRAIN" / "MONOCYTE").iterdir())[0]
    stray.rename(copy / "images" / "TEST" / "MONOCYTE" / "stray.jpeg")
    simple = sorted((copy / "images" / "TEST_SIMPLE" / "NEUTROPHIL").iterdir())[0]
    (simple.parent / "twin.jpeg").write_bytes(simple.read_bytes())
    foreign = copy / "images" / "TEST" / "LYMPHOCYTE" / "foreign.jpeg"
    foreign.write_bytes(augmented(draw_field("lymphocyte", seed=555, size=(640, 480)), 0))
    found = findings(*build_bccd(copy))
    told = "\n".join(found["exceptions"])
    assert "`TEST/LYMPHOCYTE/foreign.jpeg` shows no photograph of its class." in told
    assert "`TEST/MONOCYTE/stray.jpeg` shows BloodImage_" in told
    assert "of TRAIN's side" in told
    assert "twin.jpeg` both show BloodImage_" in told
    assert found["shown"]["test"]["matched"] == found["shown"]["test"]["files"] - 1


def test_a_damaged_photograph_puts_no_other_on_a_wrong_side(raw, tmp_path, caplog):
    """The publisher's split of one photograph less is another one; what the files show decides."""
    copy = tmp_path / "raw"
    subprocess.run(["cp", "-r", raw, copy], check=True)
    (copy / "Original_Images" / "BloodImage_00004.jpg").write_bytes(b"damaged")
    dataset, _registration = build_bccd(copy)
    before, _ = build_bccd(raw)
    assert str(copy / "Original_Images" / "BloodImage_00004.jpg") in caplog.text
    assert caplog.text.count("shows no photograph of its class") == 3
    for split in ("train", "validation"):
        shown = set(dataset[f"{split}_photographs"]["photograph"][:])
        assert not shown & set(before["test_photographs"]["photograph"][:])
    assert dataset["test_photographs"]["photograph"][:] == before["test_photographs"]["photograph"][:]


def test_the_command_tells_what_it_found_and_writes_a_card(raw, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["dataset", "build", "bccd", "--source", str(raw), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "test: 24 of 24 files show 8 photographs" in printed
    # Number 0 is on TRAIN's side, number 32 on TEST's.
    assert "1 pairs of photographs overlap, 1 of them between train and test: 3 test files" in printed
    card = (output / "README.md").read_text()
    assert "| BloodImage_00000, BloodImage_00032 | eosinophil, eosinophil |" in card
    assert "| test | 24 | 24 | 8 |" in card
    assert "{{" not in card
    assert "{%" not in card
    assert "None" not in card.replace("None where", "")
    assert min(Image.open(output / "worst_matches.jpg").size) > 300
    assert load(output)["test"].features == features(BCCD_CLASSES, photographs=True)


# --- The cache ---


@pytest.fixture
def few(drawn):
    """(files, photographs, labels) to register: six photographs, two of which overlap, and a file of each."""
    names = [f"BloodImage_{number:05d}" for number in (0, 1, 2, 3, 4, 32)]
    photographs = {name: encode(drawn[name]) for name in names}
    labels = {name: LABELS[int(name[-5:])] for name in names}
    files = {f"{name}.jpeg": (augmented(drawn[name], 1), labels[name]) for name in names}
    return files, photographs, labels


def test_a_second_time_nothing_is_looked_up_again(few, tmp_path, monkeypatch):
    first = register(*few, tmp_path / "cache.json")
    monkeypatch.setattr(PhotographIndex, "find", lambda *arguments: pytest.fail("looked up again"))
    monkeypatch.setattr(photographs_module, "find_overlaps", lambda *arguments: pytest.fail("looked up again"))
    second = register(*few, tmp_path / "cache.json")
    for name, match in first.matches.items():
        assert match.photograph == second.matches[name].photograph == name.removesuffix(".jpeg")
        assert match.error == second.matches[name].error
        assert np.array_equal(match.transform, second.matches[name].transform)
    assert (first.overlaps, first.fields, first.train, first.test) == (
        second.overlaps,
        second.fields,
        second.train,
        second.test,
    )
    assert len(first.overlaps) == 1


def test_only_what_changed_is_looked_up(few, drawn, tmp_path, monkeypatch):
    files, photographs, labels = few
    register(files, photographs, labels, tmp_path / "cache.json")
    looked_up = []
    find = PhotographIndex.find
    monkeypatch.setattr(PhotographIndex, "find", lambda *given: looked_up.append(0) or find(*given))
    new = {
        "BloodImage_00001.jpeg": (augmented(drawn["BloodImage_00001"], 2), "lymphocyte"),  # other content
        "BloodImage_00002.jpeg": (files["BloodImage_00002.jpeg"][0], "lymphocyte"),  # in the folder of another class
        "new.jpeg": (augmented(drawn["BloodImage_00003"], 2), "neutrophil"),
    }
    matches = register(files | new, photographs, labels, tmp_path / "cache.json").matches
    assert len(looked_up) == 3
    assert matches["new.jpeg"].photograph == "BloodImage_00003"
    assert matches["BloodImage_00002.jpeg"] is None
    # With another photograph, everything is.
    photographs = photographs | {"BloodImage_00004": photographs["BloodImage_00003"]}
    register(files, photographs, labels, tmp_path / "cache.json")
    assert len(looked_up) == 3 + 6


def test_an_interruption_keeps_what_was_found(few, tmp_path, monkeypatch):
    find = PhotographIndex.find
    calls = []

    def stop_after_three(*given):
        calls.append(0)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return find(*given)

    monkeypatch.setattr(PhotographIndex, "find", stop_after_three)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        register(*few, tmp_path / "cache.json")
    known = json.loads((tmp_path / "cache.json").read_text())
    assert len(known["files"]) == 3
    assert known["overlaps"]
    assert os.listdir(tmp_path) == ["cache.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 3}', '{"key": "another"}'])
def test_a_damaged_cache_is_not_used(few, tmp_path, content):
    (tmp_path / "cache.json").write_text(content)
    matches = register(*few, tmp_path / "cache.json").matches
    assert {name.removesuffix(".jpeg"): name for name in matches} == {m.photograph: n for n, m in matches.items()}
    assert len(json.loads((tmp_path / "cache.json").read_text())["files"]) == 6


def test_where_nothing_can_be_written_the_work_is_done_all_the_same(few, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        registration = register(*few, tmp_path / "no" / "such" / "folder" / "cache.json")
    assert all(registration.matches.values())
    assert "could not be written" in caplog.text


def test_the_table_lies_beside_the_source(built, raw):
    assert len(json.loads((raw / "photographs.json").read_text())["files"]) == 116


# --- Other layouts ---


def test_kaggles_layout_and_the_archives(raw, tmp_path):
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
    _extract_images(archive, tmp_path / "extracted")
    for source in (kaggle, tmp_path / "extracted"):
        photographs, labels = find_photographs(source)
        assert len(photographs) == len(labels) == 36
        assert {split: len(rows) for split, rows in bccd_rows(source, 0, tmp_path)[0].items()}["test"] == 24


def test_blood8_is_the_union(raw, tmp_path, capsys):
    make_pbc(tmp_path / "pbc")
    output = tmp_path / "out"
    arguments = ["--bccd", str(raw), "--pbc", str(tmp_path / "pbc"), "--output", str(output)]
    assert main(["dataset", "build", "blood8", *arguments]) == 0
    union = load(output)
    bccd, _ = build_bccd(raw)
    pbc = build_pbc(tmp_path / "pbc")
    names = ["basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet"]
    for split, part in union.items():
        assert part.features["label"].names == names
        expected = [
            (f"{name}/{row['file_name']}", names.index(source[split].features["label"].names[row["label"]]), name)
            for name, source in (("bccd", bccd), ("pbc", pbc))
            if split in source
            for row in source[split].remove_columns("image")
        ]
        rows = part.remove_columns("image")
        assert [(row["file_name"], row["label"], row["dataset"]) for row in rows] == expected
        assert all((row["photograph"] is None) == (row["dataset"] == "pbc") for row in rows)
    assert union.keys() == bccd.keys()
    card = (output / "README.md").read_text()
    assert "CC BY 4.0" in card
    assert "MIT licence" in card
    assert "| ig |" in card
    assert "test: 24 of 24 files show 8 photographs" in capsys.readouterr().out


# --- The review of labels ---


def test_the_list_of_doubtful_labels_is_well_formed():
    rows = doubtful_labels()
    assert len({row["photograph"] for row in rows}) == len(rows) > 0
    for row in rows:
        assert row["label"] in BCCD_CLASSES
        assert row["looks_like"] in {*BCCD_CLASSES, "unclear"} - {row["label"]}
        assert row["reason"]


def voc_object(name, *box):
    sides = "".join(f"<{side}>{at}</{side}>" for side, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"


def test_a_wrong_label_is_found(tmp_path, capsys, monkeypatch):
    """Of 40 drawn cells, the two whose labels were swapped are what cross-validation is surest to be wrong."""
    (tmp_path / "Original_Images").mkdir()
    (tmp_path / "Annotations").mkdir()
    rows = []
    for number in range(40):
        label = ("eosinophil", "lymphocyte")[number % 2]
        image = draw_field(label, seed=number, size=(640, 480))
        image.save(tmp_path / "Original_Images" / f"BloodImage_{number:05d}.jpg")
        # The white cell lets the least green through.
        dark = np.asarray(image.convert("RGB").resize((80, 60), Image.Resampling.BOX)).astype(int)[:, :, 1]
        row, column = np.unravel_index(dark.argmin(), dark.shape)
        (tmp_path / "Annotations" / f"BloodImage_{number:05d}.xml").write_text(
            f"<annotation>{voc_object('RBC', 0, 0, 639, 479)}"
            f"{voc_object('WBC', 8 * column - 80, 8 * row - 80, 8 * column + 80, 8 * row + 80)}</annotation>"
        )
        rows.append((number, label.upper()))
    rows[6:8] = (6, "LYMPHOCYTE"), (7, "EOSINOPHIL")
    draw_field("neutrophil", seed=40, size=(640, 480)).save(tmp_path / "Original_Images" / "BloodImage_00040.jpg")
    rows.append((40, "BASOPHIL"))  # no class folder has it, so it is not judged
    lines = [",Image,Category", *(f",{number},{label}" for number, label in rows)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert main(["dataset", "review", "--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "judgements.csv", newline="") as file:
        judgements = list(csv.DictReader(file))
    assert len(judgements) == 40
    assert {row["photograph"] for row in judgements[:2]} == {"BloodImage_00006", "BloodImage_00007"}
    assert all(row["label"] != row["predicted"] and float(row["confidence"]) > 0.5 for row in judgements[:2])
    assert min(Image.open(tmp_path / "out" / "wrong.png").size) > 150
    # The table beside the source is the one that a build makes and needs.
    photographs, labels = find_photographs(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(photographs_module, "find_overlaps", lambda *arguments: pytest.fail("looked up again"))
        contents = {name: row["image"]["bytes"] for name, row in photographs.items()}
        register({}, contents, labels, tmp_path / "photographs.json")
    assert main(["dataset", "review", "--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    (tmp_path / "Annotations" / "BloodImage_00003.xml").write_text("<annotation>")
    assert main(["dataset", "review", "--source", str(tmp_path), "--output", str(tmp_path / "again")]) == 1
    assert "BloodImage_00003.xml is no Pascal VOC annotation" in capsys.readouterr().err


def test_training_does_without_opencv():
    code = "import sys, train; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


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
    train_names, test_names = set(registration.train), set(registration.test)
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
