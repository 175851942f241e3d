"""Accuracy of the detector: BCCD's annotated photographs, PBC's single cells, photographs of two cells."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from hub.data.bccd import publisher_split, read_cell_labels, read_labels
from hub.data.pbc import PBC_CLASSES
from hub.evaluation.compare import mistaken_photographs
from hub.evaluation.format import format_interval, text_table
from hub.evaluation.intervals import wilson_interval
from hub.evaluation.sheets import BoxedImage, boxes_sheet
from hub.files import UserError, check_output, write_json
from hub.inference.predict import load_classifier
from hub.study.annotations import Finding, empty_halves, find_annotated
from modeling_wbc import Field, WBCImageProcessor
from modeling_wbc.reading_wbc import read_image

# A cell of PBC counts as found if it lies this near to the image's middle, in image sides.
_NEAR = 0.2
# The number of PBC's misses in their picture.
_MISSES_SHOWN = 120


def measure(bccd: Path, output: Path, pbc: Path | None = None, model: str | os.PathLike | None = None) -> dict:
    """Measure the detector on photographs, and a classifier on photographs of two cells.

    Writes `results.json`, `misses.png`, and with `pbc` `pbc_misses.png`, with `model` `two_cells/<photograph>.png`.

    Args:
        bccd: Holds `Original_Images`, `Annotations` and `labels.csv`.
        output: A folder to write; new or empty.
        pbc: Holds a folder of single cells for each class of PBC.
        model: A classifier, by folder or id on the Hub, whose image processor finds the cells; without it, images are
            taken as they are.

    Returns:
        The content of `results.json`. `all` and `test` are the figures of `recall_and_precision` on all annotated
        photographs and on those of TEST; `empty_halves` is the share of halves without a white cell in which one is
        found; `pbc` and `two_cells` are there if they were asked for.

    Raises:
        UserError: The data are not there, or `output` is not empty.
        OSError: A file cannot be read, or the classifier cannot be loaded.
    """
    check_output(output)
    if pbc is not None and not any((pbc / name).is_dir() for name in PBC_CLASSES):
        raise UserError(f"{pbc} holds no folder named as one of PBC's classes: {', '.join(PBC_CLASSES)}")
    classifier = load_classifier(model) if model is not None else None
    processor = WBCImageProcessor()
    if classifier is not None:
        processor = WBCImageProcessor.from_pretrained(classifier.name_or_path, do_find_cell=True)
    photographs = bccd / "Original_Images"

    def find(image: Image.Image) -> Tensor:
        return processor.find_cells(image)[0]

    findings = find_annotated(find, photographs, bccd / "Annotations")
    names = [path.stem for path in photographs.glob("*.jpg")]
    try:
        _, test = publisher_split(read_labels(bccd / "labels.csv", names))
        rows = read_cell_labels(bccd / "labels.csv", names)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    in_test = set(test)
    found = [len(find(half)) > 0 for half in empty_halves(findings, photographs)]
    results = {
        "all": recall_and_precision(findings),
        "test": recall_and_precision([finding for finding in findings if finding.name in in_test]),
        "empty_halves": {"halves": len(found), "mistaken": wilson_interval(sum(found), len(found))},
    }
    output.mkdir(parents=True, exist_ok=True)
    misses = [finding for finding in findings if not finding.complete]
    boxes_sheet(
        [BoxedImage(miss.name, photographs / f"{miss.name}.jpg", miss.boxes, miss.annotated) for miss in misses]
    ).save(output / "misses.png")
    if pbc is not None:
        results["pbc"] = _find_in_pbc(find, pbc, output)
    if classifier is not None:
        two = {name: labels for name, labels in rows.items() if len(labels) == 2}
        results["two_cells"] = _read_two_cells(classifier, processor, two, photographs, output)
    write_json(output / "results.json", results)
    return results


def recall_and_precision(findings: Sequence[Finding]) -> dict:
    """Recall and precision over all boxes of some photographs.

    Returns:
        `photographs`, their number; `complete`, the number of those where exactly the annotated cells were found;
        `annotated` and `found`, the numbers of boxes; and for both kinds of match of `count_matches`, `overlapping`
        and `centred`, the number of pairs `matched` and the shares `recall` and `precision` in [0, 1], each with its
        95 % interval as `wilson_interval` gives it.
    """
    found = sum(len(finding.boxes) for finding in findings)
    annotated = sum(len(finding.annotated) for finding in findings)
    figures: dict[str, Any] = {
        "photographs": len(findings),
        "complete": sum(finding.complete for finding in findings),
        "annotated": annotated,
        "found": found,
    }
    for kind in ("overlapping", "centred"):
        matched = sum(getattr(finding, kind) for finding in findings)
        figures[kind] = {
            "matched": matched,
            "recall": wilson_interval(matched, annotated),
            "precision": wilson_interval(matched, found),
        }
    return figures


def distance_from_middle(boxes: Tensor, size: tuple[int, int]) -> float:
    """The distance of the first box from the middle of an image, in sides of the image; infinite without a box.

    Args:
        boxes: (N, 4), left, top, right and bottom in pixels.
        size: Width and height of the image in pixels.
    """
    if len(boxes) == 0:
        return float("inf")
    middle = (boxes[0, :2] + boxes[0, 2:]) / 2
    return float(((middle - torch.tensor(size) / 2) / torch.tensor(size)).norm())


def named_right(field: Field, labels: Iterable[str]) -> int:
    """The number of labels of a photograph that the classifier's answers match, one cell for each label."""
    return sum((Counter(labels) & Counter(cell.label for cell in field.cells)).values())


def describe(results: dict) -> str:
    """The result of `measure` as tables and sentences."""
    lines = [text_table(detector_rows({part: results[part] for part in ("all", "test")}))]
    whole, halves = results["all"], results["empty_halves"]
    lines.append(
        f"something is found in {format_interval(halves['mistaken'])} % of {halves['halves']} halves of photographs "
        "that hold no white cell"
    )
    lines.append(
        f"misses.png shows the {whole['photographs'] - whole['complete']} photographs where something else is "
        "annotated than found"
    )
    if "pbc" in results:
        pbc = results["pbc"]
        lines.append(
            f"PBC: in {format_interval(pbc['near'])} % of {pbc['images']:,} images the foremost cell lies within a "
            f"fifth of the image from its middle; {pbc['unreadable']} could not be read"
        )
    if "two_cells" in results:
        two = results["two_cells"]
        rows = [[row["photograph"], ", ".join(row["labels"]), ", ".join(row["read"])] for row in two["rows"]]
        lines.append(text_table([["Photograph", "Labels", "Cells read"], *rows]))
        lines.append(
            f"two cells found in {two['two_found']} of {two['photographs']} photographs of two labels; "
            f"{two['named_right']} of their {two['cells']} cells of types that the classifier knows named as labelled"
        )
    return "\n".join(lines)


def detector_rows(results: dict) -> list[list[str]]:
    """Recall and precision as rows for `text_table` or `markdown_table`.

    Args:
        results: The figures of `recall_and_precision` by part: `all`, `test` or both.
    """
    titles = {"all": "all annotated photographs", "test": "those of TEST"}
    criteria = {"overlapping": "IoU of 0.5", "centred": "middle in the box"}
    rows = [["Photographs", "Number", "Annotated", "Found", "Match", "Recall (%)", "Precision (%)"]]
    for part, figures in results.items():
        for kind, criterion in criteria.items():
            counts = [str(figures[name]) for name in ("photographs", "annotated", "found")]
            shares = [format_interval(figures[kind][name]) for name in ("recall", "precision")]
            rows.append([titles[part], *counts, criterion, *shares])
    return rows


def draw_mistakes(predictions: Path, bccd: Path, output: Path) -> list[tuple[str, str, str, int, int]]:
    """Draw the photographs of BCCD that a model misreads and the detected cells, the costliest first, as one picture.

    Args:
        predictions: `<split>_predictions.csv` of `train.py`.
        bccd: Holds `Original_Images`.
        output: The picture to write.

    Returns:
        The result of `hub.evaluation.compare.mistaken_photographs`.

    Raises:
        UserError: `predictions` is another file, or knows no photographs.
        OSError: A file cannot be read.
    """
    rows = mistaken_photographs(predictions)
    processor, images = WBCImageProcessor(do_correct_illumination=True), []
    for name, label, answer, wrong, files in rows:
        image = read_image(bccd / "Original_Images" / f"{name}.jpg")
        boxes, _ = processor.find_cells(image)
        images.append(BoxedImage(f"{name} {label}: {answer} {wrong}/{files}", image, boxes))
    output.parent.mkdir(parents=True, exist_ok=True)
    boxes_sheet(images).save(output)
    return rows


def describe_mistakes(rows: list[tuple[str, str, str, int, int]]) -> str:
    """The result of `draw_mistakes` as text."""
    head = ["Photograph", "Label", "Answer", "Files misread", "of"]
    return text_table([head, *([*names, str(wrong), str(files)] for *names, wrong, files in rows)])


def _find_in_pbc(find: Callable[[Image.Image], Tensor], folder: Path, output: Path) -> dict:
    """The share of PBC's images whose foremost cell lies near the middle; draw the others."""
    files = [(name, path) for name in PBC_CLASSES for path in sorted((folder / name).glob("*")) if path.is_file()]
    near: Counter[str] = Counter()
    far, unreadable = [], 0
    for name, path in tqdm(files, desc="PBC", unit="image"):
        try:
            image = read_image(path)
        except OSError:
            unreadable += 1
            continue
        boxes = find(image)
        if distance_from_middle(boxes, image.size) <= _NEAR:
            near[name] += 1
        else:
            far.append(BoxedImage(f"{name} {path.stem}", path, boxes))
    boxes_sheet(far[:_MISSES_SHOWN], columns=10, width=160).save(output / "pbc_misses.png")
    images, read = Counter(name for name, _ in files), len(files) - unreadable
    return {
        "near": wilson_interval(near.total(), read),
        "images": read,
        "unreadable": unreadable,
        "classes": {name: {"images": images[name], "near": near[name]} for name in PBC_CLASSES},
    }


def _read_two_cells(
    model, processor: WBCImageProcessor, two: dict[str, list[str]], photographs: Path, output: Path
) -> dict:
    """Classify photographs of two labels, and draw them."""
    fields = model.analyze([photographs / f"{name}.jpg" for name in two], image_processor=processor)
    rows = []
    known = right = found = 0
    pictures = output / "two_cells"
    pictures.mkdir()
    for (name, labels), field in zip(two.items(), fields, strict=True):
        found += len(field.cells) == 2
        known += sum(label in field.labels for label in labels)
        right += named_right(field, labels)
        read = sorted(cell.label for cell in field.cells)
        rows.append({"photograph": name, "labels": sorted(labels), "read": read})
        field.draw(read_image(photographs / f"{name}.jpg")).save(pictures / f"{name}.png")
    return {"photographs": len(two), "two_found": found, "cells": known, "named_right": right, "rows": rows}
