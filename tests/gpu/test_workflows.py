"""What people do with the model: train and resume, analyse a field, and answer on the page."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

import train
from hub.data.load import save
from hub.data.synthetic import draw_field, drawn_cells
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor
from space.classifier import Classifier
from tests.modeling.builders import RESNET_34, tiny_config

CHECKPOINT = "hub/checkpoint"


@pytest.fixture
def arguments(tmp_path, device, on_gpu):
    """Those of a short training on drawn cells, from weights of its own."""
    config = WBCConfig(image_size=64, **RESNET_34) if on_gpu else tiny_config(image_size=32)
    torch.manual_seed(0)
    model = WBCForImageClassification(config)
    model.image_processor = WBCImageProcessor(size=config.image_size)
    model.save_pretrained(tmp_path / "start")
    save(drawn_cells(seed=0, train=64 if on_gpu else 16, test=8), tmp_path / "cells")
    return [
        *("--do_train", "--dataset_name", str(tmp_path / "cells"), "--model_name_or_path", str(tmp_path / "start")),
        *("--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "no"),
        *("--per_device_train_batch_size", "16" if on_gpu else "8", "--learning_rate", "0.02", "--find_cell"),
        *("--augment", "strong", "--disable_tqdm", "True", "--dataloader_num_workers", "0", "--report_to", "none"),
        *(["--bf16", "--channels_last"] if on_gpu else ["--use_cpu"]),
    ]


def test_a_training_that_is_resumed_ends_as_one_that_is_not(arguments, tmp_path, on_gpu):
    train.main([*arguments, "--output_dir", str(tmp_path / "whole")])
    half = tmp_path / "half"
    half.mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", half / "checkpoint-2")
    train.main([*arguments, "--output_dir", str(half), "--resume_from_checkpoint"])
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", half))
    start = load_file(tmp_path / "start" / "model.safetensors")
    for name, weight in whole.items():
        if weight.is_floating_point():
            # Sums on a GPU have no fixed order.
            torch.testing.assert_close(resumed[name], weight, rtol=1e-2 if on_gpu else 0, atol=1e-3 if on_gpu else 0)
    assert not torch.equal(whole["classifier.1.weight"], start["classifier.1.weight"])


def test_a_field_is_analysed_as_on_the_cpu(device, on_gpu):
    fields = [draw_field(label, seed=3) for label in ("neutrophil", "monocyte")]
    model = WBCForImageClassification.from_pretrained(CHECKPOINT).eval()
    expected = model.analyze(fields)
    found = model.to(device).analyze(fields)
    assert sum(len(field.cells) for field in expected) > 0
    for mine, theirs in zip(found, expected, strict=True):
        assert [cell.box for cell in mine.cells] == [cell.box for cell in theirs.cells]
        for cell, other in zip(mine.cells, theirs.cells, strict=True):
            assert cell.probabilities == pytest.approx(other.probabilities, abs=0.02 if on_gpu else 1e-6)
            assert cell.known == other.known


def test_the_page_answers(device, on_gpu):
    classifier = Classifier(CHECKPOINT)
    assert classifier.model.device.type == device.type
    image = draw_field("neutrophil", seed=3)
    sources = [("field.png", image), ("broken.png", ValueError("cut off"))]
    (answer, preview), (broken, nothing) = classifier.answers(sources, 256)
    assert answer["status"] in ("sure", "doubtful", "unknown")
    assert len(answer["cells"]) == 1
    assert sum(answer["cells"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert max(preview.size) <= 256
    assert (broken["status"], nothing) == ("unreadable", None)
