"""Images that show no white cell, how many a model refuses, and `python -m hub ood`."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from hub.__main__ import main
from hub.data.load import load, save
from hub.data.synthetic import draw_field, drawn_cells
from hub.study import ood
from hub.study.annotations import Finding
from hub.study.ood import ood_images, ood_scores, sample_images
from hub.training.calibration import fit_novelty
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of an untrained tiny model of crops that knows drawn cells from other images."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    processor = WBCImageProcessor(size=32)
    processor.save_pretrained(folder)
    model = WBCForImageClassification(WBCConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).eval()
    model.center_loss.centers.normal_()
    fields = [draw_field(label, seed) for label in model.config.id2label.values() for seed in range(12)]
    with torch.no_grad():
        pixel_values = processor(fields, return_tensors="pt")["pixel_values"]
        stage = model.resnet(pixel_values, output_hidden_states=True).hidden_states[1]
        mean, whitening = map(torch.from_numpy, fit_novelty(model.novelty.statistics(stage).numpy()))
        model.novelty.mean.copy_(mean)
        model.novelty.whitening.copy_(whitening)
        model.config.max_novelty = float(model(pixel_values).novelty.max())
    model.save_pretrained(folder)
    return folder


def test_ood_images_are_always_the_same_and_of_every_kind(monkeypatch):
    monkeypatch.setattr(ood, "DRAWN_IMAGES", 5)
    images = list(ood_images())
    counts = Counter(kind for kind, _ in images)
    assert counts.pop("sample images") == 7 * len(sample_images()) >= 7 * 4  # scikit-learn's and matplotlib's
    assert counts == dict.fromkeys(("drawn scenes", "noise", "blank and colour", "text"), 5)
    for (kind, image), (same_kind, same) in zip(images, ood_images(), strict=True):
        assert (kind, image.mode) == (same_kind, "RGB")
        assert image.tobytes() == same.tobytes()
    drawn = [image.tobytes() for kind, image in images if kind in ("drawn scenes", "noise", "text")]
    assert len(set(drawn)) == len(drawn)


def test_halves_of_photographs_of_the_training_are_a_kind_of_their_own(monkeypatch, tmp_path):
    """A score that was fitted to what lies in these photographs is not judged by them alone."""
    monkeypatch.setattr(ood, "DRAWN_IMAGES", 0)
    monkeypatch.setattr(ood, "sample_images", list)
    (tmp_path / "Original_Images").mkdir()
    cell = torch.tensor([[20.0, 80, 60, 120]])
    findings = [Finding(name, cell, cell, 1, 1) for name in ("first", "second", "third")]
    for value, finding in enumerate(findings):
        Image.new("RGB", (320, 240), (value, 0, 0)).save(tmp_path / "Original_Images" / f"{finding.name}.jpg")
    monkeypatch.setattr(ood, "find_annotated", lambda *_: findings)
    kinds = [kind for kind, _ in ood_images(tmp_path, {"second", "elsewhere"})]
    assert kinds == ["red cells"] * 2 + ["red cells, trained on"]
    assert [kind for kind, _ in ood_images(tmp_path)] == ["red cells"] * 3


def test_scores_are_the_novelty_of_the_foremost_cell_or_of_the_whole_image(model):
    loaded = WBCForImageClassification.from_pretrained(model).eval()
    processor = WBCImageProcessor.from_pretrained(model)
    images = [draw_field("monocyte", seed) for seed in range(5)] + [Image.new("RGB", (50, 40), "red")]
    scores = ood_scores(loaded, processor, images, batch_size=4)
    with torch.no_grad():
        expected = loaded(processor(images, return_tensors="pt")["pixel_values"]).novelty
    assert scores == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-5)
    assert ood_scores(loaded, processor, []).shape == (0,)


def test_measures_what_is_refused_and_what_is_kept(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ood, "DRAWN_IMAGES", 3)
    monkeypatch.setattr(ood, "SAMPLE_CROPS", 1)
    data = tmp_path / "cells"
    save(drawn_cells(seed=0, train=4, test=8), data)
    arguments = ["ood", "--model", str(model), "--dataset_name", str(data), "--output"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "ood_results.json").read_text(encoding="utf-8"))

    loaded = WBCForImageClassification.from_pretrained(model).eval()
    fields = [(kind, loaded.analyze(image)) for kind, image in ood_images()]
    assert (
        results["ood"]["all"]["images"]
        == len(fields)
        == sum(part["images"] for kind, part in results["ood"].items() if kind != "all")
    )
    for kind, part in results["ood"].items():
        own = [field for each, field in fields if kind in ("all", each)]
        assert part["images"] == len(own)
        assert part["nothing_found"][0] == pytest.approx(np.mean([not field.cells for field in own]))
        assert part["refused"][0] == pytest.approx(np.mean([field.unknown == len(field.cells) for field in own]))
    assert results["ood"]["noise"]["refused_as_a_cell"][0] == 1  # even by a network that was never trained

    processor = WBCImageProcessor.from_pretrained(model)
    smears = ood_scores(loaded, processor, (row["image"].convert("RGB") for row in load(data)["test"]))
    others = ood_scores(loaded, processor, (image for _, image in ood_images()))
    (part,) = results["smears"].values()
    assert part["kept"] == pytest.approx(np.mean(smears <= loaded.config.max_novelty))
    truth = [0] * 8 + [1] * len(fields)
    assert part["auroc"] == {"novelty": pytest.approx(roc_auc_score(truth, [*smears, *others]))}
    assert results["ood"]["all"]["refused_as_a_cell"][0] == np.mean(others > loaded.config.max_novelty)
    assert "noise " in printed
    assert "novelty " in printed
    with Image.open(tmp_path / "out" / "accepted.png") as sheet:
        assert sheet.width > 1000


def test_names_what_is_missing(model, tmp_path, capsys):
    data = tmp_path / "cells"
    save(drawn_cells(seed=0, train=4, test=4), data)
    arguments = ["ood", "--dataset_name", str(data), "--output", str(tmp_path / "out"), "--model"]
    assert main([*arguments, str(model), "--split", "validation"]) == 1
    assert "has no split validation, only train, test" in capsys.readouterr().err
    assert main([*arguments, str(model), "--bccd", str(tmp_path)]) == 1
    assert "Annotations" in capsys.readouterr().err
    loaded = WBCForImageClassification.from_pretrained(model, max_novelty=None)
    loaded.save_pretrained(tmp_path / "trusting")
    assert main([*arguments, str(tmp_path / "trusting")]) == 1
    assert "refuses nothing" in capsys.readouterr().err
