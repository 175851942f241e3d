"""transformers' pipeline with the class that a saved model names."""

import pytest
import torch
from PIL import Image, ImageFilter
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hub.data.synthetic import draw_field
from modeling_wbc import WBCImageProcessor
from tests.modeling.builders import tiny_model

FIELD = draw_field("neutrophil", 3)
BLANK = Image.new("RGB", (320, 240), "white")
TYPES = {"eosinophil", "lymphocyte", "monocyte", "neutrophil"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model = tiny_model(image_size=64, min_focus=0.001, max_novelty=100.0)
    model.novelty.mean.zero_()
    WBCImageProcessor(size=64).save_pretrained(path)
    model.save_pretrained(path)
    return str(path)


@pytest.fixture
def classify(folder):
    return pipeline("image-classification", model=folder, trust_remote_code=True)


def unknown(remark):
    return [{"label": "unknown", "score": 1.0, "remark": remark}]


def test_a_cell_gets_the_answer_of_transformers_own_pipeline(folder, classify):
    assert type(classify).__name__ == "WBCImageClassificationPipeline"
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    own = pipeline("image-classification", model=model, image_processor=processor)
    expected = own(FIELD)
    assert [entry["label"] for entry in classify(FIELD)] == [entry["label"] for entry in expected]
    for entry, same in zip(classify(FIELD), expected, strict=True):
        assert entry["score"] == pytest.approx(same["score"], abs=1e-5)
    assert {entry["label"] for entry in expected} == TYPES
    assert len(classify(FIELD, top_k=2)) == 2


def test_a_blank_image_is_unknown(classify):
    assert classify(BLANK) == unknown("no cell")
    assert {entry["label"] for entry in classify(BLANK, function_to_apply="softmax")} == TYPES


def test_a_cell_out_of_focus_is_unknown(classify):
    soft = FIELD.filter(ImageFilter.GaussianBlur(5))
    assert classify(soft)[0]["label"] in TYPES
    classify.model.config.min_focus = 0.8
    assert classify(soft) == unknown("out of focus")
    assert classify(FIELD)[0]["label"] in TYPES


def test_what_is_no_smear_is_unknown(classify):
    with torch.no_grad():
        classify.model.novelty.whitening.copy_(torch.eye(len(classify.model.novelty.whitening)))
        classify.model.novelty.mean.fill_(1000)
    assert classify(FIELD) == unknown("no smear")


def test_the_type_of_a_cell_of_an_unfamiliar_stain_is_a_guess(classify):
    guess = classify(FIELD)
    assert all("remark" not in entry for entry in guess)
    with torch.no_grad():
        classify.model.novelty.whitening.copy_(torch.eye(len(classify.model.novelty.whitening)))
        classify.model.novelty.mean.fill_(1000)
    classify.model.config.max_smear_novelty = 1e6
    assert classify(FIELD) == [{**entry, "remark": "unfamiliar stain"} for entry in guess]
    assert classify(FIELD, function_to_apply="softmax") == guess


def test_images_come_as_paths_and_in_batches(classify, tmp_path):
    FIELD.save(tmp_path / "field.png")
    answers = classify([FIELD, BLANK, FIELD], batch_size=2)
    assert answers[1] == unknown("no cell")
    for answer in (answers[0], answers[2], classify(str(tmp_path / "field.png"))):
        assert answer[0]["score"] == pytest.approx(classify(FIELD)[0]["score"], abs=1e-5)


def test_a_saved_pipeline_is_complete(classify, tmp_path):
    classify.save_pretrained(tmp_path)
    again = pipeline("image-classification", model=str(tmp_path), trust_remote_code=True)
    assert again(BLANK) == unknown("no cell")
    assert type(again).__name__ == "WBCImageClassificationPipeline"
