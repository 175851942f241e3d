"""Example images to click."""

import io
import shutil
from collections.abc import Callable
from html import escape
from itertools import islice
from pathlib import Path

from space.pictures import jpeg_url
from space.texts import Text, text

_DRAWN = Path(__file__).parents[1] / "examples"
_MAX_EXAMPLES = 8  # of a dataset
_SEARCHED_ROWS = 10_000  # of a dataset, whose rows often are sorted by class
_THUMBNAIL_SIZE = 160


def copy_examples(folder: Path, dataset: str | None, read: Callable) -> tuple[list[Path], Text]:
    """Copy example images to a folder.

    Args:
        folder: An empty folder.
        dataset: The id of a dataset on the Hub. The first test image of each class is taken; drawn images are, if it
            is None or cannot be reached.
        read: Reads an encoded image, `fetch_images` of the image processor.

    Returns:
        The paths of the images, and a title as HTML.
    """
    if dataset:
        try:
            return _dataset_examples(folder, dataset, read), text("examples.dataset", dataset=escape(dataset))
        except Exception as error:  # no failure here may keep the page from its visitors
            print(f"no examples of {dataset}: {error}")
    return [Path(shutil.copy(path, folder)) for path in sorted(_DRAWN.glob("*.jpg"))], text("examples.drawn")


def _dataset_examples(folder: Path, dataset: str, read: Callable) -> list[Path]:
    # Imported late: without a dataset it is not needed, and it takes a second.
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    rows = load_dataset(dataset, split="test", streaming=True).cast_column("image", ImageFeature(decode=False))
    first: dict[int, bytes] = {}
    for row in islice(rows, _SEARCHED_ROWS):
        first.setdefault(row["label"], row["image"]["bytes"])
    for label, content in sorted(first.items())[:_MAX_EXAMPLES]:
        read(io.BytesIO(content)).save(folder / f"{label}.png")
    return sorted(folder.iterdir())


def examples_row(paths: list[Path], title: Text, read: Callable) -> str:
    """Return thumbnails to click, each a button with the index of its image; `read` as in `copy_examples`."""
    buttons = []
    for index, path in enumerate(paths):
        image = read(path)
        image.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE))
        picture = jpeg_url(image)
        alt = f"{title.en} / {title.zh}: {index + 1}"
        buttons.append(f'<button type="button" data-index="{index}"><img src="{picture}" alt="{alt}"></button>')
    return f'<p class="hint">{title.html}</p><div class="examples">{"".join(buttons)}</div>' if buttons else ""
