"""The model in code that knows nothing of it: the Trainer, adapters and quantisation."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from hub.data.synthetic import draw_field
from modeling_wbc import WBCForImageClassification, WBCImageProcessor
from tests.modeling.builders import images, tiny_model

SCORES = ("distance", "novelty")


@pytest.fixture
def model():
    model = tiny_model(image_size=32, temperature=0.5)
    model.novelty.whitening.normal_()
    model.image_processor = WBCImageProcessor(size=32)
    return model


@pytest.fixture(scope="module")
def image():
    return draw_field("neutrophil", 3)


def trainer(model, folder, **kwargs):
    rows = [{"pixel_values": x, "labels": i % 4} for i, x in enumerate(images(6))]
    arguments = TrainingArguments(
        folder, per_device_eval_batch_size=4, num_train_epochs=1, report_to="none", use_cpu=True, disable_tqdm=True
    )
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, **kwargs)


def compute_metrics(eval_pred):
    """That of the image classification tutorial of Hugging Face."""
    predictions = np.argmax(eval_pred.predictions, axis=1)
    return {"accuracy": float((predictions == eval_pred.label_ids).mean())}


def test_the_trainer_gets_logits_alone(model, tmp_path):
    stock = trainer(model, tmp_path, compute_metrics=compute_metrics)
    with torch.no_grad():
        output = model.eval()(images(6))
    expected = float((output.logits.argmax(1) == torch.arange(6) % 4).float().mean())
    assert stock.evaluate()["eval_accuracy"] == pytest.approx(expected)
    predictions = stock.predict(stock.eval_dataset).predictions
    assert predictions == pytest.approx(output.logits.numpy(), rel=1e-4, abs=1e-4)
    # The scores on request.
    stock.compute_metrics = None
    ignored = [key for key in model.config.keys_to_ignore_at_inference if key not in SCORES]
    logits, *scores = stock.predict(stock.eval_dataset, ignore_keys=ignored).predictions
    assert logits == pytest.approx(predictions)
    for name, score in zip(SCORES, scores, strict=True):
        assert score == pytest.approx(output[name].numpy(), rel=1e-3)


def test_the_trainer_saves_its_own_image_processor(model, tmp_path):
    """Without one, that of the model."""
    trainer(model, tmp_path, processing_class=WBCImageProcessor(size=32, window_size=5.0)).save_model()
    assert WBCForImageClassification.from_pretrained(tmp_path).image_processor.window_size == 5.0
    trainer(model, tmp_path).save_model()
    assert WBCForImageClassification.from_pretrained(tmp_path).image_processor.window_size == 2.0
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["do_find_cell"]


class Forwarding(nn.Module):
    """A module in place of another one, which it calls, as adapters and wrappers do."""

    def __init__(self, module):
        super().__init__()
        self.original = module

    def forward(self, *args, **kwargs):
        return self.original(*args, **kwargs)


def wrapped(model):
    model.classifier = Forwarding(model.classifier)
    return model


def quantized(model):
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def adapted(model, **options):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(**options))


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        (wrapped, 0),
        (quantized, 0.05),
        (lambda model: adapted(model, target_modules=["convolution"], modules_to_save=["classifier"]), 0),
        (lambda model: adapted(model, target_modules=["classifier.1"]), 0),
    ],
    ids=["forwarding", "quantize_dynamic", "peft head", "peft lora"],
)
def test_analyses_with_another_module_as_classifier(change, tolerance, model, image):
    expected = model.analyze(image).cells
    assert len(expected) == 1
    with torch.no_grad():
        pixel_values = model.image_processor.preprocess_cells(image)["pixel_values"]
        maps = model.class_activation_maps(pixel_values)
    changed = change(copy.deepcopy(model))
    (cell,) = changed.analyze(image).cells
    assert cell.box == expected[0].box
    assert cell.probabilities == pytest.approx(expected[0].probabilities, abs=tolerance or 1e-6)
    with torch.no_grad():
        assert (changed.class_activation_maps(pixel_values) - maps).abs().max() <= (
            tolerance or 1e-6
        ) * maps.abs().max()


def test_an_activation_map_has_the_bias_of_an_adapted_classifier(model, image):
    """Whatever linear map stands for the classifier, a map's mean is the logit."""
    model.classifier = nn.Sequential(nn.Linear(16, 3, bias=False), nn.Linear(3, 4))
    pixel_values = images(2)
    with torch.no_grad():
        maps, logits = model.class_activation_maps(pixel_values), model(pixel_values).logits
    torch.testing.assert_close(maps.mean((2, 3)), logits, rtol=1e-4, atol=1e-5)


def test_analysing_leaves_every_module_in_its_mode(model, image):
    """A frozen backbone has its norms in eval mode while the rest trains."""
    model.train()
    model.resnet.encoder.eval()
    before = {name: module.training for name, module in model.named_modules()}
    model.analyze(image)
    assert {name: module.training for name, module in model.named_modules()} == before
