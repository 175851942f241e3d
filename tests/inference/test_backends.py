"""Every backend gives PyTorch's answers, within what the docs say; int8 within what its ranges allow."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hub.__main__ import main
from hub.data.load import save
from hub.data.synthetic import draw_field, drawn_cells
from hub.files import UserError
from hub.inference.onnx import export_onnx, write_onnx
from hub.inference.predict import predict
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor
from space.backends import use_backend
from space.classifier import Classifier
from tests.inference.tables import assert_same_answers, table

TOLERANCES = {"onnx": 1e-4, "bfloat16": 0.03, "onnx-int8": 0.1}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The folder of a small model of all parts, whose novelty and norms are no identities, and its ONNX files."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = WBCConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        image_size=32,
        stages={"neutrophil": ["band", "segmented"]},
        attributes={"granularity": ["yes", "no"]},
        stain_size=16,
    )
    model = WBCForImageClassification(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.nn.init.normal_(model.resnet.stain.mixture, std=0.01)
    torch.nn.init.normal_(model.novelty.whitening)
    torch.nn.init.normal_(model.center_loss.centers)
    model.image_processor = WBCImageProcessor(size=32)
    model.save_pretrained(folder)
    save(drawn_cells(seed=0, train=24, test=4), folder / "cells")
    assert main(["model", "onnx", str(folder), "--output", str(folder), "--calibrate", str(folder / "cells")]) == 0
    return folder


@pytest.fixture(scope="module")
def crops(classifier):
    processor = WBCImageProcessor.from_pretrained(classifier)
    fields = [draw_field("neutrophil", seed) for seed in range(5)]
    return processor(fields, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("backend", TOLERANCES)
def test_a_backend_gives_the_outputs_of_pytorch(backend, classifier, crops):
    model, other = (WBCForImageClassification.from_pretrained(classifier).eval() for _ in range(2))
    use_backend(other, backend)
    for part in (crops, crops[:1]):
        with torch.no_grad():
            expected, found = (each(part, output_hidden_states=True) for each in (model, other))
        pairs = [(found[name], expected[name]) for name in ("logits", "distance", "novelty", "stage_logits")]
        pairs += [(found["attribute_logits"]["granularity"], expected["attribute_logits"]["granularity"])]
        pairs += [(found["hidden_states"][-1], expected["hidden_states"][-1])]
        for result, wanted in pairs:
            assert result.dtype == torch.float32
            scale = max(1.0, wanted.abs().max().item())
            torch.testing.assert_close(result, wanted, rtol=0, atol=TOLERANCES[backend] * scale)


def test_int8_computes_in_int8(classifier):
    graph = onnx.load(classifier / "onnx" / "model_int8.onnx").graph
    convolutions, kept = [], []  # those of the stain normaliser are kept as they are
    for node in (node for node in graph.node if node.op_type == "Conv"):
        (kept if any(".stain." in name for name in node.input) else convolutions).append(node)
    sources = {output: node.op_type for node in graph.node for output in node.output}
    assert len(convolutions) > 4
    assert all(sources[name] == "DequantizeLinear" for node in convolutions for name in node.input[:2])
    assert len(kept) == 4
    assert not [name for node in kept for name in node.input if sources.get(name) == "DequantizeLinear"]
    weights = [onnx.numpy_helper.to_array(entry) for entry in graph.initializer]
    int8 = [weight for weight in weights if weight.dtype == np.int8 and weight.ndim == 4]
    assert len(int8) == len(convolutions)
    assert max(np.abs(weight).max() for weight in int8) <= 64  # more overflows in the sums of older CPUs


def test_the_table_of_a_backend_is_pytorchs(classifier, tmp_path):
    paths = [tmp_path / f"{seed}.png" for seed in range(4)]
    for seed, path in enumerate(paths):
        draw_field("lymphocyte", seed).save(path)
    predict(paths, classifier, tmp_path / "torch")
    predict(paths, classifier, tmp_path / "onnx", backend="onnx")
    assert_same_answers(tmp_path / "onnx", tmp_path / "torch")
    predict(paths, classifier, tmp_path / "int8", backend="onnx-int8")
    assert [row["status"] for row in table(tmp_path / "int8")] == ["ok"] * 4
    (classifier / "onnx").rename(tmp_path / "moved")
    try:  # the float32 model is made; one in int8 needs images that only the user has
        predict(paths, classifier, tmp_path / "made", backend="onnx")
        assert_same_answers(tmp_path / "made", tmp_path / "torch")
        with pytest.raises(
            UserError, match=r"has no onnx/model_int8\.onnx, which `python -m hub model onnx .* --calib"
        ):
            predict(paths, classifier, tmp_path / "none", backend="onnx-int8")
    finally:
        (tmp_path / "moved").rename(classifier / "onnx")


def test_the_page_answers_with_the_backend_that_it_is_given(classifier, tmp_path):
    draw_field("lymphocyte", 1).save(tmp_path / "a.png")
    sources = [("a.png", str(tmp_path / "a.png"))]
    ((expected, _),) = Classifier(str(classifier)).answers(sources, 64)
    ((found, _),) = Classifier(str(classifier), "onnx").answers(sources, 64)
    assert [cell["box"] for cell in found["cells"]] == [cell["box"] for cell in expected["cells"]]
    for cell, other in zip(found["cells"], expected["cells"], strict=True):
        assert cell["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
        np.testing.assert_allclose(cell["activation_map"], other["activation_map"], atol=1e-3)
    with pytest.raises(ValueError, match="there is no backend 'tpu'"):
        Classifier(str(classifier), "tpu")


def test_an_export_that_differs_is_refused(classifier, crops, monkeypatch, tmp_path):
    whole = SimpleNamespace(model_proto=onnx.load(classifier / "onnx" / "model.onnx"))
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: whole)
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run", lambda *args: [array + 0.01 for array in run(*args)], raising=True
    )
    model = WBCForImageClassification.from_pretrained(classifier).eval()
    with pytest.raises(UserError, match=r"the logits of .*model\.onnx differ from PyTorch's by 0\.01"):
        export_onnx(model, crops, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="no such folder"):
        write_onnx(classifier, tmp_path, str(tmp_path / "nowhere"))
