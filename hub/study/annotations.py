"""BCCD's annotated photographs: boxes of white cells, their match with detections, halves without a white cell."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou

from hub.files import UserError
from modeling_wbc.reading_wbc import read_image

ANNOTATIONS_ORIGIN = "the annotations come with github.com/Shenggan/BCCD_Dataset"
_OVERLAP = 0.5


@dataclass
class Finding:
    """The detections in one annotated photograph.

    Attributes:
        name: The photograph's name, without its ending.
        boxes: The detected boxes, float32 (N, 4): left, top, right and bottom in pixels.
        annotated: The annotated boxes, float32 (M, 4).
        overlapping: The number of pairs of both that overlap, see `count_matches`.
        centred: The number of pairs of both where the middle of the detection lies in the annotation.
    """

    name: str
    boxes: Tensor
    annotated: Tensor
    overlapping: int
    centred: int

    @property
    def complete(self) -> bool:
        """Whether every annotated cell was found and nothing else."""
        return self.overlapping == len(self.boxes) == len(self.annotated)


def read_boxes(annotation: Path) -> list[tuple[int, int, int, int]]:
    """Read the boxes of the white cells (left, top, right, bottom), in pixels, from a Pascal VOC file.

    Raises:
        UserError: The file is no such XML.
        OSError: It cannot be read.
    """
    try:
        return [
            _read_box(node) for node in ElementTree.parse(annotation).iter("object") if node.findtext("name") == "WBC"
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{annotation} is no Pascal VOC annotation ({error}); {ANNOTATIONS_ORIGIN}") from error


def count_matches(boxes: Tensor, annotated: Tensor) -> tuple[int, int]:
    """Match detected boxes (N, 4) one to one with annotated boxes (M, 4).

    Returns:
        The largest number of pairs with an intersection over union of at least 0.5, and the largest number of pairs
        where the middle of the detected box lies in the annotated one.
    """
    middle = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    inside = ((middle >= annotated[:, :2]) & (middle <= annotated[:, 2:])).all(-1)
    return _most_pairs(box_iou(boxes, annotated) >= _OVERLAP), _most_pairs(inside)


def _read_box(node: ElementTree.Element) -> tuple[int, int, int, int]:
    """The box of an annotated object; `ValueError` where a side is missing or no whole number."""
    left, top, right, bottom = (int(node.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    return left, top, right, bottom


def _most_pairs(matches: Tensor) -> int:
    """The largest number of pairs, one to one, among the True entries of a bool tensor (N, M)."""
    pairs = matches.numpy()
    return int(pairs[linear_sum_assignment(pairs, maximize=True)].sum())


def find_annotated(find: Callable[[Image.Image], Tensor], photographs: Path, annotations: Path) -> list[Finding]:
    """Compare a detector with the annotation of every photograph that has one, in order of name.

    Args:
        find: The detector: an RGB image to boxes (N, 4).
        photographs: The folder of `<photograph>.jpg`.
        annotations: The folder of `<photograph>.xml`.

    Raises:
        UserError: No photograph has an annotation, or one is no Pascal VOC file.
        OSError: A file cannot be read.
    """
    findings = []
    for annotation in sorted(annotations.glob("*.xml")):
        if not (path := photographs / f"{annotation.stem}.jpg").is_file():
            continue
        boxes = find(read_image(path))
        annotated = torch.tensor(read_boxes(annotation), dtype=torch.float32).reshape(-1, 4)
        findings.append(Finding(annotation.stem, boxes, annotated, *count_matches(boxes, annotated)))
    if not findings:
        raise UserError(
            f"no photograph in {photographs} has an annotation <photograph>.xml in {annotations}; {ANNOTATIONS_ORIGIN}"
        )
    return findings


def empty_halves(findings: Iterable[Finding], photographs: Path) -> Iterator[Image.Image]:
    """The left and right halves of photographs that hold no white cell, RGB.

    Only photographs in which exactly the annotated cells were found count: in others, a cell may lack its annotation.
    """
    for finding in findings:
        if not finding.complete:
            continue
        image = read_image(photographs / f"{finding.name}.jpg")
        middle = image.width // 2
        for left, right in ((0, middle), (middle, image.width)):
            boxes = finding.boxes.tolist() + finding.annotated.tolist()
            if all(box[2] <= left or box[0] >= right for box in boxes):
                yield image.crop((left, 0, right, image.height))
