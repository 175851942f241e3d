"""Plots of results and training runs: confusion matrix, reliability, labs, learning curves and embeddings.

scikit-learn's `ConfusionMatrixDisplay` shows either counts or shares; here each cell has both, and each row its number
of images. Its `CalibrationDisplay` does not show how many images a point stands for, which here is often 3 of 2,487.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.decomposition import PCA

from hub.evaluation.fonts import legible, legible_names, set_fonts
from hub.evaluation.grouping import confidence_bins

# Okabe & Ito (2008): distinct with every common colour blindness.
_BLUE, _ORANGE, _GREEN, _PINK = _COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_GREY = "#555555"
_DPI = 160
# Curves of up to so many points have markers; a single point would not show at all as a line.
_MARKED = 30


def plot_confusion_matrix(results: dict, label_names: Sequence[str], path: str | Path, title: str) -> None:
    """Draw the confusion matrix: counts, and shades and percentages by true class.

    Args:
        results: The results of `WBCMetric.compute`; their `confusion_matrix` is drawn.
        label_names: The name of each class, in the order of the rows.
        path: The PNG to write.
        title: Set above the matrix.

    Raises:
        ValueError: The matrix has not one row and one column for each name.
    """
    counts = np.asarray(results["confusion_matrix"])
    n = len(label_names)
    if counts.shape != (n, n):
        raise ValueError(
            f"the confusion matrix has shape {counts.shape}, but there are {n} label_names; "
            "give the names the results were computed with"
        )
    support = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(support, 1)

    figure = Figure(figsize=(0.95 * n, 0.95 * n))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(n, n):
        share = f"{100 * shares[row, column]:.1f}%" if support[row, 0] else "–"
        color = "white" if shares[row, column] > 0.5 else "black"
        look: dict[str, Any] = {"ha": "center", "color": color, "alpha": 1 if counts[row, column] else 0.45}
        axes.text(column, row - 0.01, f"{counts[row, column]:,}", va="bottom", fontsize=11, weight="bold", **look)
        axes.text(column, row + 0.06, share, va="top", fontsize=8.5, **look)

    names = [textwrap.fill(name, 18) for name in legible_names(label_names)]
    axes.set_xticks(range(n), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), [f"{name}\n(n = {count:,})" for name, count in zip(names, support[:, 0], strict=True)])
    axes.set_xlabel("Predicted class", fontsize=11, labelpad=6)
    axes.set_ylabel("True class", fontsize=11, labelpad=6)
    axes.set_title(textwrap.fill(legible(title), 12 * n), fontsize=12, pad=10)
    # White lines separate the cells, so frame and ticks are not needed.
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    # The cells keep their size and the page grows to the names, however long they are.
    _save(figure, path, bbox_inches="tight", pad_inches=0.15)


def plot_learning_curves(log_history: Sequence[dict], path: str | Path) -> None:
    """Draw loss, centre loss and accuracy over the epochs of a training run.

    Args:
        log_history: `state.log_history` of transformers' Trainer. Training entries hold `epoch`, `loss` and, if the
            run logs them, `cross_entropy`, `center_loss` and `accuracy`; evaluation entries hold `epoch`, `eval_loss`
            and `eval_accuracy`. Other keys and entries are ignored, and a panel without a point is left out.
        path: The PNG to write.

    Raises:
        ValueError: No entry holds any of these figures.
    """
    panels = [
        (
            "Loss",
            [
                ("loss", "training, total", _BLUE, "-"),
                ("cross_entropy", "training, cross entropy", _GREEN, "--"),
                ("eval_loss", "validation, total", _ORANGE, "-"),
            ],
        ),
        ("Centre loss", [("center_loss", "training, unweighted", _BLUE, "-")]),
        ("Accuracy", [("accuracy", "training", _BLUE, "-"), ("eval_accuracy", "validation", _ORANGE, "-")]),
    ]
    panels = [(title, drawn) for title, curves in panels if (drawn := _points(log_history, curves))]
    if not panels:
        raise ValueError(
            f"none of the {len(log_history)} log entries holds an epoch with a loss or an accuracy; "
            "give the log_history of a Trainer that has trained"
        )
    figure = Figure(figsize=(4.2 * len(panels), 3.5), layout="constrained")
    for axes, (title, drawn) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for epochs, values, label, color, style in drawn:
            marker = "o" if len(epochs) <= _MARKED else None
            axes.plot(epochs, values, style, label=label, color=color, marker=marker, markersize=4, linewidth=1.6)
        _finish_curves(axes, title, share=title == "Accuracy")
        axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def plot_runs(histories: Mapping[str, Sequence[Sequence[dict]]], path: str | Path) -> None:
    """Draw training cross entropy and validation accuracy of several recipes over the epochs, a line for each run.

    Args:
        histories: By the recipe's title, `state.log_history` of each of its runs; see `plot_learning_curves`.
        path: The PNG to write.

    Raises:
        ValueError: There is no recipe, or more than four.
    """
    if not 0 < len(histories) <= len(_COLORS):
        raise ValueError(f"expected one to {len(_COLORS)} recipes, got {len(histories)}")
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (title, key) in zip(
        panels, (("Training cross entropy", "cross_entropy"), ("Validation accuracy", "eval_accuracy")), strict=True
    ):
        names = legible_names(histories, "recipe")
        for name, runs, color in zip(names, histories.values(), _COLORS, strict=False):
            for number, history in enumerate(runs):
                for epochs, values, *_ in _points(history, [(key,)]):
                    marker = "o" if len(epochs) <= _MARKED and key == "eval_accuracy" else None
                    look = {"color": color, "alpha": 0.75, "linewidth": 1.3, "marker": marker, "markersize": 4}
                    axes.plot(epochs, values, label=None if number else name, **look)
        _finish_curves(axes, title, share=key == "eval_accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


def plot_embeddings(
    embedded: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], label_names: Sequence[str], path: str | Path
) -> None:
    """Draw the embeddings of several models side by side, each on its own two first principal components.

    Args:
        embedded: By the model's title, embeddings float (N, D), class ids int (N,) and class centres float (K, D).
        label_names: The K names.
        path: The PNG to write.

    Raises:
        ValueError: There is no model, or another number of classes than two to four.
    """
    if not embedded or not 1 < len(label_names) <= len(_COLORS):
        raise ValueError(
            f"expected models of two to {len(_COLORS)} classes, got {len(embedded)} of {len(label_names)}"
        )
    figure = Figure(figsize=(4.6 * len(embedded), 4.8), layout="constrained")
    panels = figure.subplots(1, len(embedded), squeeze=False)[0]
    titles, names = legible_names(embedded, "model"), legible_names(label_names)
    for axes, title, (embeddings, labels, centers) in zip(panels, titles, embedded.values(), strict=True):
        pca = PCA(2, random_state=0).fit(embeddings)
        points, middles = pca.transform(embeddings), pca.transform(centers)
        for index, (name, color) in enumerate(zip(names, _COLORS, strict=False)):
            x, y = points[labels == index].T
            axes.scatter(x, y, s=6, color=color, alpha=0.35, linewidths=0, label=name)
            axes.scatter(*middles[index], s=130, marker="*", color=color, edgecolors="black", linewidths=1, zorder=3)
        first, second = pca.explained_variance_ratio_
        axes.set_xlabel(f"First component, {first:.0%} of the variance")
        axes.set_ylabel(f"Second component, {second:.0%}")
        axes.set_title(title, fontsize=12, loc="left")
        _bare(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_alpha(1)
            handle.set_sizes([30])
    _save(figure, path)


def plot_reliability(answers: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | Path, bins: int = 15) -> None:
    """Draw accuracy against confidence, and the share of images in each confidence bin.

    Args:
        answers: By the title of each curve, (confidence, right) of N images: float (N,), the probability of the
            likeliest class, in [0, 1], and bool (N,), whether that is the true class.
        path: The PNG to write.
        bins: The number of confidence bins of equal width; the default is that of the expected calibration error.

    Raises:
        ValueError: There is no curve, more than three, or one without an image.
    """
    colors = _COLORS[:3]
    if not answers or len(answers) > len(colors) or not all(len(confidence) for confidence, _ in answers.values()):
        counts = {title: len(confidence) for title, (confidence, _) in answers.items()}
        raise ValueError(f"expected one to {len(colors)} curves of at least one image each, got {counts}")
    figure = Figure(figsize=(4.8, 5.6), layout="constrained")
    curves, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    curves.plot((0, 1), (0, 1), "--", color=_GREY, linewidth=1, label="perfectly calibrated")
    edges = np.linspace(0, 1, bins + 1)
    width = 1 / bins / len(answers)
    titles = legible_names(answers, "curve")
    for number, (title, (confidence, right), color) in enumerate(zip(titles, answers.values(), colors, strict=False)):
        bin_of = confidence_bins(confidence, bins)
        total = np.bincount(bin_of, minlength=bins)
        seen = total > 0
        mean = np.bincount(bin_of, confidence, bins)[seen] / total[seen]
        share = np.bincount(bin_of, right, bins)[seen] / total[seen]
        curves.plot(mean, share, color=color, linewidth=1.4, label=f"{title} (n = {len(confidence):,})")
        # The area of a point grows with the share of images in its bin.
        sizes = 12 + 120 * total[seen] / len(confidence)
        curves.scatter(mean, share, s=sizes, color=color, alpha=0.8, linewidths=0, clip_on=False)
        counts.bar(edges[:-1] + (number + 0.5) * width, total / len(confidence), width, color=color)
    curves.set_ylabel("Accuracy")
    curves.set_title("Reliability", fontsize=12, loc="left")
    curves.legend(frameon=False, fontsize=9, loc="upper left")
    counts.set_ylabel("Images")
    counts.set_xlabel("Confidence (probability of the likeliest class)")
    for axes in (curves, counts):
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        _bare(axes)
    _save(figure, path)


def _save(figure: Figure, path: str | Path, **options: Any) -> None:
    """Write a figure, in fonts that have the letters of its texts; `options` are those of `savefig`."""
    set_fonts(figure)
    figure.savefig(path, dpi=_DPI, **options)


def plot_labs(labs: Mapping[str, Mapping], path: str | Path) -> None:
    """Draw a row for each lab: accuracy with its interval, and the shares of known and of confidently wrong images.

    Args:
        labs: The figures of each lab by its name, `labs` in the results of `hub.evaluation.labs.measure`.
        path: The PNG to write.

    Raises:
        ValueError: There is no lab.
    """
    if not labs:
        raise ValueError("got no lab; give the figures of one at least")
    rows = np.arange(len(labs))
    shares = {
        name: np.array([figures[name] for figures in labs.values()])
        for name in ("accuracy", "balanced_accuracy", "known", "confidently_wrong")
    }
    intervals = np.array([figures["intervals"]["accuracy"] for figures in labs.values()])
    figure = Figure(figsize=(7.6, 1.6 + 0.55 * len(labs)), layout="constrained")
    axes = figure.subplots()
    axes.barh(rows, shares["known"], 0.62, color="#d4dbe2", label="known")
    axes.barh(rows, shares["confidently_wrong"], 0.2, color=_ORANGE, label="wrong, known and above 90 % sure")
    axes.hlines(rows, *intervals.T, color=_BLUE, linewidth=2)
    look: dict[str, Any] = {"s": 52, "edgecolors": _BLUE, "linewidths": 1.6, "zorder": 3, "clip_on": False}
    axes.scatter(shares["accuracy"], rows, color=_BLUE, label="accuracy, with 95 % interval", **look)
    look |= {"facecolors": "white", "marker": "D", "s": 30}
    axes.scatter(shares["balanced_accuracy"], rows, label="balanced accuracy", **look)
    names = [
        f"{textwrap.fill(name, 24)}\n{figures['images']:,} images, {len(figures['types'])} types"
        for name, figures in labs.items()
    ]
    axes.set_yticks(rows, names)
    axes.set_ylim(len(labs) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("Share of the images")
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    _bare(axes)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


def _points(log_history: Sequence[dict], curves: list[tuple]) -> list[tuple]:
    """(epochs, values, label, colour, line style) of each curve with a point; `curves` has a key in place of both."""
    drawn = []
    for key, *look in curves:
        points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry and "epoch" in entry]
        if points:
            drawn.append((*zip(*points, strict=True), *look))
    return drawn


def _finish_curves(axes: Axes, title: str, share: bool) -> None:
    """Title, axes and grid of curves over epochs; `share`: of values in [0, 1], shown in percent."""
    axes.set_title(title, fontsize=12, loc="left")
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlim(left=0)
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(top=1.01)
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    _bare(axes)


def _bare(axes: Axes) -> None:
    """Replace the frame by grey lines to the left and below."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(colors=_GREY)
