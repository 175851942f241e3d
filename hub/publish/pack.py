"""Pack a data set into crops around its cells: small parquet files, from which a training starts without detection."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import datasets
import joblib
import torch
from datasets import Dataset, Features
from PIL import Image
from tqdm.auto import tqdm

from hub.data.load import load
from hub.data.raw import log_unreadable
from hub.files import writing
from hub.training.crops import STORED_SIZE, cut_out
from hub.training.images import CellImages
from hub.training.views import MARGIN
from hub.training.weights import load_image_processor
from modeling_wbc.detection_wbc import NUCLEUS_MARGIN
from modeling_wbc.reading_wbc import ImageReadError, read_image

PART_BYTES = 18_000_000  # of a file at most: fits transfers and repositories that take 20 MB
_QUALITY = 85  # of WebP


def pack(
    dataset_name: str, output: str | os.PathLike, part_bytes: int = PART_BYTES, workers: int | None = None
) -> dict:
    """Cut the foremost cell out of every image of a data set, and write the crops as parquet files.

    A packed row has the columns of the row that it was, but for two: `image` is the crop around the foremost cell, of
    corrected illumination, as WebP of `STORED_SIZE` pixels, wide enough for the rotations, shifts and scales of
    training; `foremost_cell` is the cell's box in it, so that `train.py` and evaluations detect nothing. An image in
    which no cell is found is kept whole, at most as wide and high. Images that cannot be read are logged by name and
    left out.

    Args:
        dataset_name: See `hub.data.load.load`, which reads `output`, too.
        output: A folder to write, new or empty: `data/<split>-<part>-of-<parts>.parquet`.
        part_bytes: Of a file at most.
        workers: Processes that cut out. Default: as many as there are cores.

    Returns:
        By split, the number of `images` and of `parts`, and `bytes`, the size of all parts.

    Raises:
        UserError: There is no such data set, or `output` is not empty.
    """
    dataset = load(dataset_name)
    workers = joblib.cpu_count() if workers is None else workers
    unreadable: list[tuple[Path | str, str]] = []
    written = {}
    with writing(output) as folder:
        (folder / "data").mkdir(parents=True)
        for split, rows in dataset.items():
            written[split] = _write_split(rows, folder / "data", split, part_bytes, workers, unreadable)
    log_unreadable(unreadable)
    return written


def _write_split(
    rows: Dataset, folder: Path, split: str, part_bytes: int, workers: int, unreadable: list[tuple[Path | str, str]]
) -> dict:
    box = datasets.Sequence(datasets.Value("float32"), length=4)
    features = Features({**rows.features, "image": datasets.Image(), "foremost_cell": box})
    others = rows.select_columns([name for name in rows.column_names if name not in ("image", "foremost_cell")])
    parts: list[Path] = []
    images = 0

    def write(part: Dataset) -> None:
        parts.append(folder / f"{len(parts)}.part")
        part.to_parquet(parts[-1])
        if len(part) > 1 and parts[-1].stat().st_size > part_bytes:  # the images are not all that a file holds
            parts.pop().unlink()
            for half in range(2):
                write(part.shard(2, half, contiguous=True))

    columns: dict[str, list] = {name: [] for name in features}
    size = 0
    for index, image, cell, failure in _crops(rows, split, workers):
        if failure is not None:
            unreadable.append(failure)
            continue
        if size and size + len(image) > 0.95 * part_bytes:
            write(Dataset.from_dict(columns, features=features))
            columns, size = {name: [] for name in features}, 0
        images, size = images + 1, size + len(image)
        for name, value in (others[index] | {"image": {"bytes": image, "path": None}, "foremost_cell": cell}).items():
            columns[name].append(value)
    if size:
        write(Dataset.from_dict(columns, features=features))
    total = sum(part.stat().st_size for part in parts)
    for number, part in enumerate(parts):
        part.replace(folder / f"{split}-{number:05d}-of-{len(parts):05d}.parquet")
    return {"images": images, "parts": len(parts), "bytes": total}


def _crops(
    rows: Dataset, split: str, workers: int
) -> Iterator[tuple[int, bytes, list[float], tuple[str, str] | None]]:
    """Index, WebP and box of each row; of one that cannot be read, in place of both its name and the reason."""
    loader = torch.utils.data.DataLoader(_Packer(rows), batch_size=None, num_workers=min(workers, len(rows)))
    yield from tqdm(loader, desc=f"Packing {split}", unit="image", total=len(rows), disable=None)


class _Packer(torch.utils.data.Dataset):
    """What `_crops` yields, for the workers of a loader."""

    def __init__(self, rows: Dataset):
        processor = load_image_processor(None, STORED_SIZE, find_cell=True)
        self.images = CellImages(rows, processor, label_ids=list(range(rows.features["label"].num_classes)))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, bytes, list[float], tuple[str, str] | None]:
        images = self.images
        try:
            crop = Image.fromarray(cut_out(images, index).permute(1, 2, 0).numpy())
            cell = [0.0] * 4
            if images.boxes[index].any():
                # Of the crop's middle, the side of which the network's crop has `window_size` in units of nuclei.
                side = STORED_SIZE / MARGIN * (1 + 2 * NUCLEUS_MARGIN) / images.image_processor.window_size
                cell = [(STORED_SIZE - side) / 2] * 2 + [(STORED_SIZE + side) / 2] * 2
            else:
                crop = read_image(images.dataset[index]["image"])
                crop.thumbnail((STORED_SIZE, STORED_SIZE))
        except ImageReadError as error:
            return index, b"", [], (str(images.dataset[index]["image"]["path"] or f"row {index}"), str(error))
        encoded = io.BytesIO()
        crop.save(encoded, "WEBP", quality=_QUALITY)
        return index, encoded.getvalue(), cell, None


def describe(written: dict) -> str:
    """The result of `pack` as text, a line for each split."""
    return "\n".join(
        f"{split}: {counts['images']:,} images in {counts['parts']} files of {counts['bytes'] / 1e6:,.1f} MB together"
        for split, counts in written.items()
    )
