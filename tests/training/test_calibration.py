"""Temperature, OOD score and OOD threshold, against brute force, a simulated classifier and whole runs."""

import csv
import json
import random

import numpy as np
import pytest
import torch
from runs import arguments
from scipy.spatial.distance import mahalanobis
from scipy.special import expit, log_softmax, softmax
from transformers import AutoImageProcessor

import train
from hub.data.load import load, save
from hub.evaluation.metrics import expected_calibration_error
from hub.training import calibration
from hub.training.arguments import ModelArguments
from hub.training.calibration import (
    fit_direction,
    fit_novelty,
    fit_temperature,
    fit_threshold,
    sample_evenly,
)
from hub.training.focus import fit_focus_threshold
from hub.training.images import CellImages
from hub.training.outliers import OtherLabs, restain
from hub.training.weights import load_model
from modeling_wbc import SmearNovelty, WBCForImageClassification


def answers(temperature, n=4000, classes=5, seed=0):
    """Logits that are `temperature` times those by which the classes were drawn."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    cumulative = softmax(logits, axis=1).cumsum(1)
    references = (rng.random((n, 1)) > cumulative[:, :-1]).sum(1)
    return temperature * logits, references


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_finds_the_factor_of_the_logits(temperature):
    logits, references = answers(temperature)
    found = fit_temperature(logits, references)
    assert found == pytest.approx(temperature, rel=0.08)
    error = expected_calibration_error(softmax(logits / found, axis=1), references)
    assert error < 0.03
    # By brute force.
    losses = {
        each: -log_softmax(logits / each, axis=1)[np.arange(len(references)), references].mean()
        for each in np.linspace(0.7, 1.3, 601) * found
    }
    assert min(losses, key=losses.get) == pytest.approx(found, rel=2e-3)


def test_float32_and_huge_logits_do_no_harm():
    logits, references = answers(1.0)
    assert fit_temperature(np.float32(logits), references) == pytest.approx(
        fit_temperature(logits, references), rel=1e-3
    )
    assert fit_temperature(logits * 15 + 1e4, references) == pytest.approx(15, rel=0.08)
    right = np.eye(3) * 30
    assert fit_temperature(right, [0, 1, 2]) == pytest.approx(1 / 20, rel=0.01)


def test_labs_weigh_equally_in_the_temperature():
    """A lab of few images, whose logits are three times too large, beside one of many that fit."""
    parts = [answers(1.0, 4000), answers(3.0, 400, seed=1)]
    logits, references = (np.concatenate(values) for values in zip(*parts, strict=True))
    labs = ["many"] * 4000 + ["few"] * 400
    found = fit_temperature(logits, references, labs)
    repeated = [np.concatenate([many, *[few] * 10]) for many, few in zip(*parts, strict=True)]
    assert found == pytest.approx(fit_temperature(*repeated), rel=1e-3)
    assert found > 1.1 * fit_temperature(logits, references)


@pytest.mark.parametrize("shape, count", [((4, 3), 3), ((4,), 4), ((0, 3), 0)])
def test_names_shapes_that_do_not_fit(shape, count):
    with pytest.raises(ValueError, match=r"logits must be \(N, K\)"):
        fit_temperature(np.zeros(shape), np.zeros(count, dtype=int))


def test_the_threshold_accepts_the_share_of_each_data_set():
    rng = np.random.default_rng(0)
    near, far = rng.gamma(4, 1, 1000), rng.gamma(4, 3, 400)
    threshold = fit_threshold(np.concatenate((near, far)), ["near"] * 1000 + ["far"] * 400, kept=0.95)
    assert (far <= threshold).mean() >= 0.95 > (far < threshold).mean()
    assert (near <= threshold).mean() == 1
    assert fit_threshold(np.arange(1, 101), kept=0.98) == 98
    assert fit_threshold([3.0], kept=0.5) == 3
    for values, origins in (([], None), ([1.0], ["a", "b"])):
        with pytest.raises(ValueError, match="give N > 0 of each"):
            fit_threshold(values, origins)


def test_novelty_is_the_mahalanobis_distance_by_the_shrunk_covariance():
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 1, (6, 6)) * 10.0 ** np.arange(-2, 1, 0.5)  # of very different scales
    statistics = rng.normal(0, 1, (5000, 6)) @ mixing + 7
    mean, whitening = fit_novelty(statistics)
    novelty = np.linalg.norm((statistics[:50] - mean) @ whitening.T, axis=1)
    covariance = np.cov(statistics.T)
    expected = [
        mahalanobis(row, statistics.mean(0), np.linalg.inv(covariance)) / np.sqrt(6) for row in statistics[:50]
    ]
    assert novelty == pytest.approx(expected, rel=0.05)  # so many images leave little to shrink
    assert np.mean(np.linalg.norm((statistics - mean) @ whitening.T, axis=1) ** 2) == pytest.approx(1, rel=0.02)


def test_novelty_of_few_images_and_of_channels_that_never_vary_is_finite():
    rng = np.random.default_rng(0)
    statistics = rng.normal(0, 1, (20, 64))
    statistics[:, 5] = 0.25
    mean, whitening = fit_novelty(statistics)
    assert np.isfinite(whitening).all()
    assert (np.abs(np.diag(whitening)) > 0).all()
    assert np.linalg.norm(whitening @ (statistics[0] - mean)) < 3
    assert np.linalg.norm(whitening @ (statistics[0] + 20 - mean)) > 10
    for wrong in (np.zeros(5), np.zeros((1, 5))):
        with pytest.raises(ValueError, match=r"\(N, D\) with N > 1"):
            fit_novelty(wrong)


def test_the_direction_points_from_cells_to_what_lies_beside_them():
    """Two Gaussians of one covariance, whose log-odds are known, in very different numbers."""
    rng = np.random.default_rng(0)
    size = 40
    shift = np.zeros(size)
    shift[0] = 0.4
    cells, beside = (rng.normal(0, 1 / np.sqrt(size), (count, size)) for count in (6000, 1500))
    direction, offset = fit_direction(cells, beside + shift)
    assert direction @ shift / np.linalg.norm(direction) / 0.4 > 0.9
    log_odds = size * (cells @ shift - shift @ shift / 2)
    # The penalty makes them smaller, hardly another order.
    assert np.corrcoef(cells @ direction + offset, log_odds)[0, 1] > 0.9
    assert abs(expit(shift / 2 @ direction + offset) - 0.5) < 0.05


def test_a_sample_is_drawn_evenly_from_each_data_set():
    origins = ["large"] * 50 + ["small"] * 3 + ["middle"] * 20
    rows = sample_evenly(origins, 24, seed=0)
    assert len(set(rows)) == len(rows) == 8 + 3 + 8
    assert {row for row in rows if origins[row] == "small"} == {50, 51, 52}
    assert sum(origins[row] == "large" for row in rows) == 8
    assert rows == sample_evenly(origins, 24, seed=0) != sample_evenly(origins, 24, seed=1)


def crops_of(blood, split, folder, lab="bccd"):
    """`pixel_values` and labels of the images of a lab, by the image processor of a folder."""
    rows = [row for row in load(blood)[split] if row["lab"] == lab]
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    values = processor([row["image"].convert("RGB") for row in rows], return_tensors="pt")["pixel_values"]
    return values, [row["label"] for row in rows]


def under_other_stains(values, folder):
    """Crops as the calibration changes them."""
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    seeds = [random.Random(f"42 restain {index}").getrandbits(63) for index in range(len(values))]
    return torch.stack([restain(value, processor, seed) for value, seed in zip(values, seeds, strict=True)])


def test_a_run_with_a_validation_split_is_calibrated_on_it(blood, tiny, tmp_path):
    schedule = ("--do_train", "--do_eval", "--num_train_epochs", "1", "--train_on", "bccd")
    train.main(arguments(blood, tiny, tmp_path / "one", *schedule))
    config = json.loads((tmp_path / "one" / "config.json").read_text(encoding="utf-8"))
    assert config["temperature"] != 1
    assert config["max_novelty"] > 0
    model = WBCForImageClassification.from_pretrained(tmp_path / "one", temperature=1.0).eval()
    (values, labels), (fitted, _) = (crops_of(blood, split, tmp_path / "one") for split in ("validation", "train"))
    stained = under_other_stains(values, tmp_path / "one")
    with torch.no_grad():
        output, changed = model(values), model(stained)
    assert config["temperature"] == pytest.approx(fit_temperature(changed.logits.numpy(), labels), rel=1e-3)
    # 99.5 % of few are all.
    assert config["max_novelty"] == pytest.approx(float(output.novelty.max()), rel=1e-3)
    highest = torch.cat((output.novelty, changed.novelty)).max()
    assert config["max_smear_novelty"] == pytest.approx(float(highest), rel=1e-3)
    # The OOD score was fitted on the training images, as they are and under other stains; as the fields are whole,
    # there is no direction.
    assert config["novelty_stages"] == [1]
    with torch.no_grad():
        maps = model.resnet(
            torch.cat((fitted, under_other_stains(fitted, tmp_path / "one"))), output_hidden_states=True
        )
    mean, whitening = fit_novelty(SmearNovelty.statistics(maps.hidden_states[1]).numpy())
    assert model.novelty.mean.numpy() == pytest.approx(mean, rel=1e-3, abs=1e-5)
    assert model.novelty.whitening.numpy() == pytest.approx(whitening, rel=1e-2, abs=1e-2 * np.abs(whitening).max())
    assert not model.novelty.direction.any()

    train_results = json.loads((tmp_path / "one" / "train_results.json").read_text(encoding="utf-8"))
    assert train_results["recipe"]["Data sets"] == "bccd"
    assert train_results["dataset"] == blood
    assert "OOD threshold" in train_results["recipe"]["Calibration"]
    results = json.loads((tmp_path / "one" / "test_results.json").read_text(encoding="utf-8"))
    assert {"bccd", "pbc"} <= results["subsets"].keys()
    assert 0 <= results["kept"] <= 1
    validation = json.loads((tmp_path / "one" / "validation_results.json").read_text(encoding="utf-8"))
    assert validation["num_images"] == len(labels)
    assert validation["kept"] == 1

    # Evaluated alone it gives the same; trained further it starts uncalibrated.
    train.main(["--do_eval", *arguments(blood, str(tmp_path / "one"), tmp_path / "again")])
    again = json.loads((tmp_path / "again" / "test_results.json").read_text(encoding="utf-8"))
    assert all(again[key] == results[key] for key in ("accuracy", "kept", "intervals", "subsets", "confusion_matrix"))
    with open(tmp_path / "again" / "test_predictions.csv", newline="", encoding="utf-8") as file:
        known = [float(row["novelty"]) <= config["max_novelty"] for row in csv.DictReader(file)]
    assert np.mean(known) == pytest.approx(results["kept"])
    names = load(blood)["train"].features["label"].names
    further = load_model(ModelArguments(), str(tmp_path / "one"), names, do_train=True)
    config = further.config
    assert (config.temperature, config.max_novelty, config.max_smear_novelty) == (1.0, None, None)


def test_a_model_of_crops_refuses_what_lies_beside_cells(blood, tiny, tmp_path, monkeypatch):
    """More of it than by the Gaussian alone, and as much of the validation stays known."""
    monkeypatch.setattr(calibration, "_MIN_BESIDE", 5)
    gathered = []
    monkeypatch.setattr(calibration, "_statistics", keeping(calibration._statistics, gathered))
    run = arguments(blood, tiny, tmp_path / "one", "--do_train", "--max_steps", "1", "--find_cell", "True")
    train.main([*run, "--dataloader_num_workers", "0"])
    model = WBCForImageClassification.from_pretrained(tmp_path / "one")
    plain, restained, beside, detected, drawn, elsewhere, held_out = (torch.from_numpy(part) for part in gathered)
    assert len(plain) == len(restained) == len(elsewhere) == 21
    assert len(beside) > 5
    assert len(detected) > 0
    assert 10 < len(drawn) <= 21

    def parts(statistics):
        whitened = (statistics - model.novelty.mean) @ model.novelty.whitening.double().T
        return whitened.norm(dim=1), whitened @ model.novelty.direction.double() + model.novelty.offset

    (_, cells), (_, others), (_, drawings), (distance, log_odds) = map(parts, (plain, beside, drawn, held_out))
    # They are counted from the highest of the few validation images of a lab.
    assert float(log_odds.max()) == pytest.approx(0, abs=1e-3)
    assert (others > 0).float().mean() > 0.8 > 0.2 > (cells > 0).float().mean()
    assert (drawings > 0).float().mean() > 0.8
    assert model.config.max_novelty == pytest.approx(float(distance.max()), rel=1e-3)

    # The temperature is that of the cells as other labs may show them.
    images = CellImages(load(blood)["validation"], model.image_processor, config=model.config, seed=42)
    rows = [OtherLabs(images)[index] for index in range(len(images))]
    model.eval().config.temperature = 1.0
    with torch.no_grad():
        logits = model(torch.stack([row["pixel_values"] for row in rows])).logits.numpy()
    expected = fit_temperature(logits, [row["labels"] for row in rows], images.origins)
    temperature = json.loads((tmp_path / "one" / "config.json").read_text(encoding="utf-8"))["temperature"]
    assert temperature == pytest.approx(expected, rel=1e-3)


def keeping(function, results):
    def kept(*args):
        results.append(function(*args))
        return results[-1]

    return kept


def test_a_lab_that_is_left_out_takes_no_part_in_the_calibration(blood, tiny, tmp_path):
    """The run gives what one gives whose data never had the lab."""
    without = load(blood)
    for split in ("train", "validation"):
        rows = [row for row, lab in enumerate(without[split]["lab"][:]) if lab == "bccd"]
        without[split] = without[split].select(rows)
    save(without, tmp_path / "without")
    runs = {"left out": [blood, "--leave_out", "pbc"], "without": [str(tmp_path / "without")]}
    for name, (data, *more) in runs.items():
        train.main(arguments(data, tiny, tmp_path / name, "--do_train", "--max_steps", "2", *more))
    one, other = (WBCForImageClassification.from_pretrained(tmp_path / name) for name in runs)
    for value in ("temperature", "max_novelty", "max_smear_novelty", "min_focus"):
        assert getattr(one.config, value) == pytest.approx(getattr(other.config, value), rel=1e-6), value
    assert torch.equal(one.novelty.mean, other.novelty.mean)


def test_weights_that_are_only_evaluated_can_be_calibrated(blood, tiny, tmp_path):
    """In place, to the temperature and OOD threshold that training itself fits, and the card says so."""
    schedule = ("--do_train", "--do_eval", "--num_train_epochs", "1")
    train.main(arguments(blood, tiny, tmp_path / "one", *schedule))
    expected = json.loads((tmp_path / "one" / "config.json").read_text(encoding="utf-8"))
    found = json.loads((tmp_path / "one" / "train_results.json").read_text(encoding="utf-8"))["recipe"]["Calibration"]
    model = WBCForImageClassification.from_pretrained(tmp_path / "one", temperature=3.0, max_novelty=None)
    model.novelty.whitening.zero_()
    model.save_pretrained(tmp_path / "one")
    own = arguments(blood, str(tmp_path / "one"), tmp_path / "one", "--do_eval")
    train.main([*own, "--calibrate"])
    config = json.loads((tmp_path / "one" / "config.json").read_text(encoding="utf-8"))
    for name in ("temperature", "max_novelty", "max_smear_novelty"):
        assert config[name] == pytest.approx(expected[name], rel=1e-3)
    assert found in (tmp_path / "one" / "README.md").read_text(encoding="utf-8")


def test_persistent_workers_show_the_ood_score_its_own_images(blood, tiny, tmp_path):
    """The Trainer keeps the loader of the validation, with its workers, for every later call."""
    configs = []
    for workers in (("0",), ("1", "--dataloader_persistent_workers")):
        output = tmp_path / workers[0]
        train.main(arguments(blood, tiny, output, "--max_steps", "2", "--dataloader_num_workers", *workers))
        configs.append(WBCForImageClassification.from_pretrained(output))
    one, other = configs
    assert torch.equal(one.novelty.mean, other.novelty.mean)
    assert torch.equal(one.novelty.whitening, other.novelty.whitening)
    assert one.config.max_novelty == other.config.max_novelty


@pytest.mark.parametrize("fit", [fit_threshold, lambda values, labs: fit_focus_threshold(values, values - 99, labs)])
@pytest.mark.parametrize("few, decides", [(20, False), (300, True)])
def test_a_lab_of_few_images_does_not_decide_the_thresholds(fit, few, decides):
    values = np.random.default_rng(0).gamma(4, 1, 300)
    labs = ["large"] * 300 + ["other"] * few
    found = {fit(np.concatenate((values, values[:few] + far)), labs) for far in (-7, 0, 7)}
    assert len(found) == (2 if decides else 1)  # of two that decide, one is further away on one side alone
    assert fit(values[:40], ["one"] * 20 + ["other"] * 20) != fit(values[:20], ["one"] * 20)
