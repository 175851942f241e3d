"""Stored crops, the fit of the stain normaliser, a teacher, and a training on all of these."""

import json
import shutil

import datasets
import numpy as np
import pytest
import timm
import torch
from runs import arguments
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import TrainerCallback

import train
from hub.data.load import load
from hub.files import UserError
from hub.publish.pack import pack
from hub.training import crops as crops_module
from hub.training import images as images_module
from hub.training import stain, teacher
from hub.training.arguments import WBCTrainingArguments
from hub.training.crops import CropImages
from hub.training.distillation import Distillation
from hub.training.stain import fit_stain_normalizer
from hub.training.trainer import WBCTrainer
from hub.training.views import MARGIN, CellViews
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor
from modeling_wbc.output_wbc import WBCImageClassifierOutput
from modeling_wbc.stain_wbc import StainNormalizer


@pytest.fixture
def images(data, tmp_path, monkeypatch):
    monkeypatch.setattr(crops_module, "STORED_SIZE", 48)
    processor = WBCImageProcessor(size=32, do_correct_illumination=True)
    return CropImages(load(data)["train"], processor, label_ids=[0, 1, 2, 3], folder=tmp_path / "crops")


def test_a_crop_shows_what_the_network_sees_and_its_surroundings(images):
    row = images[5]
    assert row["labels"] == images.labels[5]
    assert row["pixel_values"].dtype == torch.uint8
    image = images.dataset.cast_column("image", datasets.Image())[5]["image"]
    seen = images.image_processor(image, return_tensors="pt")["pixel_values"][0]
    side = round(48 / MARGIN)
    first = (48 - side) // 2
    middle = row["pixel_values"][:, first : first + side, first : first + side]
    again = images.image_processor(
        middle,
        do_find_cell=False,
        do_correct_illumination=False,
        input_data_format="channels_first",
        return_tensors="pt",
    )["pixel_values"][0]
    assert (again - seen).abs().mean() < 0.1


def test_crops_are_cut_out_once_and_found_again(images, data, monkeypatch):
    images.store()
    path = images.path
    assert path.is_file()
    assert np.load(path, mmap_mode="r").shape == (24, 3, 48, 48)
    rows = load(data)["train"]
    again = CropImages(rows, images.image_processor, label_ids=[0, 1, 2, 3], folder=images.folder)
    monkeypatch.setattr(crops_module, "cut_out", lambda *_: pytest.fail("cut out a second time"))
    assert torch.equal(again[3]["pixel_values"], images[3]["pixel_values"])
    # Other crops need another file.
    other = WBCImageProcessor(size=32, do_correct_illumination=True, window_size=3.0)
    assert CropImages(rows, other, label_ids=[0, 1, 2, 3], folder=images.folder).path != path
    assert list(images.folder.glob("*.part")) == []


def test_the_fit_brings_mixed_stains_back(images, monkeypatch):
    monkeypatch.setattr(stain, "_BATCH_SIZE", 16)
    monkeypatch.setattr(stain, "_SIZE", 16)
    torch.manual_seed(0)
    normalizer = StainNormalizer(16, width=16)
    left = fit_stain_normalizer(normalizer, images, steps=150)
    assert left < 0.7
    assert not any(parameter.requires_grad for parameter in normalizer.parameters())


def outputs_of(logits, attribute_logits, embeddings):
    return WBCImageClassifierOutput(logits=logits, attribute_logits=attribute_logits, embeddings=embeddings)


class Told(nn.Module):
    """A teacher that says of view number n what it was told to say of it."""

    def __init__(self, told, image_size):
        super().__init__()
        self.config = WBCConfig(image_size=image_size)
        self.told = told
        self.shape = None

    def forward(self, pixel_values):
        assert not torch.is_grad_enabled()
        assert not self.training
        self.shape = pixel_values.shape
        rows = pixel_values[:, 0].mean((1, 2)).round().long()
        attributes = {name: tensor[rows] for name, tensor in self.told["attribute_logits"].items()}
        return outputs_of(self.told["logits"][rows], attributes, self.told["embeddings"][rows])


def test_the_loss_of_a_student_that_agrees_about_a_view_is_that_of_the_labels():
    generator = torch.Generator().manual_seed(1)
    attributes = {name: torch.randn(9, size, generator=generator) for name, size in (("a", 2), ("b", 3))}
    told = {
        "logits": torch.randn(9, 4, generator=generator),
        "attribute_logits": attributes,
        "embeddings": torch.randn(9, 7, generator=generator),
    }
    teacher = Told(told, image_size=12)
    distillation = Distillation([teacher], weight=0.25, likeness=2.0)
    rows = torch.tensor([8, 0, 3, 5])
    views = rows.float().view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    parts = {name: tensor[rows] for name, tensor in reversed(attributes.items())}  # by name, not by place
    same = outputs_of(told["logits"][rows], parts, 3 * told["embeddings"][rows])
    assert distillation.loss(views, same, torch.tensor(2.0)).item() == pytest.approx(1.5, abs=1e-5)
    assert teacher.shape == (4, 3, 12, 12)  # its own size

    logits = torch.randn(4, 4, generator=generator)
    embeddings = torch.randn(4, 6, generator=generator)
    other = outputs_of(logits, None, embeddings)
    p = (told["logits"][rows] / 2).softmax(-1)
    divergence = 4 * (p * (p.log() - (logits / 2).log_softmax(-1))).sum(-1).mean()

    def cosines(features):
        centred = features - features.mean(0)
        return F.cosine_similarity(centred[:, None], centred[None], dim=-1)

    unlike = (cosines(embeddings) - cosines(told["embeddings"][rows])).square().mean()
    expected = 0.75 * 2 + 0.25 * divergence + 2 * unlike
    assert distillation.loss(views, other, torch.tensor(2.0)).item() == pytest.approx(expected.item(), rel=1e-4)
    # Of two teachers, each of its own size, the mean counts.
    second = Told(told | {"logits": told["logits"].flip(0)}, image_size=6)
    losses = [
        Distillation(teachers, weight=0.25).loss(views, other, torch.tensor(2.0)).item()
        for teachers in ([teacher], [second], [teacher, second])
    ]
    assert abs(losses[0] - losses[1]) > 0.01
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-5)
    assert second.shape == (4, 3, 6, 6)


@pytest.fixture
def small_teacher(monkeypatch, tmp_path):
    """A teacher of a small network, with a file of its weights."""
    monkeypatch.setattr(teacher, "TEACHER_NETWORKS", ("resnet10t", "test_efficientnet"))
    weights = timm.create_model("test_efficientnet").state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.usefixtures("one_thread")
def test_a_student_learns_from_a_teacher_and_resumes(data, tiny, small_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(crops_module, "STORED_SIZE", 48)
    monkeypatch.setattr(stain, "_BATCH_SIZE", 8)
    monkeypatch.setattr(teacher, "fit_stain_normalizer", short_fit)
    monkeypatch.setattr(crops_module.datasets_config, "HF_DATASETS_CACHE", tmp_path)
    folder = tmp_path / "teacher"
    trained = teacher.train_teacher(data, small_teacher, folder, steps=2, image_size=32, stain_size=16)
    again = teacher.train_teacher(data, tmp_path / "missing", folder, steps=2)  # finished, so read
    assert torch.equal(trained.classifier.weight, again.classifier.weight)

    mixed = ("--augment", "mixed", "--find_cell", "--stain_size", "16", "--teacher", str(folder), "--do_train")
    steps = ("--save_strategy", "steps", "--save_steps", "2", "--calibrate", "False", "--ema_decay", "0.5")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main(arguments(data, "none", whole, *mixed, *steps, "--max_steps", "4", "--image_size", "64"))
    model = WBCForImageClassification.from_pretrained(whole)
    assert model.image_processor.do_correct_illumination
    assert trained.stain.mixture.any()
    assert torch.equal(model.resnet.stain.mixture, trained.stain.mixture)  # fitted once, for both

    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoint-4")
    for name in ("model.safetensors", "train_results.json", "trainer_state.json"):
        (parts / name).unlink(missing_ok=True)
    train.main(
        arguments(
            *(data, "none", parts, *mixed, *steps, "--max_steps", "4", "--image_size", "64"),
            "--resume_from_checkpoint",
        )
    )
    first, second = (load_file(path / "model.safetensors") for path in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    recipe = json.loads((whole / "train_results.json").read_text())["recipe"]
    assert recipe["Loss"].startswith("0.5 x (cross entropy + ")
    assert "0.5 x divergence from a teacher" in recipe["Loss"]
    assert recipe["Weights"] == "moving average, decay 0.5"
    # What is saved in the end is the average over the steps, not the last weights.
    last = load_file(whole / "checkpoint-4" / "model.safetensors")
    assert not torch.equal(first["classifier.1.weight"], last["classifier.1.weight"])
    assert json.loads((whole / "config.json").read_text())["stain_size"] == 16

    # The classifier itself may be a second teacher of what comes of it.
    further = tmp_path / "further"
    flags = ("--augment", "mixed", "--find_cell", "--do_train", "--calibrate", "False", "--max_steps", "1")
    train.main(arguments(data, str(whole), further, *flags, "--teacher", str(folder), str(whole)))
    recipe = json.loads((further / "train_results.json").read_text())["recipe"]
    assert "0.5 x divergence from 2 teachers" in recipe["Loss"]
    config = json.loads((whole / "config.json").read_text())
    names = {"0": "other"} | {key: name for key, name in config["id2label"].items() if key != "0"}
    config |= {"id2label": names, "label2id": {name: int(key) for key, name in names.items()}}
    (whole / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"--teacher: the one in .*whole has the id2label"):
        train.main(arguments(data, str(further), tmp_path / "last", *flags, "--teacher", str(whole)))


def test_a_training_reads_packed_crops(data, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(crops_module.datasets_config, "HF_DATASETS_CACHE", tmp_path)
    pack(data, tmp_path / "packed", workers=0)
    monkeypatch.setattr(images_module, "foremost_cell", lambda *_: pytest.fail("detected a cell of a packed crop"))
    flags = ("--augment", "mixed", "--find_cell", "--calibrate", "False", "--max_steps", "1", "--do_eval")
    train.main(arguments(str(tmp_path / "packed"), tiny, tmp_path / "run", "--do_train", *flags))
    assert json.loads((tmp_path / "run" / "test_results.json").read_text())["num_images"] == 12


def test_a_teacher_that_saw_a_lab_does_not_tell_a_training_without_it(
    blood, tiny, small_teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr(crops_module, "STORED_SIZE", 48)
    monkeypatch.setattr(stain, "_BATCH_SIZE", 8)
    monkeypatch.setattr(teacher, "fit_stain_normalizer", short_fit)
    monkeypatch.setattr(crops_module.datasets_config, "HF_DATASETS_CACHE", tmp_path)
    folders = {lab: tmp_path / f"without {lab}" for lab in (None, "pbc")}
    for lab, folder in folders.items():
        teacher.train_teacher(blood, small_teacher, folder, 1, lab, image_size=32, stain_size=16)
    counts = sorted(len(np.load(path, mmap_mode="r")) for path in tmp_path.glob("wbc_crops/*.npy"))
    labs = load(blood)["train"]["lab"][:]
    assert counts == [labs.count("bccd"), len(labs)]

    told = ("--augment", "mixed", "--find_cell", "--do_train", "--calibrate", "False", "--max_steps", "1", "--teacher")
    for lab, flags, needed in (
        (None, ("--leave_out", "pbc"), "needs neither --train_on nor --leave_out"),
        (None, ("--train_on", "bccd"), "needs neither"),
        ("pbc", (), "needs --leave_out pbc"),
    ):
        with pytest.raises(UserError, match=f"--teacher: the one in .* {needed}"):
            train.main(arguments(blood, tiny, tmp_path / "run", *told, str(folders[lab]), *flags))
    train.main(arguments(blood, tiny, tmp_path / "run", *told, str(folders["pbc"]), "--leave_out", "pbc"))
    assert (tmp_path / "run" / "model.safetensors").is_file()


class Seen(nn.Module):
    """Keeps what a network sees behind its normaliser."""

    def __init__(self):
        super().__init__()
        self.config = WBCConfig()
        self.stain = StainNormalizer(8)
        self.classifier = nn.Linear(3, 4)

    def forward(self, pixel_values, labels=None):
        self.before, self.after = pixel_values, self.stain(pixel_values)
        logits = self.classifier(self.after.mean((2, 3)))
        return WBCImageClassifierOutput(loss=F.cross_entropy(logits, labels), logits=logits)


def test_colours_vary_behind_the_normaliser_in_training_alone(images, tmp_path):
    model = Seen()
    args = WBCTrainingArguments(
        output_dir=str(tmp_path / "run"),
        do_train=True,
        per_device_train_batch_size=8,
        max_steps=2,
        save_strategy="no",
        report_to="none",
    )
    trainer = WBCTrainer(model=model, args=args, train_dataset=images, views=CellViews(32))
    trainer.train()
    assert (model.after - model.before).abs().amax((1, 2, 3)).gt(0.1).sum() >= 4
    batch = {"pixel_values": torch.rand(8, 3, 32, 32), "labels": torch.zeros(8, dtype=torch.long)}
    model(**batch)  # somebody else trains on
    torch.testing.assert_close(model.after, model.before, atol=0.01, rtol=0)


class Recorded(TrainerCallback):
    """Keeps the weights after each step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(model.classifier.weight.detach().clone())


def test_the_average_of_the_weights_is_that_of_the_steps(images, tmp_path):
    args = WBCTrainingArguments(
        output_dir=str(tmp_path / "run"),
        do_train=True,
        per_device_train_batch_size=8,
        max_steps=3,
        learning_rate=0.1,
        ema_decay=0.75,
        save_strategy="no",
        report_to="none",
    )
    recorded = Recorded()
    trainer = WBCTrainer(model=Seen(), args=args, train_dataset=images, views=CellViews(32), callbacks=[recorded])
    trainer.train()
    first, second, third = recorded.weights
    expected = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
    torch.testing.assert_close(trainer.model.classifier.weight.detach(), expected)


def short_fit(normalizer, images, device):
    return fit_stain_normalizer(normalizer, images, steps=3, device=device)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--augment", "mixed"), "--augment mixed shows crops of cells: add --find_cell"),
        (("--teacher", "nowhere"), "--teacher needs --augment mixed"),
        (("--augment", "mixed", "--find_cell", "--teacher", "nowhere"), "no trained teacher in nowhere"),
        (("--balanced", "--balance", "1.5"), "--balance is 1.5; give at least 0"),
        (("--stain_size", "-2"), "--stain_size is -2; give at least 0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(data, tiny, tmp_path, flags, message, monkeypatch):
    monkeypatch.setattr(crops_module, "STORED_SIZE", 48)
    monkeypatch.setattr(crops_module.datasets_config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        train.main(arguments(data, tiny, tmp_path / "run", "--do_train", *flags))


def test_weights_of_another_network_are_refused(small_teacher, tmp_path):
    config = WBCConfig()
    with pytest.raises(UserError, match="no such file of weights"):
        teacher.new_teacher(config, tmp_path / "missing.pth")
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="holds the weights of none of resnet10t, test_efficientnet"):
        teacher.new_teacher(config, tmp_path / "other.safetensors")


def test_weights_of_either_package_are_told_by_their_shapes(small_teacher, tmp_path):
    """The package lists timm's tensors in timm's order, under other names."""
    own = load_file(small_teacher)
    names = timm.create_model("test_efficientnet").state_dict()
    assert own.keys() == names.keys()
    torch.save(
        {f"_fc.{name}" if "classifier" in name else f"_{name}": own[name] for name in names}, tmp_path / "a.pth"
    )
    named, renamed = (teacher.new_teacher(WBCConfig(), path) for path in (small_teacher, tmp_path / "a.pth"))
    assert named.config.teacher_network == renamed.config.teacher_network == "test_efficientnet"
    for name, tensor in renamed.backbone.state_dict().items():
        assert torch.equal(tensor, own[name])
        assert torch.equal(tensor, named.backbone.state_dict()[name])
