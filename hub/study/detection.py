"""How well the finder finds: BCCD's annotated photographs, PBC's single cells, photographs of two cells."""

import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou
from tqdm import tqdm

from hub.data.bccd import publisher_split, read_cell_labels, read_labels
from hub.data.pbc import PBC_CLASSES
from hub.evaluation.compare import mistaken_photographs
from hub.evaluation.format import format_interval, text_table
from hub.evaluation.intervals import wilson_interval
from hub.files import UserError, check_output, write_json
from hub.inference.predict import load_classifier
from modeling_wbc import Field, WBCImageProcessor

_OVERLAP = 0.5
_NEAR = 0.2
_ANNOTATED, _FOUND = "#00c000", "#ff0000"


def read_boxes(annotation: Path) -> list[tuple[int, int, int, int]]:
    """The boxes of the white cells (left, top, right, bottom), in pixels, of a Pascal VOC file.

    Raises:
        ValueError: The file is no such XML.
    """
    try:
        return [
            tuple(int(node.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            for node in ElementTree.parse(annotation).iter("object")
            if node.findtext("name") == "WBC"
        ]
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise ValueError(f"{annotation} is no Pascal VOC annotation ({error})") from error


def count_matches(boxes: Tensor, annotated: Tensor) -> tuple[int, int]:
    """How many of M annotated boxes are found by N boxes, (N, 4) and (M, 4), one box for each.

    Returns:
        The largest number of pairs with an intersection over union of at least 0.5, and that of pairs where the
        middle of the box lies in the annotated one.
    """
    middle = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    inside = ((middle >= annotated[:, :2]) & (middle <= annotated[:, 2:])).all(-1)
    return tuple(
        int(pairs[linear_sum_assignment(pairs, maximize=True)].sum())
        for pairs in ((box_iou(boxes, annotated) >= _OVERLAP).numpy(), inside.numpy())
    )


@dataclass
class Finding:
    """What was found in one photograph: boxes (N, 4), the annotated ones (M, 4), and how many pairs of them match."""

    name: str
    boxes: Tensor
    annotated: Tensor
    overlapping: int
    centred: int

    @property
    def complete(self) -> bool:
        """Whether every annotated cell was found and nothing else."""
        return self.overlapping == len(self.boxes) == len(self.annotated)


def find_annotated(find: Callable[[Image.Image], Tensor], photographs: Path, annotations: Path) -> list[Finding]:
    """Compares what `find` makes of each photograph with its annotation: all that have both, in order of name.

    Raises:
        ValueError: There are none, or an annotation cannot be read.
    """
    findings = []
    for annotation in sorted(annotations.glob("*.xml")):
        if not (path := photographs / f"{annotation.stem}.jpg").is_file():
            continue
        with Image.open(path) as image:
            boxes = find(image.convert("RGB"))
        annotated = torch.tensor(read_boxes(annotation), dtype=torch.float32).reshape(-1, 4)
        findings.append(Finding(annotation.stem, boxes, annotated, *count_matches(boxes, annotated)))
    if not findings:
        raise ValueError(f"no photograph in {photographs} has an annotation <photograph>.xml in {annotations}")
    return findings


def empty_halves(findings: Iterable[Finding], photographs: Path) -> Iterator[Image.Image]:
    """The left and right halves of photographs that hold no white cell.

    Only photographs in which exactly the annotated cells were found count: in others a cell may lack its annotation.
    """
    for finding in findings:
        if not finding.complete:
            continue
        with Image.open(photographs / f"{finding.name}.jpg") as image:
            middle = image.width // 2
            for left, right in ((0, middle), (middle, image.width)):
                reach = finding.boxes.tolist() + finding.annotated.tolist()
                if all(box[2] <= left or box[0] >= right for box in reach):
                    yield image.convert("RGB").crop((left, 0, right, image.height))


def recall_and_precision(findings: Sequence[Finding]) -> dict:
    """Counts and shares over all boxes, with Wilson's 95 % intervals, for both kinds of match."""
    found = sum(len(finding.boxes) for finding in findings)
    annotated = sum(len(finding.annotated) for finding in findings)
    figures = {"photographs": len(findings), "annotated": annotated, "found": found}
    for kind in ("overlapping", "centred"):
        matched = sum(getattr(finding, kind) for finding in findings)
        figures[kind] = {
            "matched": matched,
            "recall": wilson_interval(matched, annotated),
            "precision": wilson_interval(matched, found),
        }
    return figures


def distance_from_middle(boxes: Tensor, size: tuple[int, int]) -> float:
    """How far the first of some boxes (N, 4) lies from an image's middle, in image sides; infinite without any."""
    if len(boxes) == 0:
        return float("inf")
    middle = (boxes[0, :2] + boxes[0, 2:]) / 2
    return float(((middle - torch.tensor(size) / 2) / torch.tensor(size)).norm())


def named_right(field: Field, labels: Iterable[str]) -> int:
    """How many of the cells that a photograph's labels name are among those that were read in it."""
    return sum((Counter(labels) & Counter(cell.label for cell in field.cells)).values())


def boxes_sheet(
    images: Sequence[tuple[str, Path | Image.Image, Tensor, Tensor]], columns: int = 4, width: int = 320
) -> Image.Image:
    """Images side by side, each under its caption, with what is annotated in green and what was found in red.

    Args:
        images: (caption, file or image, boxes, annotated boxes) of each.
        columns: How many stand in a line.
        width: Of each, in pixels.
    """
    tiles = []
    for caption, image, boxes, annotated in images:
        if not isinstance(image, Image.Image):
            with Image.open(image) as image:
                image = image.convert("RGB")
        scale = width / image.width
        tile = Image.new("RGB", (width, round(image.height * scale) + 16), "white")
        tile.paste(image.resize((width, tile.height - 16)), (0, 16))
        pen = ImageDraw.Draw(tile)
        pen.text((2, 2), caption, fill="black")
        for color, group in ((_ANNOTATED, annotated), (_FOUND, boxes)):
            for left, top, right, bottom in (group * scale).tolist():
                pen.rectangle((left, top + 16, right - 1, bottom + 15), outline=color, width=2)
        tiles.append(tile)
    height = max((tile.height for tile in tiles), default=16)
    sheet = Image.new("RGB", (columns * (width + 4), max(1, -(-len(tiles) // columns)) * (height + 4)), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * (width + 4), number // columns * (height + 4)))
    return sheet


def mistakes_sheet(mistaken: Sequence[tuple[str, str, str, int, int]], photographs: Path) -> Image.Image:
    """Photographs that a model misreads, as `hub.evaluation.mistaken_photographs` tells them, and the cells found."""
    processor, images = WBCImageProcessor(), []
    for name, label, answer, wrong, files in mistaken:
        with Image.open(photographs / f"{name}.jpg") as image:
            image = image.convert("RGB")
        boxes, _ = processor.find_cells(image)
        images.append((f"{name} {label}: {answer} {wrong}/{files}", image, boxes, torch.zeros(0, 4)))
    return boxes_sheet(images)


def draw_mistakes(predictions: Path, bccd: Path, output: Path) -> list[tuple[str, str, str, int, int]]:
    """Draw the photographs of BCCD that a model misreads, the costliest first, as one contact sheet.

    Args:
        predictions: `<split>_predictions.csv` of `train.py`.
        bccd: Holds `Original_Images`.
        output: The picture to write.

    Returns:
        What `hub.evaluation.compare.mistaken_photographs` says of them.

    Raises:
        UserError: `predictions` is another file, or knows no photographs.
        OSError: A file cannot be read.
    """
    rows = mistaken_photographs(predictions)
    output.parent.mkdir(parents=True, exist_ok=True)
    mistakes_sheet(rows, bccd / "Original_Images").save(output)
    return rows


def measure(bccd: Path, output: Path, pbc: Path | None = None, model: str | os.PathLike | None = None) -> dict:
    """Measure how well the detector finds white cells, and how well a classifier reads photographs of two.

    Writes `results.json`, and sheets of what was missed.

    Args:
        bccd: Holds `Original_Images`, `Annotations` and `labels.csv`.
        output: A folder to write; new or empty.
        pbc: Holds a folder of single cells for each class of PBC.
        model: A classifier, by folder or id on the Hub.

    Returns:
        What it wrote to `results.json`.

    Raises:
        UserError: The data are not there, or `output` is not empty.
        OSError: The classifier cannot be loaded.
    """
    check_output(output)
    if pbc is not None and not any((pbc / name).is_dir() for name in PBC_CLASSES):
        raise UserError(f"{pbc} holds no folder named as one of PBC's classes: {', '.join(PBC_CLASSES)}")
    classifier = load_classifier(model) if model is not None else None
    processor = WBCImageProcessor()
    photographs = bccd / "Original_Images"

    def find(image: Image.Image) -> Tensor:
        return processor.find_cells(image)[0]

    try:
        findings = find_annotated(find, photographs, bccd / "Annotations")
        names = [path.stem for path in photographs.glob("*.jpg")]
        _, test = publisher_split(read_labels(bccd / "labels.csv", names))
        rows = read_cell_labels(bccd / "labels.csv", names)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    results = {
        "all": recall_and_precision(findings),
        "test": recall_and_precision([finding for finding in findings if finding.name in set(test)]),
    }
    finds = [len(find(half)) > 0 for half in empty_halves(findings, photographs)]
    halves, mistaken = len(finds), sum(finds)
    output.mkdir(parents=True, exist_ok=True)
    sheet = [
        (finding.name, photographs / f"{finding.name}.jpg", finding.boxes, finding.annotated)
        for finding in findings
        if not finding.complete
    ]
    boxes_sheet(sheet).save(output / "misses.png")
    results["empty_halves"] = {"halves": halves, "mistaken": wilson_interval(mistaken, halves)}
    if pbc is not None:
        results["pbc"] = _find_in_pbc(find, pbc, output)
    if classifier is not None:
        two = {name: labels for name, labels in rows.items() if len(labels) == 2}
        results["two_cells"] = _read_two_cells(classifier, two, photographs, output)
    write_json(output / "results.json", results)
    return results


def describe(results: dict) -> str:
    """What `measure` returns, in tables and sentences."""
    lines = [text_table(detector_rows({part: results[part] for part in ("all", "test")}))]
    halves = results["empty_halves"]
    lines.append(
        f"something is found in {format_interval(halves['mistaken'])} % of {halves['halves']} halves of photographs "
        "that hold no white cell"
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
    """Recall and precision as rows for `text_table` or `markdown_table`."""
    titles = {"all": "all annotated photographs", "test": "those of TEST"}
    kinds = {"overlapping": "IoU of 0.5", "centred": "middle in the box"}
    rows = [["Photographs", "Number", "Annotated", "Found", "Match", "Recall (%)", "Precision (%)"]]
    for part, figures in results.items():
        for kind, criterion in kinds.items():
            rows.append(
                [
                    titles[part],
                    f"{figures['photographs']}",
                    f"{figures['annotated']}",
                    f"{figures['found']}",
                    criterion,
                ]
                + [format_interval(figures[kind][name]) for name in ("recall", "precision")]
            )
    return rows


def _find_in_pbc(find: Callable[[Image.Image], Tensor], folder: Path, output: Path) -> dict:
    figures, far, read, unreadable = {}, [], 0, 0
    paths = {name: sorted(path for path in (folder / name).glob("*") if path.is_file()) for name in PBC_CLASSES}
    with tqdm(total=sum(map(len, paths.values())), desc="PBC", unit="image") as progress:
        for name, files in paths.items():
            near = 0
            for path in files:
                progress.update()
                try:
                    with Image.open(path) as image:
                        boxes, size = find(image.convert("RGB")), image.size
                except OSError:
                    unreadable += 1
                    continue
                read += 1
                if distance_from_middle(boxes, size) <= _NEAR:
                    near += 1
                else:
                    far.append((f"{name} {path.stem}", path, boxes, torch.zeros(0, 4)))
            figures[name] = {"images": len(files), "near": near}
    figures = {
        "near": wilson_interval(read - len(far), read),
        "images": read,
        "unreadable": unreadable,
        "classes": figures,
    }
    boxes_sheet(far[:120], columns=10, width=160).save(output / "pbc_misses.png")
    return figures


def _read_two_cells(model, two: dict[str, list[str]], photographs: Path, output: Path) -> dict:
    processor = WBCImageProcessor.from_pretrained(model.name_or_path, do_find_cell=True)
    fields = model.analyze([photographs / f"{name}.jpg" for name in two], image_processor=processor)
    rows = []
    known = right = found = 0
    pictures = output / "two_cells"
    pictures.mkdir()
    for (name, labels), field in zip(two.items(), fields, strict=True):
        labels = sorted(labels)
        found += len(field.cells) == 2
        known += sum(label in field.labels for label in labels)
        right += named_right(field, labels)
        rows.append({"photograph": name, "labels": labels, "read": sorted(cell.label for cell in field.cells)})
        with Image.open(photographs / f"{name}.jpg") as image:
            field.draw(image).save(pictures / f"{name}.png")
    return {"photographs": len(two), "two_found": found, "cells": known, "named_right": right, "rows": rows}
