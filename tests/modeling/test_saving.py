"""Saving and loading: by this code, and by a process that has the code from the saved folder only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hub.data.synthetic import draw_field
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor, WBCModel
from tests.modeling.builders import LAYOUTS, RESNET_34, assert_same_features, images, randomise, tiny_model

FOLDER = {
    "config.json",
    "adapt_wbc.py",
    "configuration_wbc.py",
    "detection_wbc.py",
    "few_shot_wbc.py",
    "illumination_wbc.py",
    "stain_wbc.py",
    "field_wbc.py",
    "focus_wbc.py",
    "fonts_wbc.py",
    "group_norm_wbc.py",
    "heads_wbc.py",
    "image_processing_wbc.py",
    "loss_wbc.py",
    "model.safetensors",
    "modeling_wbc.py",
    "norm_wbc.py",
    "novelty_wbc.py",
    "output_wbc.py",
    "pipeline_wbc.py",
    "pretrained_wbc.py",
    "preprocessor_config.json",
}


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


def test_loads_a_folder_of_transformers_resnet(tmp_path):
    """As `microsoft/resnet-34` is: an image classifier of 1000 labels with a configuration of type resnet."""
    torch.manual_seed(4)
    reference = randomise(ResNetForImageClassification(ResNetConfig(**RESNET_34, num_labels=1000)), seed=4)
    reference.save_pretrained(tmp_path)
    model, info = WBCModel.from_pretrained(tmp_path, norm_layout="bn", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert type(model.config) is WBCConfig
    with torch.no_grad():
        expected = reference.resnet(images(2, 64)).pooler_output.flatten(1)
    assert_same_features(model.eval(), expected)

    model, info = WBCModel.from_pretrained(tmp_path, output_loading_info=True)
    assert model.config.norm_layout == "ibn"
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    for key, value in model.state_dict().items():
        assert torch.equal(value, reference.resnet.state_dict()[key]), key


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saves_and_loads(layout, tmp_path):
    model = tiny_model(norm_layout=layout, mining="class")
    model.save_pretrained(tmp_path)
    assert FOLDER <= names(tmp_path)
    loaded, info = WBCForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.center_loss.centers.any()
    assert loaded.center_loss.mining == "class"
    assert loaded.center_loss.active_fraction == 0  # not saved, and not left uninitialised
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    backbone = WBCModel.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(images())
        torch.testing.assert_close(loaded(images()).logits, expected.logits)
        torch.testing.assert_close(backbone.eval()(images()).pooler_output.flatten(1), expected.embeddings)


def test_folder_holds_no_pickle(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.suffix for path in files} == {".json", ".py", ".safetensors"}
    assert not any(path.read_bytes()[:2] == b"PK" for path in files)


def test_a_model_without_an_image_processor_leaves_that_of_the_folder(tmp_path):
    ViTImageProcessor(size={"height": 77, "width": 55}, do_normalize=False).save_pretrained(tmp_path)
    before = (tmp_path / "preprocessor_config.json").read_bytes()
    tiny_model().save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").read_bytes() == before


def drawn_cell():
    """A cell on a field of 320x240 with a red marker in each corner."""
    image = Image.new("RGB", (320, 240), (230, 220, 225))
    draw = ImageDraw.Draw(image)
    draw.ellipse((110, 60, 220, 170), fill=(190, 160, 210))
    draw.ellipse((135, 80, 190, 140), fill=(90, 40, 140))
    for x in (0, 300):
        for y in (0, 220):
            draw.rectangle((x, y, x + 19, y + 19), fill=(255, 0, 0))
    return image


def test_the_processor_follows_the_image_size(tmp_path):
    tiny_model(image_size=96).save_pretrained(tmp_path)
    processor = WBCImageProcessor.from_pretrained(tmp_path)
    assert not processor.do_find_cell
    assert processor(drawn_cell(), return_tensors="pt")["pixel_values"].shape == (1, 3, 96, 96)


WITHOUT_REPOSITORY = """
import importlib.util, json, os, sys
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

assert importlib.util.find_spec("modeling_wbc") is None, "this process must not see the repository"
root = sys.argv[1]
image = Image.open(os.path.join(root, "cell.png"))
report = {}


def check(folder):
    folder = os.path.join(root, folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    backbone = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    classify = pipeline("image-classification", model=folder, trust_remote_code=True)
    with torch.no_grad():
        features, output = backbone(pixel_values), model(pixel_values)
    result = {
        "config": [type(config).__name__, config.model_type, config.norm_layout, config.id2label],
        "processor": [type(processor).__module__, type(processor).__name__],
        "classes": [type(backbone).__name__, type(model).__name__],
        "pixel_values": pixel_values,
        "features": features.pooler_output.flatten(1),
        "embeddings": output.embeddings,
        "logits": output.logits,
        "centers": model.center_loss.centers,
        "pipeline": {entry["label"]: entry["score"] for entry in classify(os.path.join(root, "cell.png"))},
    }
    return backbone, model, result


backbone, model, report["model"] = check("model")
model.save_pretrained(os.path.join(root, "model-again"))
report["model-again"] = check("model-again")[2]
backbone, model, report["backbone"] = check("backbone")
backbone.save_pretrained(os.path.join(root, "backbone-again"))
report["backbone-again"] = check("backbone-again")[2]

# A photograph of a field, with a processor that finds the cells.
photograph, folder = os.path.join(root, "field.png"), os.path.join(root, "cropped")
classify = pipeline("image-classification", model=folder, trust_remote_code=True)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
field = model.analyze(photograph)
field.draw(Image.open(photograph)).save(os.path.join(root, "analysed.png"))
report["cropped"] = {
    "pipeline": {entry["label"]: entry["score"] for entry in classify(photograph)},
    "cells": [(cell.box, cell.label, cell.probabilities, cell.distance) for cell in field.cells],
    "differential": field.differential,
}
torch.save(report, os.path.join(root, "report.pt"))
"""


@pytest.fixture(scope="module")
def report_without_repository(tmp_path_factory):
    """Results of a process that sees the saved models, but neither this repository nor a network."""
    root = tmp_path_factory.mktemp("hub")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    model = tiny_model(norm_layout="ibn-in")
    model.save_pretrained(root / "model")
    model.resnet.save_pretrained(root / "backbone")
    drawn_cell().save(root / "cell.png")
    WBCImageProcessor(size=64).save_pretrained(root / "cropped")
    model.save_pretrained(root / "cropped")
    draw_field("neutrophil", 3, (640, 480)).save(root / "field.png")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    environment |= {"HF_HOME": str(elsewhere / "hf"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_REPOSITORY, str(root)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return root, model, torch.load(root / "report.pt")


@pytest.mark.parametrize("folder", ["model", "model-again", "backbone", "backbone-again"])
def test_a_saved_folder_loads_without_the_repository(folder, report_without_repository):
    """Saved from either class, and saved again by a process that has the code from the folder only."""
    _root, model, report = report_without_repository
    result = report[folder]
    assert result["config"] == ["WBCConfig", "wbc", "ibn-in", WBCConfig().id2label]
    assert result["classes"] == ["WBCModel", "WBCForImageClassification"]
    with torch.no_grad():
        expected = model(result["pixel_values"])
    for entry in ("features", "embeddings"):
        torch.testing.assert_close(result[entry], expected.embeddings, rtol=1e-5, atol=1e-5)
    assert set(result["pipeline"]) == set(model.config.label2id)
    if folder.startswith("model"):  # the other has no trained classifier
        torch.testing.assert_close(result["logits"], expected.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(result["centers"], model.center_loss.centers)
        scores = {model.config.id2label[i]: p for i, p in enumerate(expected.logits.softmax(1)[0].tolist())}
        assert result["pipeline"] == pytest.approx(scores, abs=1e-5)
    else:
        assert not result["centers"].any()


def test_saving_again_yields_a_complete_folder(report_without_repository):
    root, _, _ = report_without_repository
    for folder in ("model", "backbone"):
        assert names(root / f"{folder}-again") == names(root / folder) >= FOLDER
        for name in FOLDER - {"config.json", "model.safetensors"}:
            assert (root / f"{folder}-again" / name).read_bytes() == (root / folder / name).read_bytes(), name
        first, second = (json.loads((root / path / "config.json").read_text()) for path in (folder, f"{folder}-again"))
        assert first["auto_map"] == second["auto_map"]
        assert not any("--" in target for target in second["auto_map"].values())  # refers to no other repository


def test_the_image_processor_squeezes_the_whole_field(report_without_repository):
    """By default, as in the paper; no corner is cropped away."""
    module, name = report_without_repository[2]["model"]["processor"]
    assert module.startswith("transformers_modules.")
    assert name == "WBCImageProcessor"
    pixel_values = report_without_repository[2]["model"]["pixel_values"]
    assert pixel_values.shape == (1, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = pixel_values[0] * std[:, None, None] + mean[:, None, None]
    for y in (slice(0, 12), slice(-12, None)):
        for x in (slice(0, 10), slice(-10, None)):
            corner = seen[:, y, x].mean((1, 2))
            torch.testing.assert_close(corner, torch.tensor([1.0, 0, 0]), rtol=0, atol=0.03)
    expected = torch.tensor([90, 40, 140]) / 255  # the nucleus lies where squeezing puts it
    torch.testing.assert_close(seen[:, 103, 114], expected, rtol=0, atol=0.03)


def test_the_pipeline_classifies_the_crop_of_the_cell_without_the_repository(report_without_repository):
    root, model, report = report_without_repository
    with Image.open(root / "field.png") as image:
        boxes, _ = WBCImageProcessor().find_cells(image)
        assert len(boxes) == 1
        left, top, right, bottom = WBCImageProcessor().crop_boxes(boxes)[0].round().tolist()
        side = right - left
        assert 0 <= left
        assert right <= 640
        assert 0 <= top
        assert bottom <= 480
        assert 90 < side < 320
        crop = image.crop((left, top, left + side, top + side))
    stock = ViTImageProcessor(size=64, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    with torch.no_grad():
        output = model(stock(crop, return_tensors="pt")["pixel_values"])
    scores = {model.config.id2label[i]: p for i, p in enumerate(output.logits.softmax(1)[0].tolist())}
    seen = report["cropped"]
    assert seen["pipeline"] == pytest.approx(scores, abs=1e-4)
    ((box, label, probabilities, distance),) = seen["cells"]
    assert box == pytest.approx(boxes[0].tolist())
    assert probabilities == pytest.approx(scores, abs=1e-4)
    assert label == max(scores, key=scores.get)
    assert seen["differential"][label] == 1
    expected = (output.embeddings - model.center_loss.centers).norm(dim=1).min()
    assert distance == pytest.approx(float(expected), rel=1e-4)
    assert Image.open(root / "analysed.png").size == (640, 480)
