"""`python -m hub model`: a trained classifier made ready to publish."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from hub.__main__ import main
from hub.evaluation.compare import write_predictions
from hub.evaluation.format import markdown_table_1
from hub.evaluation.subsets import evaluate_logits
from hub.publish.model import read_results
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor

NAMES = ["basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"]


@pytest.fixture
def trained(tmp_path):
    """The folder of a tiny classifier, as train.py leaves it."""
    folder = tmp_path / "trained"
    torch.manual_seed(0)
    WBCImageProcessor(size=32, window_size=2.5).save_pretrained(folder)
    config = WBCConfig(
        id2label=dict(enumerate(NAMES)),
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        temperature=0.8,
        max_novelty=3.0,
    )
    WBCForImageClassification(config).save_pretrained(folder)
    return folder


def test_exports_half_the_bytes_that_load_as_float32(trained, tmp_path):
    output = tmp_path / "checkpoint"
    assert main(["model", "export", str(trained), "--output", str(output)]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (trained, output))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        expected = weight.half() if weight.is_floating_point() else weight
        assert after[name].dtype == expected.dtype, name
        assert torch.equal(after[name], expected), name
    # A stranger, with nothing but the folder.
    script = (
        "import json, torch\n"
        "from transformers import AutoImageProcessor, AutoModelForImageClassification\n"
        f"model = AutoModelForImageClassification.from_pretrained({str(output)!r}, trust_remote_code=True)\n"
        f"processor = AutoImageProcessor.from_pretrained({str(output)!r}, trust_remote_code=True)\n"
        f"half = AutoModelForImageClassification.from_pretrained({str(output)!r}, trust_remote_code=True, "
        "dtype=torch.float16)\n"
        "print(json.dumps([str(model.dtype), str(half.dtype), processor.window_size, model.config.temperature]))\n"
    )
    environment = os.environ | {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout) == ["torch.float32", "torch.float16", 2.5, 0.8]


def test_averages_a_classifier_and_what_became_of_it(trained, tmp_path, capsys):
    model = WBCForImageClassification.from_pretrained(trained)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    model.resnet.embedder.embedder.normalization.num_batches_tracked += 5
    model.config.temperature = 2.0
    model.save_pretrained(later := tmp_path / "later")
    WBCImageProcessor(size=32, window_size=3.0).save_pretrained(later)
    (later / "train_results.json").write_text('{"command": "python train.py", "recipe": {"Batch": 64}}')

    between = tmp_path / "between"
    assert main(["model", "average", str(trained), str(later), "--share", "0.75", "--output", str(between)]) == 0
    mean = WBCForImageClassification.from_pretrained(between)
    for name, parameter in mean.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.75, msg=name)
    assert mean.config.temperature == 2.0
    assert WBCImageProcessor.from_pretrained(between).window_size == 3.0
    history = json.loads((between / "train_results.json").read_text())
    assert history["recipe"] == {"Batch": 64}
    assert history["command"] == f"python -m hub model average {trained} {later} --share 0.75 --output {between}"

    assert main(["model", "average", str(trained), str(later), "--share", "2", "--output", str(between)]) == 1
    assert "--share is 2.0; give 0 to 1" in capsys.readouterr().err
    other = WBCForImageClassification(WBCConfig(id2label={0: "a", 1: "b"}, hidden_sizes=[8, 16], depths=[1, 1]))
    other.save_pretrained(later)
    assert main(["model", "average", str(trained), str(later), "--output", str(between)]) == 1
    assert "do not hold the same weights" in capsys.readouterr().err


def test_does_not_export_what_float16_cannot_hold(trained, tmp_path, capsys):
    model = WBCForImageClassification.from_pretrained(trained)
    model.center_loss.centers[2, 3] = 1e5
    model.save_pretrained(trained)
    assert main(["model", "export", str(trained), "--output", str(tmp_path / "checkpoint")]) == 1
    assert "beyond the range of float16" in (error := capsys.readouterr().err)
    assert "center_loss.centers" in error
    assert not (tmp_path / "checkpoint").exists()
    assert main(["model", "export", str(tmp_path / "nowhere"), "--output", str(tmp_path / "checkpoint")]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.fixture
def measured(trained, tmp_path):
    """What train.py and `python -m hub ood` leave of a classifier, made up; rounding moves some files."""
    rng = np.random.default_rng(0)
    references = np.concatenate((rng.integers(1, 5, 60), rng.integers(0, 5, 40)))
    columns = {
        "file_name": [f"{k}.png" for k in range(100)],
        "lab": ["bccd"] * 60 + ["pbc"] * 40,
        "photograph": [f"{label} {k % 3}" for k, label in enumerate(references[:60])] + [None] * 40,
    }
    logits = 3 * np.eye(5)[references] + rng.normal(0, 1.5, (100, 5))
    known = rng.random(100) < 0.9
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    results = {"loss": 0.5, "runtime": 12.3} | evaluate_logits(logits, references, NAMES, columns, accepted=known)
    for split in ("validation", "test"):
        (evaluation / f"{split}_results.json").write_text(json.dumps(results))
        write_predictions(evaluation / f"{split}_predictions.csv", logits, references, NAMES, columns)
    moved = logits.copy()
    moved[:4] = np.roll(moved[:4], 1, axis=1)
    write_predictions(trained / "test_predictions.csv", moved, references, NAMES, columns)
    first = tmp_path / "first"
    first.mkdir()
    for stage, (folder, base) in enumerate({first: None, trained: "first"}.items()):
        recipe = {"Epochs": stage + 3, "Seed": 42}
        training = {"command": f"train.py --stage {stage}", "base_model": base, "dataset": "data/blood8"}
        (folder / "train_results.json").write_text(json.dumps(training | {"recipe": recipe}))
    part = {
        "images": 7,
        "nothing_found": [0.5, 0.4, 0.6],
        "refused": [0.9, 0.8, 1.0],
        "refused_as_a_cell": [0.7, 0.6, 0.8],
    }
    smears = {"images": 60, "kept": 0.97, "auroc": {"novelty": 0.75}}
    ood = tmp_path / "ood"
    ood.mkdir()
    measured = {"ood": {"all": part, "noise": part}, "smears": {"bccd": smears, "pbc": smears}}
    (ood / "ood_results.json").write_text(json.dumps(measured))
    return ["--evaluation", str(evaluation), "--ood", str(ood), "--training", str(first), str(trained)], results


def test_reports_every_figure_beside_the_weights(trained, measured, tmp_path):
    arguments, test = measured
    folder = tmp_path / "checkpoint"
    assert main(["model", "export", str(trained), "--output", str(folder)]) == 0
    assert main(["model", "report", str(folder), *arguments]) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["splits"].keys() == {"validation", "test"}
    assert results["splits"]["test"] == {key: value for key, value in test.items() if key != "runtime"}
    assert [stage["command"] for stage in results["training"]] == ["train.py --stage 0", "train.py --stage 1"]
    with open(trained / "test_predictions.csv", newline="", encoding="utf-8") as file:
        before = [row["prediction"] for row in csv.DictReader(file)]
    with open(tmp_path / "evaluation" / "test_predictions.csv", newline="", encoding="utf-8") as file:
        after = [row["prediction"] for row in csv.DictReader(file)]
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    assert moved > 0
    assert results["moved_by_float16"][0] == moved / 100
    assert (results["temperature"], results["max_novelty"]) == (0.8, 3.0)
    assert results["ood"]["all"]["refused"][0] == 0.9
    assert results["evaluation"].endswith(f"--dataset_name data/blood8 --output_dir {tmp_path / 'evaluation'}")
    assert results["software"]["torch"] == torch.__version__
    assert results["commit"] is None or len(results["commit"].rstrip("+")) == 40

    card = ModelCard.load(folder / "README.md").text
    assert "```bash\ntrain.py --stage 0\ntrain.py --stage 1\naccelerate launch train.py --do_eval" in card
    four = test["subsets"]["bccd_4_classes"]
    assert markdown_table_1(four, four["label_names"]) in card
    assert "BCCD, 60 test images" in card
    assert markdown_table_1(test["subsets"]["pbc"], NAMES, paper=False) in card
    assert "| noise | 7 | 50.0 (40.0 to 60.0) | 90.0 (80.0 to 100.0) | 70.0 (60.0 to 80.0) |" in card
    assert markdown_table_1(test, NAMES, paper=False) in card
    assert "two labs" in card
    assert "random weights" in card
    assert "| Epochs | 4 |" in card
    assert "unknown" in card
    assert "\n\n\n" not in card
    assert "{%" not in card
    for name in ("confusion_matrix_bccd.png", "confusion_matrix_pbc.png", "reliability.png"):
        assert f"]({name})" in card
        with Image.open(folder / name) as image:
            assert min(image.size) > 400


def test_a_report_names_the_file_that_it_lacks(trained, measured, tmp_path, capsys):
    arguments, _ = measured
    (tmp_path / "ood" / "ood_results.json").unlink()
    assert main(["model", "report", str(trained), *arguments]) == 1
    assert "ood_results.json" in capsys.readouterr().err


def test_results_written_when_ood_was_called_foreign_still_render(trained, measured, tmp_path, capsys):
    arguments, _ = measured
    assert main(["model", "report", str(trained), *arguments]) == 0
    card, results = (trained / "README.md").read_text(encoding="utf-8"), read_results(trained / "results.json")
    former = {"foreign" if key == "ood" else key: value for key, value in results.items()}
    path = tmp_path / "ood" / "ood_results.json"
    written = json.dumps({name: former[name] for name in ("foreign", "smears")})
    path.rename(path.with_name("foreign_results.json")).write_text(written, encoding="utf-8")
    arguments[arguments.index("--ood")] = "--foreign"
    assert main(["model", "report", str(trained), *arguments]) == 0
    assert "--foreign is now called --ood" in capsys.readouterr().err
    assert (trained / "README.md").read_text(encoding="utf-8") == card
    (trained / "results.json").write_text(json.dumps(former), encoding="utf-8")
    assert read_results(trained / "results.json") == results
