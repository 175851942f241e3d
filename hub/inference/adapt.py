"""Adaptation of a classifier to a lab by a folder of its images: `python -m hub adapt`."""

import csv
import itertools
import logging
import os
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path

from PIL import Image

from hub.evaluation.adapting import check_adaptable
from hub.files import UserError, check_output, one_line, writing
from hub.inference.inputs import UNREADABLE, Input, Reader, find_inputs, open_archives, readable_name
from hub.inference.predict import load_classifier

logger = logging.getLogger(__name__)


def adapt(
    folder: Path,
    model: str | os.PathLike,
    output: Path,
    labels: Path | None = None,
    move_norms: bool | None = None,
) -> dict:
    """Adapt a copy of a classifier to the images in a folder, and save it.

    Args:
        folder: Images of the lab, also in folders and ZIP archives within; or one image.
        model: The classifier, by folder or id on the Hub.
        output: The folder of the copy; new or empty.
        labels: A CSV file with the columns `file`, the path of an image relative to `folder`, and `label`, the type of
            its foremost cell. Other columns are not read, and neither are rows without a label.
        move_norms: Whether the norms' statistics move. Default: where their shift is above `config.max_shift`.

    Returns:
        `config.adaptation` of the copy, see `WBCForImageClassification.adapt`, with `images` and `unreadable`, the
        numbers of images that could be read and that could not.

    Raises:
        UserError: There is no image or no cell, a label does not fit, or `output` is not empty.
        OSError: The classifier cannot be loaded, or the copy not be written.
    """
    check_output(output)
    if not folder.exists():
        raise UserError(f"no such file or folder: {readable_name(folder)}")
    inputs, _ = find_inputs([folder])
    classifier = load_classifier(model)
    check_adaptable(classifier)
    types = [classifier.config.id2label[index] for index in range(classifier.config.num_labels)]
    wanted = {} if labels is None else read_labels(labels, types)
    images = _Images(inputs, folder, wanted)
    # One by one: neither all images nor all labels are in memory.
    first, second = itertools.tee(images)
    try:
        adapted = classifier.adapt(map(itemgetter(0), first), map(itemgetter(1), second), move_norms=move_norms)
    except ValueError as error:
        raise UserError(f"could not adapt to {readable_name(folder)}: {one_line(error)}") from error
    if missing := wanted.keys() - images.labelled:
        name = min(missing)
        raise UserError(f"{labels} has the file {name}, of which no image could be read; name files as in {folder}")
    with writing(output) as partial:
        adapted.save_pretrained(partial)
    return {**adapted.config.adaptation, "images": images.read, "unreadable": images.unreadable}


def describe(found: Mapping) -> str:
    """The result of `adapt` as text: what moved, and why."""
    lines = [
        f"{found['crops']:,} cells of {found['images']:,} images; {found['without_cell']:,} without a cell, "
        f"{found['unreadable']:,} could not be read",
        f"norms {'moved' if found['norms_moved'] else 'kept'}: the shift of their statistics is {found['shift']:.3f}, "
        f"and the cells look like {found['variety']:.1f} types",
    ]
    if found["labels"]:
        counts = ", ".join(f"{count} {name}" for name, count in found["labels"].items())
        lines.append(f"class centres moved by labelled cells: {counts}")
        right = found["right_of_labelled"]
        if right is None:
            lines.append("head kept: cells of one type do not tell it from others")
        else:
            what = f"head {'moved' if found['head_moved'] else 'kept'}"
            lines.append(f"{what}: {right['before']} of these were right, {right['after']} by a head without the cell")
    threshold, known = found["max_novelty"], found["known"]
    if threshold["before"] is not None:
        lines.append(
            f"OOD threshold {threshold['before']:.2f}, now {threshold['after']:.2f}: known cells "
            f"{100 * known['before']:.0f} %, now {100 * known['after']:.0f} %"
        )
    return "\n".join(lines)


def read_labels(path: Path, types: list[str]) -> dict[str, str]:
    """Read the type of each file from a CSV file with the columns `file` and `label`.

    Args:
        path: The CSV file, in UTF-8, with or without a byte order mark.
        types: The names of the types; the case of letters does not matter.

    Returns:
        The label by the path of the file, with `/` between its parts. Rows without a label are left out.

    Raises:
        UserError: The file cannot be read, lacks a column or any label, or has an unknown type or two for one file.
    """
    labels: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := {"file", "label"} - {*(reader.fieldnames or ())}:
                raise UserError(f"{path} has no column {min(missing)}; its head must name the columns file and label")
            for row in reader:
                name, label = _posix(row["file"] or ""), (row["label"] or "").strip()
                if not label:
                    continue
                if label.lower() not in (each.lower() for each in types):
                    raise UserError(f"{path}, line {reader.line_num}: {label} is none of {', '.join(types)}")
                if labels.setdefault(name, label).lower() != label.lower():
                    raise UserError(f"{path}, line {reader.line_num}: {name} has another label in an earlier line")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"could not read {path}: {one_line(error)}; save it as CSV in UTF-8") from error
    if not labels:
        raise UserError(f"{path} has no label; leave it out, or fill the column label")
    return labels


def _posix(name: str) -> str:
    return os.path.normpath(name.strip().replace("\\", "/")).replace(os.sep, "/")


class _Images:
    """The images of a folder that can be read, each with its label or None."""

    def __init__(self, inputs: list[Input], folder: Path, labels: Mapping[str, str]):
        self.read = self.unreadable = 0
        self.labelled: set[str] = set()
        self._inputs, self._labels = inputs, labels
        self._root = folder if folder.is_dir() else folder.parent

    def __iter__(self) -> Iterator[tuple[Image.Image, str | None]]:
        reader = Reader()
        for item in open_archives(self._inputs):
            image = reader.read(item)
            if image is None:
                if item.status == UNREADABLE:
                    self.unreadable += 1
                    logger.warning(f"{readable_name(item.name)}: {item.reason}; going on with the next")
                continue
            self.read += 1
            name = _posix(os.path.relpath(item.name, self._root))
            if name in self._labels:
                self.labelled.add(name)
            yield image, self._labels.get(name)
