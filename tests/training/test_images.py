"""CellImages: reproducible augmentation, cells detected once, and evaluation as the image processor does it."""

import pickle

import datasets
import pytest
import torch
from PIL import Image
from runs import arguments

import train
from hub.data.load import load
from hub.files import UserError
from hub.training.augmentation import AUGMENTATIONS
from hub.training.images import CellImages, foremost_cell, only_of
from hub.training.trainer import WBCTrainer
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


def test_workers_that_outlive_an_epoch_see_what_changes_in_training(data, tiny, tmp_path, monkeypatch):
    """Two persistent workers show the images that a run without workers shows: other ones in each epoch."""
    shown, changed = {}, {}
    for workers in ("0", "2"):
        seen = shown[workers] = []
        compute_loss = WBCTrainer.compute_loss

        def watch(self, model, inputs, *args, seen=seen, compute_loss=compute_loss, **kwargs):
            if model.training:
                seen.append(inputs["pixel_values"].clone())
            return compute_loss(self, model, inputs, *args, **kwargs)

        made = []
        init = CellImages.__init__

        def keep(self, *args, made=made, init=init, **kwargs):
            init(self, *args, **kwargs)
            made.append((self, {name: pickle.dumps(value) for name, value in vars(self).items()}))

        with monkeypatch.context() as patch:
            patch.setattr(WBCTrainer, "compute_loss", watch)
            patch.setattr(CellImages, "__init__", keep)
            schedule = (
                "--do_train",
                "--num_train_epochs",
                "3",
                "--find_cell",
                "--train_sampling_strategy",
                "sequential",
            )
            more = () if workers == "0" else ("--dataloader_persistent_workers",)
            output = tmp_path / workers
            train.main(arguments(data, tiny, output, *schedule, "--dataloader_num_workers", workers, *more))
        images, before = made[0]
        changed[workers] = {name for name, value in vars(images).items() if pickle.dumps(value) != before[name]}
        assert all(vars(images)[name].is_shared() for name in changed[workers])
    assert changed["0"] == changed["2"] == {"_epoch", "boxes"}
    assert not images.boxes.isnan().any()
    assert len(shown["0"]) == len(shown["2"]) == 9
    assert all(map(torch.equal, shown["0"], shown["2"]))
    first, second, third = (torch.cat(shown["2"][start : start + 3]) for start in (0, 3, 6))
    for one, other in ((first, second), (second, third), (first, third)):
        assert (one != other).flatten(1).any(1).all()


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


def test_one_lab_is_left_out_of_training_and_stays_in_the_test(blood):
    splits = load(blood)
    reduced = only_of(splits, leave_out="bccd")
    for split in ("train", "validation"):
        assert reduced[split]["file_name"][:] == [name for name in splits[split]["file_name"] if name[:3] == "pbc"]
    assert reduced["test"]["lab"][:] == splits["test"]["lab"][:]
    assert only_of(splits) == splits
    # Images of an unknown lab.
    labs = [None, *splits["train"]["lab"][1:]]
    renamed = datasets.DatasetDict(train=splits["train"].remove_columns("lab").add_column("lab", labs))
    assert only_of(renamed, leave_out="bccd")["train"]["lab"][:] == [None, *["pbc"] * 6]
    assert only_of(renamed, train_on="bccd")["train"]["lab"][:] == [lab for lab in labs if lab == "bccd"]


def test_a_lab_that_is_not_there_or_the_only_one_is_named(blood, data):
    for folder, known in ((blood, r"\['bccd', 'pbc'\]"), (data, r"\[\]")):
        with pytest.raises(UserError, match=f"--train_on names 'PBC'; .* has {known}"):
            only_of(load(folder), "PBC")
        with pytest.raises(UserError, match=f"--leave_out names 'chula'; .* has {known}"):
            only_of(load(folder), leave_out="chula")
    with pytest.raises(UserError, match=r"--leave_out names 'pbc'; .* has \['bccd'\]"):
        only_of(only_of(load(blood), "bccd"), leave_out="pbc")
    with pytest.raises(UserError, match=r"--leave_out bccd leaves no image in the split (train|validation)"):
        only_of(load(blood), "bccd", "bccd")


def test_labs_are_chosen_of_a_training_split_alone(blood):
    dataset = load(blood)
    del dataset["train"]
    with pytest.raises(UserError, match="has no split `train`"):
        only_of(dataset, leave_out="pbc")
