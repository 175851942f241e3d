import numpy as np
import pytest
from matplotlib.font_manager import fontManager
from PIL import Image

from hub.evaluation.fonts import legible, legible_names
from hub.evaluation.metrics import WBCMetric
from hub.evaluation.plots import (
    plot_confusion_matrix,
    plot_embeddings,
    plot_labs,
    plot_learning_curves,
    plot_reliability,
    plot_runs,
)
from tests.made_font import make_font

NAMES = ["EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"]
LONG_NAMES = [f"immature granulocyte of kind {k} (metamyelocyte)" for k in range(8)]


def results_of(names=NAMES, n=200, seed=0):
    rng = np.random.default_rng(seed)
    references = rng.integers(0, len(names), n)
    predictions = np.where(rng.random(n) < 0.8, references, rng.integers(0, len(names), n))
    return WBCMetric().compute(predictions=predictions, references=references, label_names=names)


def training(epochs, scale=1.0):
    return [
        {
            "loss": scale * (0.1 + 1 / epoch),
            "cross_entropy": scale / epoch,
            "center_loss": 10 * scale / epoch,
            "active_fraction": 1.0,
            "accuracy": 1 - 0.5 / epoch,
            "learning_rate": 0.001,
            "epoch": float(epoch),
            "step": 10 * epoch,
        }
        for epoch in range(1, epochs + 1)
    ]


def evaluation(epochs):
    return [
        {"eval_loss": 1.2 / epoch, "eval_accuracy": 1 - 0.6 / epoch, "epoch": float(epoch), "step": 10 * epoch}
        for epoch in range(1, epochs + 1)
    ]


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        array = np.asarray(image.convert("RGB")).astype(int)
    height, width, _ = array.shape
    assert 300 <= height <= 3000
    assert 300 <= width <= 3000
    assert len(np.unique(array @ (1, 256, 65536))) > 50
    # the page is white at its edge: nothing was cut off
    for edge in (array[0], array[-1], array[:, 0], array[:, -1]):
        assert edge.min() == 255
    return array


def differ(first, second):
    return first.shape != second.shape or bool((first != second).any())


@pytest.mark.parametrize("names", [NAMES, LONG_NAMES, ["a", "b"]])
def test_confusion_matrix(tmp_path, names):
    path = tmp_path / "confusion_matrix.png"
    plot_confusion_matrix(results_of(names), names, path, "Validation split")
    first = pixels(path)
    plot_confusion_matrix(results_of(names, seed=1), names, path, "Validation split")
    assert differ(first, pixels(path))


def test_confusion_matrix_shades_the_share_of_the_true_class(tmp_path):
    path = tmp_path / "confusion_matrix.png"
    # the upper right cell is full, the lower left one empty, and "b" has no image at all
    results = WBCMetric().compute(predictions=[1] * 9, references=[0] * 9, label_names=["a", "b"])
    plot_confusion_matrix(results, ["a", "b"], path, "All wrong")
    array = pixels(path)
    dark = np.argwhere(array[..., 0] + array[..., 1] < 130)
    dark = dark[array[dark[:, 0], dark[:, 1], 2] > 80]
    assert len(dark) > 10_000
    rows, columns = np.ptp(dark, axis=0)
    assert rows < 0.5 * array.shape[0]
    assert columns < 0.5 * array.shape[1]
    assert dark[:, 1].min() > 0.4 * array.shape[1]


def test_confusion_matrix_of_other_names(tmp_path):
    with pytest.raises(ValueError, match=r"\(4, 4\).*3 label_names"):
        plot_confusion_matrix(results_of(), NAMES[:3], tmp_path / "x.png", "")


@pytest.mark.parametrize(
    "log",
    [
        training(1),
        training(6),
        training(6) + evaluation(6) + [{"train_loss": 0.3, "train_runtime": 1.0, "epoch": 6.0, "step": 60}],
        training(200) + evaluation(200),
        evaluation(1),
        [{"loss": 1.0, "epoch": 0.5, "step": 1}],
    ],
    ids=["one point", "no evaluation", "both", "many", "evaluation only", "loss only"],
)
def test_learning_curves(tmp_path, log):
    path = tmp_path / "learning_curves.png"
    plot_learning_curves(log, path)
    pixels(path)


def test_learning_curves_change_with_the_data(tmp_path):
    path = tmp_path / "learning_curves.png"
    images = []
    for log in (training(6), training(6, scale=3.3), training(6) + evaluation(6)):
        plot_learning_curves(log, path)
        images.append(pixels(path))
    assert differ(images[0], images[1])
    assert differ(images[0], images[2])


@pytest.mark.parametrize("log", [[], [{"train_loss": 0.3, "epoch": 1.0}]])
def test_learning_curves_of_nothing(tmp_path, log):
    with pytest.raises(ValueError, match=f"none of the {len(log)} log entries"):
        plot_learning_curves(log, tmp_path / "x.png")


def test_reliability_puts_right_answers_above_and_wrong_ones_below(tmp_path):
    path = tmp_path / "reliability.png"
    confidence = np.full(100, 0.6)
    middles = []
    for right in (0.9, 0.3):
        plot_reliability({"BCCD, test": (confidence, np.arange(100) < 100 * right)}, path)
        array = pixels(path)
        upper = array[: int(0.7 * len(array)), :]
        blue = np.argwhere((upper[..., 2] > 120) & (upper[..., 0] < 90))
        middles.append(np.median(blue[blue[:, 0] > 0.25 * len(array), 0]) if right < 0.5 else np.median(blue[:, 0]))
    assert middles[0] < middles[1]
    first = pixels(path)
    plot_reliability(dict.fromkeys(("a", "b", "c"), (confidence, confidence > 0)), path)
    assert differ(first, pixels(path))


@pytest.mark.parametrize("curves", [{}, {"a": ([], [])}, dict.fromkeys("abcd", ([0.5], [True]))], ids=len)
def test_reliability_of_too_few_or_too_many(tmp_path, curves):
    with pytest.raises(ValueError, match="expected one to 3 curves"):
        plot_reliability({key: tuple(map(np.array, value)) for key, value in curves.items()}, tmp_path / "x.png")


def test_runs_of_several_recipes(tmp_path):
    path = tmp_path / "runs.png"
    histories = {"IBN": [training(6) + evaluation(6)] * 2, "BN": [training(6, scale=2.0) + evaluation(6)]}
    plot_runs(histories, path)
    first = pixels(path)
    plot_runs({"IBN": histories["IBN"]}, path)
    assert differ(first, pixels(path))
    for recipes in ({}, {name: [training(1)] for name in "abcde"}):
        with pytest.raises(ValueError, match=f"one to 4 recipes, got {len(recipes)}"):
            plot_runs(recipes, path)


def test_embeddings_of_several_models(tmp_path):
    path = tmp_path / "embeddings.png"
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    centers = 5 * rng.standard_normal((3, 8))
    embeddings = centers[labels] + rng.standard_normal((60, 8))
    plot_embeddings({"IBN": (embeddings, labels, centers)}, NAMES[:3], path)
    one = pixels(path)
    plot_embeddings(dict.fromkeys(("IBN", "BN"), (embeddings, labels, centers)), NAMES[:3], path)
    assert pixels(path).shape[1] > 1.8 * one.shape[1]
    for models, names in (({}, NAMES), ({"IBN": (embeddings, labels, centers)}, LONG_NAMES)):
        with pytest.raises(ValueError, match=f"got {len(models)} of {len(names)}"):
            plot_embeddings(models, names, path)


def lab_figures(accuracy, known, wrong=0.1):
    interval = [max(0, accuracy - 0.1), min(1, accuracy + 0.1)]
    figures = {"accuracy": accuracy, "balanced_accuracy": accuracy - 0.05, "known": known, "confidently_wrong": wrong}
    return figures | {"intervals": {"accuracy": interval}, "images": 12345, "types": NAMES}


def test_labs_are_rows_of_accuracy_and_of_known_images(tmp_path):
    many = {f"a hospital with a rather long name, number {k}": lab_figures(0.1 + 0.08 * k, k / 9) for k in range(10)}
    plot_labs(many, tmp_path / "many.png")
    array = pixels(tmp_path / "many.png")
    plot_labs({"one": lab_figures(0.8, 1.0)}, tmp_path / "one.png")
    one = pixels(tmp_path / "one.png")
    assert array.shape[0] > 3 * one.shape[0]
    # A wider bar for more known images, and none for none.
    grey = (np.abs(array - (0xD4, 0xDB, 0xE2)).sum(axis=-1) < 8).sum(axis=1)
    assert grey.max() > 500
    plot_labs({"one": lab_figures(0.8, 0.0, wrong=0.0)}, tmp_path / "none.png")
    none = pixels(tmp_path / "none.png")
    for color in ((0xD4, 0xDB, 0xE2), (0xD5, 0x5E, 0x00)):
        bars = [(np.abs(image - color).sum(axis=-1) < 8).sum() for image in (one, none)]
        assert bars[0] > 2 * bars[1]  # the legend alone
    with pytest.raises(ValueError, match="got no lab"):
        plot_labs({}, tmp_path / "empty.png")


SCRIPTS = ["嗜酸性粒细胞", "нейтрофил", "العربية", "Zelle ß"]


@pytest.mark.parametrize("plot", ["confusion matrix", "embeddings", "reliability", "runs"])
def test_names_in_any_script_are_no_boxes(tmp_path, recwarn, plot):
    """matplotlib warns of each letter that it has drawn as a box."""
    path, rng = tmp_path / "plot.png", np.random.default_rng(0)
    if plot == "confusion matrix":
        plot_confusion_matrix(results_of(SCRIPTS), SCRIPTS, path, "验证 of данные")
    elif plot == "embeddings":
        embedded = {"模型": (rng.normal(size=(40, 4)), np.arange(40) % 4, rng.normal(size=(4, 4)))}
        plot_embeddings(embedded, SCRIPTS, path)
    elif plot == "reliability":
        plot_reliability({name: (rng.random(30), rng.random(30) < 0.5) for name in SCRIPTS[:3]}, path)
    else:
        plot_runs({name: [training(3) + evaluation(3)] for name in SCRIPTS}, path)
    assert not recwarn.list
    pixels(path)


def test_a_name_without_a_font_is_shown_as_its_class(tmp_path, recwarn):
    private = "\ue123\ue124"
    assert legible_names(["basophil", private, "нейтрофил"]) == ["basophil", "class 1", "нейтрофил"]
    assert legible(f"split {private}") == "split ??"
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    plot_confusion_matrix(results_of(["a", "b"]), ["a", private], first, "Test")
    plot_confusion_matrix(results_of(["a", "b"]), ["a", "class 1"], second, "Test")
    assert not differ(pixels(first), pixels(second))
    assert not recwarn.list


def test_an_installed_font_shows_letters_that_matplotlibs_own_lacks(tmp_path, recwarn, monkeypatch):
    name = "\ue123\ue124"
    make_font(tmp_path / "made.ttf", name)
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    fontManager.addfont(tmp_path / "made.ttf")
    assert legible_names(["a", name]) == ["a", name]
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    plot_confusion_matrix(results_of(["a", "b"]), ["a", name], first, "Test")
    plot_confusion_matrix(results_of(["a", "b"]), ["a", name[::-1]], second, "Test")
    assert differ(pixels(first), pixels(second))  # its letters, and not the same box for each
    assert not recwarn.list
