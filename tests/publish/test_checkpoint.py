"""The checkpoint that is published: its weights, its code, its answers and its results."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, ResNetConfig

from hub.data.pbc import PBC_CLASSES
from hub.study import ood
from modeling_wbc.focus_wbc import measure_focus

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "hub" / "checkpoint"
BCCD = os.environ.get("WBC_BCCD_DIR")


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageClassification.from_pretrained(FOLDER, trust_remote_code=True).eval()


@pytest.fixture(scope="module")
def processor():
    return AutoImageProcessor.from_pretrained(FOLDER, trust_remote_code=True)


@pytest.fixture(scope="module")
def results():
    return json.loads((FOLDER / "results.json").read_text())


def test_weights_are_float16_and_load_as_float32(model, processor):
    weights = load_file(FOLDER / "model.safetensors")
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float16}
    assert (FOLDER / "model.safetensors").stat().st_size < 45e6
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert set(model.config.id2label.values()) == set(PBC_CLASSES)
    assert processor.do_find_cell
    assert processor.size.height == model.config.image_size
    assert not [path for path in FOLDER.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]


def test_its_code_is_that_of_this_repository():
    copies = {path.name: path.read_text() for path in FOLDER.glob("*.py")}
    assert {"modeling_wbc.py", "image_processing_wbc.py", "novelty_wbc.py"} <= copies.keys()
    for name, copy in copies.items():
        assert copy == (ROOT / "modeling_wbc" / name).read_text(), f"{name}: export the checkpoint again"


def test_refuses_what_is_no_smear(model, monkeypatch):
    monkeypatch.setattr(ood, "DRAWN_IMAGES", 4)
    monkeypatch.setattr(ood, "SAMPLE_CROPS", 0)
    images = list(ood.ood_images())
    fields = model.analyze([image for _, image in images])
    assert sum(len(field.cells) > 0 for field in fields) > 5
    assert [kind for (kind, _), field in zip(images, fields, strict=True) if sum(field.counts.values())] == []


@pytest.mark.skipif(BCCD is None, reason="WBC_BCCD_DIR names no folder of BCCD")
def test_answers_test_simple_as_its_results_say(model, processor, results):
    figures = results["splits"]["test_simple"]
    files = sorted(Path(BCCD, "images", "TEST_SIMPLE").glob("*/*.jpeg"))
    assert len(files) == figures["num_images"] == 71
    confusion = torch.zeros(8, 8, dtype=int)
    config, known = model.config, 0
    for path in files:
        with Image.open(path) as image, torch.no_grad():
            pixel_values = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
            output = model(pixel_values)
        confusion[config.label2id[path.parent.name.lower()], int(output.logits.argmax())] += 1
        known += float(output.novelty) <= config.max_novelty and float(measure_focus(pixel_values)) >= config.min_focus
    assert confusion.tolist() == figures["confusion_matrix"]
    assert known / 71 == pytest.approx(figures["kept"])


def test_weights_saved_by_older_code_give_the_same_answers(tmp_path):
    """A configuration and an image processor without what was added since the first release."""
    old = tmp_path / "old"
    without = {"stain_size": 0, "novelty_stages": None, "max_smear_novelty": None, "min_focus": None}
    model = AutoModelForImageClassification.from_pretrained(
        FOLDER, trust_remote_code=True, ignore_mismatched_sizes=True, **without
    ).eval()
    model.image_processor.do_correct_illumination = False
    model.save_pretrained(old)
    config, processor = (json.loads((old / name).read_text()) for name in ("config.json", "preprocessor_config.json"))
    kept = {*ResNetConfig().to_dict(), "auto_map", "image_size", "norm_layout", "temperature", "max_novelty"}
    first = {key: value for key, value in config.items() if key in kept or key.startswith("center_loss")}
    assert not {"min_focus", "custom_pipelines", "code_version", "stages", "stain_size"} & first.keys()
    (old / "config.json").write_text(json.dumps(first))
    kept = {"auto_map", "do_find_cell", "image_processor_type", "image_mean", "image_std", "size", "window_size"}
    (old / "preprocessor_config.json").write_text(json.dumps({key: processor[key] for key in kept}))
    loaded = AutoModelForImageClassification.from_pretrained(old, trust_remote_code=True).eval()
    images = sorted(map(str, (ROOT / "examples").glob("*.jpg")))
    for field, expected in zip(loaded.analyze(images), model.analyze(images), strict=True):
        assert [cell.probabilities for cell in field.cells] == [cell.probabilities for cell in expected.cells]
        assert [cell.box for cell in field.cells] == [cell.box for cell in expected.cells]
        assert [cell.novelty for cell in field.cells] == [cell.novelty for cell in expected.cells]


def test_results_are_those_of_this_configuration(model, results):
    assert results["temperature"] == model.config.temperature
    assert results["max_novelty"] == model.config.max_novelty
