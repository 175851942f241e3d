"""Two published versions: new code with old weights, old code with new weights, and their figures side by side."""

import json
import re

import numpy as np
import pytest

from hub.__main__ import main
from hub.data.synthetic import draw_field
from hub.evaluation.compare import write_predictions
from hub.evaluation.subsets import evaluate_logits
from hub.publish.compare_models import compare_models
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor
from modeling_wbc.configuration_wbc import CODE_VERSION
from tests.publish.clients import REPO, command, pushed, stranger

NAMES = ["basophil", "eosinophil", "lymphocyte", "monocyte"]

LOAD = """
import json
from transformers import AutoModelForImageClassification
answers = []
for options in {options}:
    try:
        model = AutoModelForImageClassification.from_pretrained("{name}", trust_remote_code=True, **options).eval()
        answers.append([list(cell.probabilities.values()) for cell in model.analyze("{image}").cells])
    except ValueError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def write_figures(folder, seed, right):
    """The results of a model that is right for about a share of 200 images, and its predictions."""
    rng = np.random.default_rng(seed)
    references = np.arange(200) % 4
    logits = 4 * np.eye(4)[np.where(rng.random(200) < right, references, (references + 1) % 4)]
    columns = {"file_name": [f"{n}.png" for n in range(200)]}
    results = evaluate_logits(logits, references, NAMES, columns)
    (folder / "results.json").write_text(json.dumps({"splits": {"test": results, f"of {folder.name}": results}}))
    write_predictions(folder / "predictions.csv", logits, references, NAMES, columns)


@pytest.fixture
def versions(fresh, tmp_path):
    """The tags v1, of older code, and v2, of newer code than this one; their folders."""
    folders = {}
    for tag, bias in (("v1", 0.0), ("v2", 3.0)):
        folder = folders[tag] = tmp_path / tag
        config = WBCConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], image_size=32)
        model = WBCForImageClassification(config)
        model.classifier[-1].bias.data[0] = bias
        model.image_processor = WBCImageProcessor(size=32)
        model.save_pretrained(folder)
    config = json.loads((folders["v1"] / "config.json").read_text())
    del config["code_version"]
    (folders["v1"] / "config.json").write_text(json.dumps(config))
    config = json.loads((folders["v2"] / "config.json").read_text())
    (folders["v2"] / "config.json").write_text(json.dumps(config | {"code_version": CODE_VERSION + 1}))
    code = folders["v2"] / "configuration_wbc.py"
    newer, changed = re.subn(
        r"^CODE_VERSION = \d+$", f"CODE_VERSION = {CODE_VERSION + 1}", code.read_text(), flags=re.M
    )
    assert changed == 1
    code.write_text(newer)
    write_figures(folders["v1"], 0, 0.7)
    write_figures(folders["v2"], 1, 0.9)
    for tag, folder in folders.items():
        assert pushed(fresh, tmp_path, folder, tag=tag)[0] == "pushed"
    return folders


def test_each_code_with_the_weights_of_the_other(fresh, versions, tmp_path):
    draw_field("neutrophil", 3).save(tmp_path / "field.png")
    options = [
        {"revision": "v1"},
        {"revision": "v2"},
        {"revision": "v1", "code_revision": "v2"},
        {"revision": "v2", "code_revision": "v1"},
    ]
    script = LOAD.format(options=options, name=REPO, image=tmp_path / "field.png")
    first, second, old_weights, new_weights = stranger(fresh, tmp_path / "home", script)
    assert first != second
    assert old_weights == first
    assert f"version {CODE_VERSION + 1} of the code saved these weights, this is version {CODE_VERSION}" in new_weights
    assert "without code_revision" in new_weights


def test_figures_and_sizes_of_two_versions(fresh, versions, tmp_path, capsys):
    compared = compare_models(*map(str, versions.values()))
    rows = {(row["split"], row["figure"]): row for row in compared["figures"]}
    accuracy = rows["test", "accuracy"]
    published = [json.loads((folder / "results.json").read_text())["splits"]["test"] for folder in versions.values()]
    assert [accuracy[side][0] for side in ("first", "second")] == [results["accuracy"] for results in published]
    assert accuracy["difference"] == pytest.approx(published[1]["accuracy"] - published[0]["accuracy"])
    assert accuracy["paired"]
    assert 0 < accuracy["low"] < accuracy["difference"] < accuracy["high"]
    assert compared["left_out"] == ["of v1", "of v2"]
    assert compared["sizes"]["config.json"] == [
        (folder / "config.json").stat().st_size for folder in versions.values()
    ]

    printed = command(fresh, tmp_path, "model", "compare", f"{REPO}@v1", f"{REPO}@v2")
    assert f"{100 * published[0]['accuracy']:.1f} (" in printed
    assert re.search(r"\ntest \(200\) +accuracy .* paired\n", printed)
    assert re.search(r"\nall files +[\d,]+ +[\d,]+\n", printed)
    assert "v3" in command(fresh, tmp_path, "model", "compare", f"{REPO}@v1", f"{REPO}@v3", status=1)

    (versions["v1"] / "predictions.csv").unlink()
    unpaired = {(row["split"], row["figure"]): row for row in compare_models(*map(str, versions.values()))["figures"]}
    assert not unpaired["test", "accuracy"]["paired"]
    assert unpaired["test", "accuracy"]["difference"] == pytest.approx(accuracy["difference"])
    (versions["v1"] / "results.json").unlink()
    assert main(["model", "compare", *map(str, versions.values())]) == 1
    assert f"{versions['v1']} has no results.json" in capsys.readouterr().err
