"""The model's repository on the Hub: its files, its card, its ONNX model, and its use by others."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image

from modeling_wbc import WBCForImageClassification, WBCImageProcessor
from tests.publish.clients import CHECKPOINT, DATASET, MODEL, ROOT, command, holds, stranger


def test_the_model_repository_holds_what_it_needs_and_no_more(hub, published):
    tree = set(hub.repo("model", MODEL).commit("main").tree)
    assert tree == {
        *(
            ".gitattributes",
            "CHANGELOG.md",
            "README.md",
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
        ),
        *(path.name for path in CHECKPOINT.glob("*.py")),
        *("results.json", "predictions.csv"),
        *("confusion_matrix_bccd.png", "confusion_matrix_pbc.png", "reliability.png"),
        *(f"examples/{path.name}" for path in (ROOT / "examples").glob("*.jpg")),
        "examples/README.md",
        "onnx/model.onnx",
    }
    assert hub.content("model", MODEL, "model.safetensors") == (CHECKPOINT / "model.safetensors").read_bytes()
    # No path of the machine that published it.
    assert str(ROOT).encode() not in hub.content("model", MODEL, "onnx/model.onnx")


def test_the_model_card_shows_its_id_and_the_measured_figures(hub, published):
    card = ModelCard(hub.content("model", MODEL, "README.md").decode())
    assert f'from_pretrained("{MODEL}", trust_remote_code=True)' in card.text
    assert card.data.datasets == [DATASET]
    assert card.data.pipeline_tag == "image-classification"
    assert {example["src"].rpartition("main/")[2] for example in card.data.widget} <= set(
        hub.repo("model", MODEL).commit("main").tree
    )
    parts = json.loads((CHECKPOINT / "results.json").read_text())["splits"]["test"]["subsets"]
    measured = {
        (result.dataset_config, result.metric_type): result.metric_value
        for result in model_index_to_eval_results(card.data.to_dict()["model-index"])[1]
    }
    assert measured["bccd", "accuracy"] == parts["bccd_4_classes"]["accuracy"]
    assert measured["pbc", "f1"] == parts["pbc"]["macro_f1"]
    for word in ("71 photographs", "Research use only", "ma2020white", "acevedo2020dataset", "shenggan2017bccd"):
        assert word in card.text


def test_onnx_gives_the_logits_of_pytorch(hub, published, images, tmp_path):
    (tmp_path / "model.onnx").write_bytes(hub.content("model", MODEL, "onnx/model.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    model = WBCForImageClassification.from_pretrained(CHECKPOINT).eval()
    processor = WBCImageProcessor.from_pretrained(CHECKPOINT)
    pixel_values = processor([Image.open(path) for path in images], return_tensors="pt")["pixel_values"]
    for part in (pixel_values, pixel_values[:1]):  # any number of images
        found = dict(
            zip(
                (output.name for output in session.get_outputs()),
                session.run(None, {"pixel_values": part.numpy()}),
                strict=True,
            )
        )
        with torch.no_grad():
            expected = model(part)
        for name in ("logits", "distance", "novelty", "embeddings"):
            np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-4, rtol=0)


LOAD_MODEL = """
import json, sys
import numpy as np
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

name, images, loaded = "{name}", {images}, []
for revision in {revisions}:
    options = dict(trust_remote_code=True, revision=revision)
    config = AutoConfig.from_pretrained(name, **options)
    processor = AutoImageProcessor.from_pretrained(name, **options)
    trunk = AutoModel.from_pretrained(name, **options)
    model = AutoModelForImageClassification.from_pretrained(name, **options)
    fields = model.analyze(images, processor)
    first = pipeline("image-classification", model=name, **options)(images[0], top_k=1)[0]
    loaded.append(dict(
        type=config.model_type, trunk=type(trunk).__name__, dtype=str(model.dtype), first=first,
        answers=[[list(cell.probabilities.values()) for cell in field.cells] for field in fields],
        local=[name for name in sys.modules if name.split(".")[0] in ("modeling_wbc", "hub")],
    ))
print(json.dumps(loaded))
"""


def test_a_stranger_loads_the_model_and_gets_the_same_answers(hub, published, images, answers, tmp_path):
    newest = hub.repo("model", MODEL).commit("main").id

    def load_revisions(*revisions, **variables):
        script = LOAD_MODEL.format(name=MODEL, images=images, revisions=revisions)
        return stranger(hub, tmp_path, script, **variables)

    online, by_id = load_revisions(None, newest)
    assert online["local"] == []
    assert (online["type"], online["trunk"], online["dtype"]) == ("wbc", "WBCModel", "torch.float32")
    for found, expected in zip(online["answers"], answers, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert online["first"]["score"] == pytest.approx(max(answers[0][0]), abs=1e-5)
    assert by_id["answers"] == online["answers"]
    asked = len(hub.requests)
    (offline,) = load_revisions(None, HF_HUB_OFFLINE="1")
    assert offline["answers"] == online["answers"]
    assert len(hub.requests) == asked  # from the cache alone


LOAD_OTHERWISE = """
import json, torch
from huggingface_hub import hf_hub_download, snapshot_download
from transformers import AutoModelForImageClassification

name, loaded = "{name}", dict()
for key, options in dict(
    plain=dict(), bfloat16=dict(dtype=torch.bfloat16), auto=dict(dtype="auto"), placed=dict(device_map="cpu"),
    spread=dict(device_map="auto"), both=dict(dtype=torch.float16, device_map=dict([("", "cpu")])),
).items():
    model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True, **options).eval()
    cells = model.analyze("{image}").cells
    loaded[key] = [str(model.dtype), str(model.device), list(cells[0].probabilities.values())]
    if key == "plain":
        plain, (size, *_) = model, [model.config.image_size]
pixel_values = torch.rand(3, 3, size, size)
batch = dict(pixel_values=dict([(0, torch.export.Dim("batch"))]))
program = torch.export.export(plain, (pixel_values[:2],), dynamic_shapes=batch)
with torch.no_grad():
    difference = (program.module()(pixel_values).logits - plain(pixel_values).logits).abs().max()
loaded["exported"] = float(difference)
path = hf_hub_download(name, "results.json")
loaded["file"] = json.load(open(path))["temperature"]
folder = snapshot_download(name, allow_patterns=["*.json", "*.py", "*.safetensors"])
loaded["folder"] = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).config.temperature
print(json.dumps(loaded))
"""


def test_a_stranger_loads_it_in_other_precisions_and_places_and_exports_it(hub, published, images, answers, tmp_path):
    loaded = stranger(hub, tmp_path, LOAD_OTHERWISE.format(name=MODEL, image=images[0]))
    temperature = json.loads((CHECKPOINT / "results.json").read_text())["temperature"]
    assert (loaded.pop("file"), loaded.pop("folder")) == (temperature, temperature)
    assert loaded.pop("exported") < 1e-4
    assert {key: found[:2] for key, found in loaded.items()} == {
        "plain": ["torch.float32", "cpu"],
        "bfloat16": ["torch.bfloat16", "cpu"],
        "auto": ["torch.float32", "cpu"],  # what the configuration says of the float16 weights
        "placed": ["torch.float32", "cpu"],
        "spread": ["torch.float32", "cpu"],
        "both": ["torch.float16", "cpu"],
    }
    for key, (dtype, _, probabilities) in loaded.items():
        tolerance = {"torch.float32": 1e-5, "torch.float16": 0.01, "torch.bfloat16": 0.1}[dtype]
        np.testing.assert_allclose(probabilities, answers[0][0], atol=tolerance, err_msg=key)


def test_staging_gives_the_pushed_bytes(hub, published, tmp_path):
    command(hub, tmp_path, "model", "stage", "--repo-id", MODEL, "--output", tmp_path / "model")
    assert holds(hub, tmp_path / "model", repo_id=MODEL)
