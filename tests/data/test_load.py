"""Loading of every kind of data set, and saving."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image as PILImage

from hub.data.bccd import BCCD_CLASSES, build_bccd
from hub.data.columns import class_counts, features
from hub.data.load import load, save
from hub.files import UserError
from tests.raw_folders import counts, jpeg

ROOT = Path(__file__).parents[2]


def build(source):
    """The data set alone, without what was found out about its photographs."""
    return build_bccd(source)[0]


# --- Saving ---


def test_saved_and_loaded_data_are_the_same(bccd, tmp_path):
    dataset = build(bccd)
    save(dataset, tmp_path / "new" / "out")
    loaded = load(tmp_path / "new" / "out")
    assert os.listdir(tmp_path / "new") == ["out"]
    assert loaded["train"].features == dataset["train"].features
    assert loaded["test"].with_format("arrow")[:] == dataset["test"].with_format("arrow")[:]


def test_a_filled_output_is_refused_and_kept(bccd, tmp_path):
    dataset = build(bccd)
    (tmp_path / "out").mkdir()
    save(dataset, tmp_path / "out")
    before = sorted(os.listdir(tmp_path / "out"))
    for output in (tmp_path / "out", bccd / "TRAIN" / "MONOCYTE" / "_0_2.jpeg"):
        with pytest.raises(UserError, match=f"{output} exists .*; remove it or name another"):
            save(dataset, output)
    assert sorted(os.listdir(tmp_path / "out")) == before


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, OSError])
def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch, failure):
    def fail(self, path):
        Path(path).mkdir()
        raise failure

    monkeypatch.setattr(DatasetDict, "save_to_disk", fail)
    (tmp_path / "place").mkdir()
    with pytest.raises(failure):
        save(DatasetDict(), tmp_path / "place" / "out")
    assert not os.listdir(tmp_path / "place")


def test_the_partial_copy_of_a_living_process_stays(bccd, tmp_path):
    living = tmp_path / f".out.partial-{os.getppid()}"
    living.mkdir()
    save(build(bccd), tmp_path / "out")
    assert living.exists()


# --- Loading ---


def make_plain(folder, layout):
    """Two images of each of two classes in every folder of `layout`."""
    for split in layout:
        for position, name in enumerate(("band", "segmented")):
            (folder / split / name).mkdir(parents=True)
            for index in range(2):
                (folder / split / name / f"test_{index}.jpg").write_bytes(jpeg(20 * index + position))
    return folder


def test_without_a_name_cells_are_drawn():
    dataset = load()
    assert {split: part.num_rows for split, part in dataset.items()} == {"train": 256, "test": 64}
    assert dataset["train"].features == features(BCCD_CLASSES)


@pytest.mark.parametrize(
    "layout, splits",
    [
        ([""], {"train"}),
        (["train", "test"], {"train", "test"}),
        (["TRAIN", "val", "TEST", "TEST_SIMPLE"], {"train", "validation", "test", "test_simple"}),
    ],
)
def test_a_plain_folder_is_loaded(tmp_path, layout, splits):
    dataset = load(make_plain(tmp_path / "cells", layout))
    assert set(dataset) == splits
    for part in dataset.values():
        assert class_counts(part) == {"band": 2, "segmented": 2}
        assert part[0]["image"].size == (24, 16)


def test_a_table_of_answers_beside_images_changes_nothing(bccd, tmp_path):
    """`hub predict` writes parquet files, and a user may have them written beside what was read."""
    table = Dataset.from_dict({"file": ["a.jpg"], "label": ["monocyte"]})
    for name in ("eosinophil", "monocyte"):
        (tmp_path / "plain" / name).mkdir(parents=True)
        (tmp_path / "plain" / name / "a.jpg").write_bytes(jpeg())
    table.to_parquet(tmp_path / "plain" / "cells.parquet")
    assert load(tmp_path / "plain")["train"].num_rows == 2
    save(build(bccd), tmp_path / "saved")
    before = load(tmp_path / "saved")["train"].num_rows
    table.to_parquet(tmp_path / "saved" / "train" / "cells.parquet")
    table.to_parquet(tmp_path / "saved" / "cells.parquet")
    assert load(tmp_path / "saved")["train"].num_rows == before


def test_parquet_files_are_found_as_repositories_have_them(tmp_path):
    rows = Dataset.from_dict(
        {"image": [{"bytes": jpeg(), "path": None}] * 2, "label": [0, 1]},
        features=Features({"image": datasets.Image(), "label": ClassLabel(names=["a", "b"])}),
    )
    for place in ("flat", "nested/data"):
        (tmp_path / place).mkdir(parents=True)
        rows.to_parquet(tmp_path / place / "train-00000-of-00001.parquet")
    for folder in ("flat", "nested"):
        assert load(tmp_path / folder)["train"].features == rows.features
    with pytest.raises(UserError, match=r"cannot load the parquet files of .* in the configuration other"):
        load(tmp_path / "nested", "other")


def test_unreadable_files_of_a_plain_folder_are_left_out(tmp_path, caplog):
    folder = make_plain(tmp_path / "cells", ["train", "test"])
    broken = folder / "train" / "band" / "test_0.jpg"
    broken.write_bytes(jpeg(1, (96, 96))[:900])
    dataset = load(folder)
    assert counts(dataset) == {"train": [1, 2], "test": [2, 2]}
    assert any(str(broken) in message for message in caplog.messages)
    assert sum(np.asarray(row["image"]).shape == (16, 24, 3) for row in dataset["train"]) == 3


def test_a_folder_beside_splits_is_ignored_with_a_warning(tmp_path, caplog):
    folder = make_plain(tmp_path / "cells", ["train", "test", "rejected"])
    assert set(load(folder)) == {"train", "test"}
    assert str(folder / "rejected") in caplog.text


def test_a_plain_folder_that_cannot_be_used_is_explained(tmp_path):
    make_plain(tmp_path / "deep" / "inner", ["train", "test"])
    with pytest.raises(UserError, match=f"name the folder {tmp_path / 'deep' / 'inner'}"):
        load(tmp_path / "deep")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.jpg").write_bytes(jpeg())
    with pytest.raises(UserError, match=r"flat has the columns image \(Image\); .*two classes or more"):
        load(tmp_path / "flat")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is neither a saved data set nor a folder of images"):
        load(tmp_path / "empty")
    (tmp_path / "damaged" / "a").mkdir(parents=True)
    (tmp_path / "damaged" / "b").mkdir()
    for name in "ab":
        (tmp_path / "damaged" / name / "x.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"split train of .*damaged has no rows"):
        load(tmp_path / "damaged")
    with pytest.raises(UserError, match="has no configuration 'full'"):
        load(tmp_path / "flat", "full")


def test_a_saved_single_split_becomes_train(bccd, tmp_path):
    build(bccd)["test"].save_to_disk(tmp_path / "single")
    assert counts(load(str(tmp_path / "single"))) == {"train": [2] * 4}


def test_a_saved_data_set_of_another_form_is_explained(bccd, tmp_path):
    dataset = build(bccd)
    renamed = dataset.rename_column("label", "labels")
    renamed.save_to_disk(tmp_path / "renamed")
    with pytest.raises(UserError, match=r"labels \(ClassLabel\).*were expected: rename columns"):
        load(tmp_path / "renamed")
    dataset.cast_column("label", Value("int64")).save_to_disk(tmp_path / "cast")
    with pytest.raises(UserError, match=r"label \(Value\)"):
        load(tmp_path / "cast")
    dataset.save_to_disk(tmp_path / "empty")
    # What save_to_disk makes of a split without rows, in the versions that can write one.
    state = tmp_path / "empty" / "test" / "state.json"
    known = json.loads(state.read_text(encoding="utf-8"))
    state.write_text(json.dumps({**known, "_data_files": []}), encoding="utf-8")
    with pytest.raises(UserError, match=r"split .*test has no rows"):
        load(tmp_path / "empty")
    other = dataset["test"].cast(Features({**dataset["test"].features, "label": ClassLabel(names=list("abcd"))}))
    DatasetDict({**dataset, "test": other}).save_to_disk(tmp_path / "other")
    with pytest.raises(UserError, match="differ in their classes"):
        load(tmp_path / "other")
    dataset.save_to_disk(tmp_path / "damaged")
    shutil.rmtree(tmp_path / "damaged" / "test")
    with pytest.raises(UserError, match="damaged saved data set"):
        load(tmp_path / "damaged")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "../nowhere"])
def test_a_missing_folder_is_called_missing(name):
    with pytest.raises(UserError, match=r"no such folder: .*nowhere"):
        load(name)


def test_a_file_is_no_data_set(tmp_path):
    (tmp_path / "cells.zip").write_bytes(b"x")
    with pytest.raises(UserError, match="not a folder"):
        load(tmp_path / "cells.zip")


def test_a_hub_data_set_is_loaded_by_id(monkeypatch, bccd):
    dataset = build(bccd)
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: calls.append(args) or dataset)
    loaded = load("someone/cells", "full")
    assert loaded["train"]["file_name"][:] == dataset["train"]["file_name"][:]
    assert calls == [("someone/cells", "full")]
    bare = DatasetDict(train=Dataset.from_dict({"img": [1]}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: bare)
    with pytest.raises(UserError, match=r"the Hub data set someone/cells has the columns img \(Value\)"):
        load("someone/cells")


def test_rows_of_the_hub_without_image_or_label_are_handled(monkeypatch, bccd, caplog):
    dataset = build(bccd)
    encoded = dataset["train"].cast_column("image", datasets.Image(decode=False))
    rows = encoded.to_list()
    rows[1]["image"] = {"bytes": rows[1]["image"]["bytes"][:-40], "path": "torn.jpeg"}
    broken = DatasetDict(train=Dataset.from_list(rows, features=dataset["train"].features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: broken)
    assert len(load("someone/cells")["train"]) == len(rows) - 1
    assert "torn.jpeg" in caplog.text

    rows[0]["label"] = -1
    unlabelled = DatasetDict(train=Dataset.from_list(rows, features=dataset["train"].features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: unlabelled)
    with pytest.raises(UserError, match="split train of the Hub data set someone/cells has 1 rows without a label"):
        load("someone/cells")


def test_columns_of_an_earlier_version_get_their_present_names(bccd, tmp_path):
    dataset = build(bccd).rename_columns({"lab": "dataset", "group": "field"})
    save(dataset, tmp_path / "out")
    part = load(tmp_path / "out")["test"]
    assert set(part["lab"][:]) == {"bccd"}
    assert set(part["group"][:]) == {None}
    assert not {"dataset", "field"} & set(part.column_names)


def test_an_unreachable_hub_data_set_is_explained(monkeypatch):
    def refuse(*args):
        raise datasets.exceptions.DatasetNotFoundError("no such thing\nat all")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError) as error:
        load("someone/cells", "full")
    message = str(error.value)
    for part in ("someone/cells (configuration full)", "saved data set", "folder of images", "id of a Hub", "no such"):
        assert part in message
    assert "\n" not in message


def test_training_does_without_opencv():
    code = "import sys, train; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_name_that_is_no_text_is_told(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        PILImage.new("RGB", (8, 8)).save(tmp_path / name / "good.png")
    (tmp_path / "a" / "good.png").rename(tmp_path / "a" / os.fsdecode(b"pr\xe9p.png"))
    with pytest.raises(UserError, match=r"pr\\xe9p.png is no valid UTF-8; rename the file"):
        load(tmp_path)
