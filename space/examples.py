"""Example images to click."""

import shutil
from collections.abc import Callable
from pathlib import Path

from space.pictures import jpeg_url
from space.texts import text

_BUNDLED = Path(__file__).parents[1] / "examples"
_THUMBNAIL_SIZE = 160


def copy_examples(folder: Path) -> list[Path]:
    """Copy the bundled images, whose names give lab and type, to an empty folder, and return their paths there."""
    return [Path(shutil.copy(path, folder)) for path in sorted(_BUNDLED.glob("*.jpg"))]


def examples_row(paths: list[Path], read: Callable) -> str:
    """Return HTML of thumbnails to click, each a button with the index of its image, and of their credits.

    Args:
        paths: Images that `copy_examples` returned.
        read: Reads an image, `fetch_images` of the image processor.
    """
    buttons = []
    for index, path in enumerate(paths):
        image = read(path)
        image.thumbnail((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE))
        content = f'<img src="{jpeg_url(image)}" alt=""><small>{text(f"examples.{path.stem}").html}</small>'
        buttons.append(f'<button type="button" data-index="{index}">{content}</button>')
    title, credits = text("examples.title").html, text("examples.credits").html
    return f'<p class="hint">{title}</p><div class="examples">{"".join(buttons)}</div><p class="note">{credits}</p>'
