"""Classification of many images into one table: `python -m hub predict`."""

import csv
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageClassification
from transformers.utils import SAFE_WEIGHTS_NAME

from hub.evaluation.format import text_table
from hub.files import UserError, dead_worker, ignore_ended_processes, one_line
from hub.inference.inputs import (
    DUPLICATE,
    FAILED,
    NOT_AN_IMAGE,
    UNREADABLE,
    Files,
    Input,
    Inputs,
    readable_name,
)
from hub.inference.log import Answer, AnswerLog
from hub.inference.pipeline import Numbered, analyze_inputs
from hub.inference.threads import Share, network_threads, share_cores
from modeling_wbc import Cell, Field
from space.backends import ONNX_FILES, find_onnx, place, use_backend

logger = logging.getLogger(__name__)

_OK, _NO_CELL = "ok", "no cell"
_CELL_COLUMNS = ("left", "top", "right", "bottom", "score", "label", "known", "distance", "novelty", "focus", "remark")
_LABEL, _KNOWN = _CELL_COLUMNS.index("label"), _CELL_COLUMNS.index("known")
_MAX_STEM = 60  # characters, at most 240 of the 255 bytes of a file name


def predict(
    images: Iterable[Path] | Inputs,
    model: str | os.PathLike,
    output: Path,
    draw: bool = False,
    workers: int | None = None,
    batch_size: int = 32,
    backend: str = "torch",
) -> dict | None:
    r"""Find and classify the white cells of images, and write them to `output/cells.csv`.

    The table has a row for each cell, and one for each input without cells. Its columns are

    - `file`: the path of the image, with the name of a member of a ZIP archive behind that of the archive, or the data
      set, split and number of the row. Bytes that are no UTF-8 are written as `\xNN`, and `./` stands before a name
      that a spreadsheet would take for a formula;
    - `status`: `ok`; `no cell`; `unreadable`; `not an image`, a file of another kind; `duplicate`, a file that was
      listed before; or `failed`, if the analysis ended in an error;
    - `reason`: of that status, of how many pages the first was read, or why an image was not drawn;
    - `left`, `top`, `right` and `bottom` of the cell's box in pixels, and the detector's `score`;
    - the most probable `label`; `known`, whether the cell is in focus and looks like those of a smear (`yes` or `no`);
      `distance`, `novelty`, `focus` and `remark`, why a cell is unknown, as in [`Cell`], of which "unfamiliar stain"
      leaves the label as a guess; and the probability of each type by its name.

    The table is in UTF-8 with a byte order mark, by which spreadsheets know it. In folders and archives, hidden files
    and those that are plainly no images, such as `.txt`, have no row.

    Answers go to a log in `output` first, see [`AnswerLog`]; the table is written when all are there. The same call
    after an interruption of any kind goes on with what has no answer yet. Under `accelerate launch` or `torchrun` the
    processes share the images, and the first one writes the table; on several machines, `output` must be a folder that
    all of them see.

    Args:
        images: Files, ZIP archives, or folders of both; or other inputs, such as [`Rows`].
        model: A classifier, by folder or id on the Hub.
        output: A folder to write; new, empty, or of the same run that was interrupted.
        draw: Whether to write each image with its cells drawn in, too.
        workers: The number of processes that read images and find cells. Default: see `share_cores`.
        batch_size: The number of cells that the network classifies at once.
        backend: What computes the network, one of `BACKENDS` of `space/backends.py`.

    Returns:
        None in all processes but the first; there

        - `counts`: the number of known cells of each type;
        - `shares`: the differential count, the share in [0, 1] of each type of white cell;
        - `unknown`: the number of the other cells;
        - `images`: the number of images that were analysed;
        - `unreadable`: the number of those that could not be, with the failed ones;
        - `not_images`, `duplicates`: the numbers of inputs of this status;
        - `left_out`: the number of files in folders that have no row.

    Raises:
        UserError: There is no image, none could be read, `output` holds something else, or a worker process died.
        OSError: The classifier cannot be loaded, or `output` cannot be written.
    """
    inputs = images if isinstance(images, Inputs) else Files(images)
    share = Share.of_launched()
    classifier = load_classifier(model, torch.device("cpu") if backend in ONNX_FILES else share.device())
    labels = tuple(classifier.config.id2label[index] for index in range(classifier.config.num_labels))
    asked = {"model": str(model), "backend": backend, "draw": draw}
    with AnswerLog(output, asked, (*_weights(model), *inputs.identity()), share.index == 0) as log:
        share.wait()  # for the folder
        workers, threads = share_cores(share, inputs.total, workers, classifier.device.type == "cpu")
        with network_threads(threads):
            _choose_backend(classifier, model, backend)
            _answer_all(classifier, inputs, log, share, workers, batch_size, output if draw else None)
        share.wait()  # for the answers of all processes
        if share.index:
            return None
        result = _write_table(log, output / "cells.csv", labels)
        log.remove()
    if not result["images"]:
        reasons = readable_name(output / "cells.csv")
        raise UserError(f"none of {result.pop('inputs'):,} inputs could be read; {reasons} gives the reasons")
    return {key: value for key, value in result.items() if key != "inputs"} | {"left_out": inputs.left_out}


def _answer_all(
    classifier, inputs: Inputs, log: AnswerLog, share: Share, workers: int, batch_size: int, pictures: Path | None
) -> None:
    """Append the answers to all inputs of this process that the log lacks; draw into the folder `pictures`, if any."""
    done = log.done()
    total = None if inputs.total is None else max(0, inputs.total - len(done)) // share.count
    if done and share.index == 0:
        logger.warning(f"going on after {len(done):,} inputs that an earlier run answered")

    def waiting() -> Iterator[Numbered]:
        for number, item in enumerate(inputs):
            if number % share.count == share.index and number not in done:
                yield number, item

    analyzed = analyze_inputs(classifier, waiting(), workers, batch_size, pictures is not None)
    # The first process speaks for all, which are equally fast.
    progress = tqdm(analyzed, total=total, unit=" images", mininterval=1, disable=share.index > 0)
    last = "the start"
    try:
        for number, item, field, image in progress:
            if field is not None:
                item.status = _OK if field.cells else _NO_CELL
                if pictures is not None and image is not None:
                    _draw(field, image, item, pictures / f"{number:05d}-{PurePath(item.name).stem[:_MAX_STEM]}.png")
            elif item.status in (UNREADABLE, FAILED):
                logger.warning(f"{readable_name(item.name)}: {item.status}: {item.reason}; going on with the next")
            rows = [] if field is None else [_values(cell) for cell in field.cells]
            name = readable_name(_no_formula(item.name))
            log.append(Answer(number, name, item.status, readable_name(item.reason), rows))
            last = name
    except Exception as error:
        if (reason := dead_worker(error)) is None:
            raise
        ignore_ended_processes()
        raise UserError(f"{reason}, at an image after {last}; give the same command again to go on") from error


def _write_table(log: AnswerLog, path: Path, labels: Sequence[str]) -> dict:
    """Write the table of all answers, whole or not at all, and count them."""
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    unknown = 0
    columns = ("file", "status", "reason", *_CELL_COLUMNS, *labels)
    partial = log.folder / path.name
    try:
        with open(partial, "w", encoding="utf-8-sig", newline="") as file:
            table = csv.writer(file)
            table.writerow(columns)
            for answer in log.answers():
                statuses[answer.status] += 1
                for row in answer.rows or [[]]:
                    table.writerow([*answer[1:4], *row, *[""] * (len(columns) - 3 - len(row))])
                for row in answer.rows:
                    counts[row[_LABEL]] += row[_KNOWN] == "yes"
                    unknown += row[_KNOWN] == "no"
        os.replace(partial, path)
    except OSError as error:
        raise OSError(
            f"could not write {readable_name(path)}: {error.strerror or one_line(error)}; the answers are kept: mend "
            "this and give the same command again"
        ) from error
    return {
        "counts": {label: counts[label] for label in labels},
        "shares": _shares(counts, labels),
        "unknown": unknown,
        "images": statuses[_OK] + statuses[_NO_CELL],
        "unreadable": statuses[UNREADABLE] + statuses[FAILED],
        "not_images": statuses[NOT_AN_IMAGE],
        "duplicates": statuses[DUPLICATE],
        "inputs": statuses.total(),
    }


def _choose_backend(classifier, source: str | os.PathLike, backend: str) -> None:
    """Have a backend compute the network; a float32 ONNX model that does not lie with the weights is made first."""
    path = None
    with tempfile.TemporaryDirectory() as folder:
        if backend == "onnx" and find_onnx(os.fspath(source), backend) is None:
            from hub.inference.onnx import write_onnx  # seconds, for the data sets that calibrate int8

            (path,) = write_onnx(source, Path(folder))
        try:
            use_backend(classifier, backend, path)
        except ValueError as error:
            raise UserError(one_line(error)) from error


def _weights(model: str | os.PathLike) -> Iterator[str]:
    """Texts that tell the weights of a folder from those that it holds later; the id of a repository alone."""
    yield os.fspath(model)
    with suppress(OSError):
        state = Path(model, SAFE_WEIGHTS_NAME).stat()
        yield f"{state.st_size} {state.st_mtime_ns}"


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


def load_classifier(source: str | os.PathLike, device: torch.device | None = None):
    """Load a `WBCForImageClassification` by its folder or id on the Hub, in evaluation mode.

    Args:
        source: The folder or the id.
        device: Where to put it. Default: the GPU if there is one.

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
    return place(model.eval(), device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _draw(field: Field, image: Image.Image, item: Input, path: Path) -> None:
    """Write an image with its cells drawn in; if that fails, say so in the input's reason."""
    try:
        field.draw(image).save(path)
    except Exception as error:  # whatever it is, the table is worth more
        if dead_worker(error) is not None:
            raise
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
