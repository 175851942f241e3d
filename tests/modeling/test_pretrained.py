"""What belongs to weights goes with them: the image processor, and values that were fitted to a classifier."""

import copy
import json
import logging
import os
import shutil

import pytest
import torch
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

from hub.data.synthetic import draw_field
from modeling_wbc import WBCForImageClassification, WBCImageProcessor, WBCModel
from tests.modeling.builders import assert_same_cells, tiny_config, tiny_model

NAME = "preprocessor_config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that was trained on crops of cells, calibrated, with statistics and centres."""
    folder = tmp_path_factory.mktemp("weights") / "model"
    model = tiny_model(image_size=48, temperature=0.5, max_novelty=1.5, max_smear_novelty=2.5)
    model.novelty.whitening.normal_()
    model.save_pretrained(folder)
    WBCImageProcessor(size=48, window_size=3.0, image_mean=[0.4, 0.5, 0.6]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image():
    return draw_field("neutrophil", 3)


# The image processor


@pytest.mark.parametrize(
    "copy_of",
    [
        WBCForImageClassification.from_pretrained,
        lambda folder: copy.deepcopy(WBCForImageClassification.from_pretrained(folder)),
        lambda folder: WBCForImageClassification.from_pretrained(folder).resnet,
        WBCModel.from_pretrained,
        lambda folder: torch.optim.swa_utils.AveragedModel(WBCForImageClassification.from_pretrained(folder)).module,
        lambda folder: WBCForImageClassification.from_pretrained(
            folder, num_labels=3, id2label={0: "a", 1: "b", 2: "c"}, ignore_mismatched_sizes=True
        ),
    ],
    ids=["loaded", "deepcopy", "its backbone", "loaded backbone", "averaged", "new head"],
)
def test_the_image_processor_travels_with_the_weights(copy_of, folder, tmp_path):
    model = copy_of(folder)
    # As it was when the weights were read, whatever happens to their folder.
    model.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / NAME).read_bytes() == (folder / NAME).read_bytes()
    assert not any("processor" in key for key in model.state_dict())
    assert "image_processor" not in json.loads((tmp_path / "copy" / "config.json").read_text())


def test_a_copy_reads_images_as_the_original_does(folder, image, tmp_path):
    model = WBCForImageClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    field = model.analyze(image)
    (cell,) = field.cells
    assert cell.crop_box != (0, 0, *image.size)
    assert_same_cells(WBCForImageClassification.from_pretrained(tmp_path).analyze(image), field)


@pytest.mark.parametrize("subfolder", ["", "weights"])
def test_analyses_when_the_folder_is_gone(subfolder, folder, image, tmp_path, monkeypatch):
    """Loaded by a relative path, from a folder or a part of it, in a process that goes elsewhere."""
    expected = WBCForImageClassification.from_pretrained(folder).analyze(image)
    shutil.copytree(folder, tmp_path / "here" / "model" / subfolder)
    monkeypatch.chdir(tmp_path / "here")
    model = WBCForImageClassification.from_pretrained("model", subfolder=subfolder)
    os.chdir(tmp_path)
    shutil.rmtree(tmp_path / "here")
    assert_same_cells(model.analyze(image), expected)


def test_an_assigned_image_processor_is_used_and_saved(folder, image, tmp_path):
    model = WBCForImageClassification.from_pretrained(folder)
    model.image_processor = WBCImageProcessor(size=48, window_size=4.0)
    assert model.resnet.image_processor is model.image_processor
    expected = model.analyze(image)
    assert expected != WBCForImageClassification.from_pretrained(folder).analyze(image)
    # In place of the one that is in the folder, which belongs to other weights.
    shutil.copytree(folder, tmp_path / "copy")
    model.save_pretrained(tmp_path / "copy")
    assert_same_cells(WBCForImageClassification.from_pretrained(tmp_path / "copy").analyze(image), expected)


def test_a_model_of_a_configuration_alone_takes_whole_images_before_and_after_it_is_saved(image, tmp_path):
    model = tiny_model(image_size=48)
    assert model.image_processor is None
    field = model.analyze(image)
    (cell,) = field.cells
    assert cell.crop_box == (0, 0, *image.size)
    model.save_pretrained(tmp_path)
    assert not json.loads((tmp_path / NAME).read_text())["do_find_cell"]
    loaded = WBCForImageClassification.from_pretrained(tmp_path)
    assert not loaded.image_processor.do_find_cell
    assert_same_cells(loaded.analyze(image), field)


@pytest.mark.parametrize("given_as", ["argument", "config"])
def test_another_image_size_resizes_the_crops_to_it(given_as, folder, image):
    if given_as == "argument":
        model = WBCForImageClassification.from_pretrained(folder, image_size=64)
    else:
        config = WBCForImageClassification.config_class.from_pretrained(folder, image_size=64)
        model = WBCForImageClassification.from_pretrained(folder, config=config)
    assert model.image_processor.preprocess_cells(image)["pixel_values"].shape[2:] == (64, 64)
    assert model.image_processor.window_size == 3.0


def test_a_size_that_differs_from_the_configuration_on_purpose_stays(folder, image, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    WBCImageProcessor(size=40).save_pretrained(tmp_path / "copy")
    model = WBCForImageClassification.from_pretrained(tmp_path / "copy")
    assert model.config.image_size == 48
    assert model.image_processor.preprocess_cells(image)["pixel_values"].shape[2:] == (40, 40)


def test_a_missing_image_processor_is_named(folder, image, tmp_path, caplog, monkeypatch):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / NAME).unlink()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = WBCForImageClassification.from_pretrained(tmp_path / "copy")
    assert model.image_processor is None
    (warning,) = [record.getMessage() for record in caplog.records if NAME in record.getMessage()]
    assert str(tmp_path / "copy") in warning
    assert "model.image_processor" in warning
    (cell,) = model.analyze(image).cells
    assert cell.crop_box == (0, 0, *image.size)


@pytest.mark.parametrize("content", ["", "{", "[1"])
def test_a_damaged_image_processor_is_an_error(content, folder, tmp_path):
    """And not taken for a missing one."""
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / NAME).write_text(content)
    with pytest.raises(OSError, match=NAME):
        WBCForImageClassification.from_pretrained(tmp_path / "copy")


@pytest.mark.parametrize("has_processor", [False, True])
def test_weights_of_transformers_resnet_load_with_and_without_an_image_processor(
    has_processor, image, tmp_path, caplog, monkeypatch
):
    small = {name: getattr(tiny_config(), name) for name in ("embedding_size", "hidden_sizes", "depths", "layer_type")}
    ResNetForImageClassification(ResNetConfig(**small, num_labels=5)).save_pretrained(tmp_path)
    if has_processor:  # that of microsoft/resnet-34 resizes the shorter edge
        ConvNextImageProcessor(size={"shortest_edge": 64}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = WBCForImageClassification.from_pretrained(tmp_path)
    assert not [record for record in caplog.records if NAME in record.getMessage()]
    (cell,) = model.analyze(image).cells
    assert cell.crop_box == (0, 0, *image.size)
    if has_processor:
        assert tuple(model.image_processor.image_mean) == (0.1, 0.2, 0.3)
        pixel_values = model.image_processor.preprocess_cells(image)["pixel_values"]
        assert pixel_values.shape[2:] == (224, 224)
    else:
        assert model.image_processor is None


# Values that were fitted to a classifier


def fitted_values(model):
    return model.config.temperature, model.config.max_novelty, model.config.max_smear_novelty


def test_a_new_classifier_has_no_fitted_values(folder, image):
    saved = WBCForImageClassification.from_pretrained(folder)
    assert fitted_values(saved) == (0.5, 1.5, 2.5)
    config = copy.deepcopy(saved.config)
    config.id2label = {0: "a", 1: "b", 2: "c"}
    for arguments in ({"num_labels": 3}, {"config": config}):
        model = WBCForImageClassification.from_pretrained(folder, ignore_mismatched_sizes=True, **arguments)
        assert fitted_values(model) == (1.0, None, None)
        assert model.center_loss.centers.shape == (3, 16)
        assert not model.center_loss.centers.any()
        # That of the backbone, which was loaded.
        assert torch.equal(model.novelty.whitening, saved.novelty.whitening)
        assert model.analyze(image).unknown == 0
    assert config.temperature == 0.5  # the caller's, which stays as it is


def test_a_classifier_on_a_saved_backbone_has_no_fitted_values(folder, tmp_path):
    WBCModel.from_pretrained(folder).save_pretrained(tmp_path)
    model = WBCForImageClassification.from_pretrained(tmp_path)
    assert fitted_values(model) == (1.0, None, None)
    assert not model.novelty.whitening.any()


def test_values_that_are_given_for_a_new_classifier_stay(folder):
    model = WBCForImageClassification.from_pretrained(
        folder, num_labels=3, ignore_mismatched_sizes=True, temperature=2.0, max_novelty=3.0
    )
    assert (model.config.temperature, model.config.max_novelty) == (2.0, 3.0)


def test_other_names_of_the_same_classes_keep_the_fitted_values(folder):
    names = {0: "a", 1: "b", 2: "c", 3: "d"}
    model = WBCForImageClassification.from_pretrained(folder, id2label=names)
    assert model.config.id2label == names
    assert fitted_values(model) == (0.5, 1.5, 2.5)
    assert model.center_loss.centers.any()
