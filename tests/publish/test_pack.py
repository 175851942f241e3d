"""A data set packed into crops: the same cells for trainings and evaluations, in small files."""

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from PIL import Image

from hub.__main__ import main
from hub.data.load import load, save
from hub.data.synthetic import draw_field
from hub.files import UserError
from hub.publish.pack import pack
from hub.training.crops import cut_out
from hub.training.images import CellImages
from hub.training.weights import load_image_processor
from tests.raw_folders import encode


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """A saved data set of eight fields with a cell, one without, and one that cannot be read."""
    names = ["neutrophil", "lymphocyte"]
    images = [encode(draw_field(names[seed % 2], seed), "PNG") for seed in range(8)]
    images.append(encode(Image.new("RGB", (320, 240), (235, 235, 235)), "PNG"))
    images = [{"bytes": image, "path": None} for image in images] + [{"bytes": b"broken", "path": "broken.png"}]
    features = datasets.Features(
        {"image": datasets.Image(), "label": ClassLabel(names=names), "lab": datasets.Value("string")}
    )
    columns = {"image": images, "label": [0, 1] * 5, "lab": [f"lab {row}" for row in range(10)]}
    rows = Dataset.from_dict(columns, features=features)
    folder = tmp_path_factory.mktemp("fields") / "data"
    save(DatasetDict(train=rows, test=rows.select(range(4))), folder)
    return folder


@pytest.fixture(scope="module")
def packed(fields, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "data"
    assert main(["dataset", "pack", str(fields), "--output", str(folder)]) == 0
    return folder


def test_the_cells_are_those_of_the_images(fields, packed):
    before, after = load(fields), load(packed)
    assert {split: len(rows) for split, rows in after.items()} == {"train": 9, "test": 4}
    assert after["train"].features["label"] == before["train"].features["label"]
    assert after["train"]["label"][:] == before["train"]["label"][:9]
    assert after["train"]["lab"][:] == before["train"]["lab"][:9]
    processor = load_image_processor(None, 64, find_cell=True)
    plain, crops = (CellImages(rows["train"], processor, label_ids=[0, 1]) for rows in (before, after))
    for row in range(8):
        # WebP rounds, and the light of a crop is corrected by what little background it shows.
        assert (cut_out(plain, row).float() - cut_out(crops, row).float()).abs().mean() < 4
        assert (plain[row]["pixel_values"] - crops[row]["pixel_values"]).abs().mean() < 0.1
    assert not crops.boxes[8].any()  # no cell, so the whole image
    assert load(packed)["train"][8]["image"].size == (192, 144)


def test_nothing_is_detected_in_crops(packed, monkeypatch):
    monkeypatch.setattr("hub.training.images.foremost_cell", lambda *_: pytest.fail("detected"))
    rows = load(packed)["test"]
    images = CellImages(rows, load_image_processor(None, 32, find_cell=True), label_ids=[0, 1])
    assert torch.stack([images[row]["pixel_values"] for row in range(4)]).shape == (4, 3, 32, 32)


def test_files_are_small_and_none_is_half_written(fields, tmp_path, caplog):
    written = pack(fields, tmp_path / "small", part_bytes=6_000, workers=0)
    assert "broken.png" in caplog.text
    files = sorted((tmp_path / "small" / "data").iterdir())
    assert len(files) == written["train"]["parts"] + written["test"]["parts"] > 3
    assert all(
        file.name.split("-of-")[1] == f"{written[file.name.split('-')[0]]['parts']:05d}.parquet" for file in files
    )
    assert sum(file.stat().st_size for file in files) == sum(counts["bytes"] for counts in written.values())
    assert load(tmp_path / "small")["train"]["lab"][:] == [f"lab {row}" for row in range(9)]
    with pytest.raises(UserError, match="not empty"):
        pack(fields, tmp_path / "small")


def test_parts_keep_to_the_limit(fields, tmp_path):
    whole = pack(fields, tmp_path / "whole", workers=0)
    assert whole["train"]["parts"] == 1
    limit = (tmp_path / "whole" / "data" / "train-00000-of-00001.parquet").stat().st_size - 1
    halves = pack(fields, tmp_path / "halves", part_bytes=limit, workers=0)
    assert halves["train"]["parts"] == 2
    assert all(file.stat().st_size <= limit for file in (tmp_path / "halves" / "data").glob("train-*"))


def test_a_damaged_part_is_named(packed, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=f"cannot load the parquet files of {tmp_path}"):
        load(tmp_path)
