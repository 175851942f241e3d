"""CellImages: reproducible augmentation, cells detected once, and evaluation as the image processor does it."""

import datasets
import pytest
import torch
from PIL import Image

from hub.data.load import load
from hub.files import UserError
from hub.training.augmentation import AUGMENTATIONS
from hub.training.images import CellImages, foremost_cell, only_of
from modeling_wbc import WBCImageProcessor


@pytest.fixture
def rows(data):
    return load(data)["train"]


def test_augmentation_depends_on_seed_epoch_and_row_alone(rows):
    processor = WBCImageProcessor(size=32, do_find_cell=False)

    def image(index, epoch, seed=0):
        images = CellImages(rows, processor, [0, 1, 2, 3], AUGMENTATIONS["paper"], seed)
        images.set_epoch(epoch)
        torch.rand(epoch + 1)  # other draws of the process must not matter
        return images[index]["pixel_values"]

    assert torch.equal(image(3, epoch=1), image(3, epoch=1))
    assert not torch.equal(image(3, epoch=1), image(3, epoch=2))
    assert not torch.equal(image(3, epoch=1), image(3, epoch=1, seed=1))
    state = torch.get_rng_state()
    image(0, epoch=0)
    torch.rand(1)
    assert not torch.equal(state, torch.get_rng_state())  # and the image must not reset the state of the generator


def test_an_image_without_a_cell_stays_whole():
    half = Image.new("RGB", (64, 48), "white")
    half.paste("black", (0, 0, 64, 24))
    blank = datasets.Dataset.from_dict({"image": [half], "label": [0]}).cast_column("image", datasets.Image())
    processor = WBCImageProcessor(size=32)
    images = CellImages(blank, processor, [0], lambda whole: whole.rotate(180))
    whole = WBCImageProcessor(size=32, do_find_cell=False)(half.rotate(180), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(images[0]["pixel_values"], whole)


def test_the_cell_of_a_file_is_detected_once(rows, monkeypatch):
    looks = []
    find_cells = WBCImageProcessor.find_cells
    monkeypatch.setattr(
        WBCImageProcessor, "find_cells", lambda self, image: looks.append(1) or find_cells(self, image)
    )
    images = CellImages(rows, WBCImageProcessor(size=32), [0, 1, 2, 3], AUGMENTATIONS["paper"])
    first = [images[index]["pixel_values"] for index in (0, 1, 0)]
    assert len(looks) == 2
    assert torch.equal(first[0], first[2])
    images.set_epoch(1)
    assert not torch.equal(images[0]["pixel_values"], first[0])
    assert len(looks) == 2


def test_an_evaluated_image_is_preprocessed_as_by_the_image_processor(rows, monkeypatch):
    processor = WBCImageProcessor(size=32)
    blank = {"image": Image.new("RGB", (64, 48), "white"), "label": 0}
    dataset = datasets.Dataset.from_list([*rows.select(range(4)), blank], features=rows.features)
    whole = [processor(row["image"].convert("RGB"), return_tensors="pt")["pixel_values"][0] for row in dataset]
    cells = [foremost_cell(processor, row["image"].convert("RGB")).tolist() for row in dataset]
    images = CellImages(dataset, processor, [0, 1, 2, 3])
    assert all(torch.equal(images[index]["pixel_values"], pixel_values) for index, pixel_values in enumerate(whole))
    monkeypatch.delattr(WBCImageProcessor, "find_cells")
    known = CellImages(dataset.add_column("foremost_cell", cells), processor, [0, 1, 2, 3])
    assert all(torch.equal(known[index]["pixel_values"], pixel_values) for index, pixel_values in enumerate(whole))


def test_one_data_set_alone_is_trained_on_and_all_are_tested(blood):
    splits = load(blood)
    reduced = only_of(splits, "pbc")
    for split in ("train", "validation"):
        assert set(reduced[split]["lab"]) == {"pbc"}
        assert len(reduced[split]) == 6
    assert len(reduced["test"]) == len(splits["test"])
    assert reduced.keys() == splits.keys()
    images = CellImages(splits["train"], WBCImageProcessor(size=32), list(range(5)))
    assert images.origins == splits["train"]["lab"][:]
    assert CellImages(splits["train"].remove_columns("lab"), None, list(range(5))).origins == [""] * len(images)


def test_a_data_set_to_train_on_that_is_not_there_is_named(blood, data):
    for folder, known in ((blood, r"\['bccd', 'pbc'\]"), (data, r"\[\]")):
        with pytest.raises(UserError, match=f"--train_on names 'PBC'; .* has {known}"):
            only_of(load(folder), "PBC")
