"""Classification of many images into one table: `python -m hub predict`."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageClassification

from hub.evaluation.format import text_table
from hub.files import UserError, check_output, one_line
from hub.inference.inputs import (
    DUPLICATE,
    FAILED,
    NOT_AN_IMAGE,
    UNREADABLE,
    Input,
    Reader,
    find_inputs,
    open_archives,
    readable_name,
)
from hub.inference.table import Table
from modeling_wbc import Cell, Field

logger = logging.getLogger(__name__)

_OK, _NO_CELL = "ok", "no cell"
_CELL_COLUMNS = ("left", "top", "right", "bottom", "score", "label", "known", "distance", "novelty", "focus", "remark")
_MAX_STEM = 60  # characters, at most 240 of the 255 bytes of a file name


def predict(images: Iterable[Path], model: str | os.PathLike, output: Path, draw: bool = False) -> dict:
    r"""Find and classify the white cells of images, and write them to `output/cells.csv`.

    The table has a row for each cell, and one for each input without cells. Its columns are

    - `file`: the path of the image, with the name of a member of a ZIP archive behind that of the archive. Bytes that
      are no UTF-8 are written as `\xNN`, and `./` stands before a name that a spreadsheet would take for a formula;
    - `status`: `ok`; `no cell`; `unreadable`; `not an image`, a file of another kind; `duplicate`, a file that was
      listed before; or `failed`, if the analysis ended in an error;
    - `reason`: of that status, of how many pages the first was read, or why an image was not drawn;
    - `left`, `top`, `right` and `bottom` of the cell's box in pixels, and the detector's `score`;
    - the most probable `label`; `known`, whether the cell is in focus and looks like those of a smear (`yes` or `no`);
      `distance`, `novelty`, `focus` and `remark`, why a cell is unknown, as in [`Cell`], of which "unfamiliar stain"
      leaves the label as a guess; and the probability of each type by its name.

    The table is in UTF-8 with a byte order mark, by which spreadsheets know it, and holds whole rows whenever the run
    ends. In folders and archives, hidden files and those that are plainly no images, such as `.txt`, have no row.

    Args:
        images: Files, ZIP archives, or folders of both.
        model: A classifier, by folder or id on the Hub.
        output: A folder to write; new or empty.
        draw: Whether to write each image with its cells drawn in, too.

    Returns:
        - `counts`: the number of known cells of each type;
        - `shares`: the differential count, the share in [0, 1] of each type of white cell;
        - `unknown`: the number of the other cells;
        - `images`: the number of images that were analysed;
        - `unreadable`: the number of those that could not be, with the failed ones;
        - `not_images`, `duplicates`: the numbers of inputs of this status;
        - `left_out`: the number of files in folders that have no row.

    Raises:
        UserError: There is no image, none could be read, or `output` is not empty.
        OSError: The classifier cannot be loaded, or the table cannot be written.
    """
    check_output(output)
    inputs, left_out = find_inputs(images)
    classifier = load_classifier(model)
    labels = tuple(classifier.config.id2label[index] for index in range(classifier.config.num_labels))
    output.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    unknown, reader = 0, Reader()
    with Table(output / "cells.csv", ("file", "status", "reason", *_CELL_COLUMNS, *labels)) as table:
        for number, item in enumerate(open_archives(tqdm(inputs, unit="input"))):
            image = reader.read(item)
            field = None if image is None else _analyze(classifier, item, image)
            if image is not None and field is not None:
                counts.update(field.counts)
                unknown += field.unknown
                if draw:
                    _draw(field, image, item, output / f"{number:05d}-{PurePath(item.name).stem[:_MAX_STEM]}.png")
            elif item.status in (UNREADABLE, FAILED):
                logger.warning(f"{readable_name(item.name)}: {item.status}: {item.reason}; going on with the next")
            statuses[item.status] += 1
            cells = [] if field is None else field.cells
            place = [readable_name(_no_formula(item.name)), item.status, readable_name(item.reason)]
            table.write([[*place, *_values(cell)] for cell in cells] or [place])
    if not statuses[_OK] + statuses[_NO_CELL]:
        reasons = readable_name(output / "cells.csv")
        raise UserError(f"none of {statuses.total():,} inputs could be read; {reasons} gives the reasons")
    return {
        "counts": {label: counts[label] for label in labels},
        "shares": _shares(counts, labels),
        "unknown": unknown,
        "images": statuses[_OK] + statuses[_NO_CELL],
        "unreadable": statuses[UNREADABLE] + statuses[FAILED],
        "not_images": statuses[NOT_AN_IMAGE],
        "duplicates": statuses[DUPLICATE],
        "left_out": left_out,
    }


def describe(found: dict) -> str:
    """The result of `predict` as text: a table of the cell types, and a sentence about the images."""
    shares = found["shares"]
    rows = [
        [label, f"{count:,}", f"{100 * shares[label]:.1f}" if label in shares else ""]
        for label, count in found["counts"].items()
    ]
    others = [label for label in found["counts"] if label not in shares]
    lines = [text_table([["Type", "Cells", "Share (%)"], *rows])]
    if others:
        lines.append(f"The shares are of white cells, which {' and '.join(others)} are not")
    lines.append(
        f"{sum(found['counts'].values()):,} cells, {found['unknown']:,} more unknown, in "
        f"{found['images']:,} images; {found['unreadable']:,} could not be read"
    )
    rest = {
        "not images": found["not_images"],
        "given twice": found["duplicates"],
        "left out by their names": found["left_out"],
    }
    if any(rest.values()):
        lines.append(f"Other files: {', '.join(f'{count:,} {what}' for what, count in rest.items() if count)}")
    return "\n".join(lines)


def load_classifier(source: str | os.PathLike):
    """Load a `WBCForImageClassification` by its folder or id on the Hub, in evaluation mode, on the GPU if any.

    Raises:
        OSError: It cannot be loaded, or is another kind of model.
    """
    if os.path.isabs(source) and not os.path.exists(source):
        raise OSError(f"could not load the classifier {source}: there is no such folder")
    try:
        model = AutoModelForImageClassification.from_pretrained(source, trust_remote_code=True)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(f"could not load the classifier {source}: {reason}") from error
    if not hasattr(model, "analyze"):
        raise OSError(f"{source} is a {type(model).__name__}, which finds no cells; name a WBCForImageClassification")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _analyze(classifier, item: Input, image: Image.Image) -> Field | None:
    """Find and classify the cells of an image and set the status of its input; None if that fails."""
    try:
        field = classifier.analyze(image)
    except Exception as error:  # whatever it is, the other images are still to be read
        item.status, item.reason = FAILED, f"{type(error).__name__}: {one_line(error)}"
        return None
    item.status = _OK if field.cells else _NO_CELL
    if (pages := image.info.get("pages", 1)) > 1:
        item.reason = f"page 1 of {pages}"
    return field


def _draw(field: Field, image: Image.Image, item: Input, path: Path) -> None:
    """Write an image with its cells drawn in; if that fails, say so in the input's reason."""
    try:
        field.draw(image).save(path)
    except Exception as error:  # whatever it is, the table is worth more
        item.reason = f"it was not drawn: {(isinstance(error, OSError) and error.strerror) or one_line(error)}"
        logger.warning(f"{readable_name(item.name)}: {item.reason}")
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _shares(counts: Counter, labels: Sequence[str]) -> dict[str, float]:
    """The differential count of many images, with the types of `Field.differential`."""
    white = Field([], tuple(labels)).differential
    total = max(1, sum(counts[label] for label in white))
    return {label: counts[label] / total for label in white}


def _no_formula(name: str) -> str:
    """Put `./` before a path that a spreadsheet would run as a formula: it names the same file."""
    return f"./{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def _values(cell: Cell) -> list[str]:
    """The values of a cell in `cells.csv`."""
    return [
        *(f"{side:.1f}" for side in cell.box),
        f"{cell.score:.3f}",
        cell.label,
        "yes" if cell.known else "no",
        f"{cell.distance:.3f}",
        f"{cell.novelty:.3f}",
        "" if cell.focus is None else f"{cell.focus:.3f}",
        cell.remark or "",
        *(f"{probability:.5f}" for probability in cell.probabilities.values()),
    ]
