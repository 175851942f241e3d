"""The bench on which a differential is read and corrected: its HTML, and what its script needs of each answer."""

import json
from collections.abc import Callable
from pathlib import Path
from platform import python_version
from typing import Any

import gradio
import torch
import transformers
from PIL import Image

from space.classifier import CONFIDENT, Classifier
from space.pictures import ATLAS_COLUMNS, ATLAS_QUALITY, PREVIEW_QUALITY, atlas, background_color, jpeg
from space.scale import micrometres_per_pixel
from space.texts import ATTRIBUTES, CELL_TYPES, MEDLINEPLUS_URL, PAGE_TEXTS, STAGES, VALUES, reason_text
from space.uploads import IMAGE_TYPES

SCRIPTS = ("base", "state", "cell", "stage", "gallery", "count", "files", "adapt", "export", "report", "page")
MIN_ADAPT = 30  # cells
_HERE = Path(__file__).parent
# Okabe and Ito's colours, distinct for colour-blind readers too, as `Field.draw` takes them for the model's types.
_COLORS = ("#0072b2", "#009e73", "#d55e00", "#000000", "#56b4e9", "#f0e442", "#e69f00", "#cc79a7")


def page_field(
    answer: dict, preview: Image.Image | None, source: object, url: Callable[[bytes], str]
) -> dict[str, Any]:
    """Return what the page's script needs of the answer to one image.

    Args:
        answer: An answer of `Classifier`.
        preview: The image in RGB, of any size; None if it cannot be read.
        source: What the image was read from.
        url: Makes a URL of the content of a JPEG.
    """
    field = {key: answer[key] for key in ("file", "status", "width", "height", "pages")}
    field |= {"reason": None, "preview": None, "atlas": None, "scale": None, "background": None, "cells": []}
    if preview is None:
        return field | {"reason": reason_text(answer["remark"])._asdict()}
    field |= {"preview": url(jpeg(preview, PREVIEW_QUALITY)), "background": background_color(preview)}
    if isinstance(source, (str, Path)) or hasattr(source, "seek"):
        field["scale"] = micrometres_per_pixel(source)
    crops = [cell["window"] for cell in answer["cells"]]
    if (tiles := atlas(preview, crops, answer["width"])) is not None:
        field["atlas"] = url(jpeg(tiles, ATLAS_QUALITY))
    field["cells"] = [_page_cell(cell, number) for number, cell in enumerate(answer["cells"])]
    return field


def _page_cell(cell: dict, number: int) -> dict[str, Any]:
    """Round a cell's figures to what the page shows: there may be thousands of cells."""
    highest = max(1e-6, *(value for row in cell["activation_map"] for value in row))
    return {
        "box": [round(side, 1) for side in cell["box"]],
        "crop": [round(side, 1) for side in cell["window"]],
        "label": cell["label"],
        "probabilities": {label: round(share, 4) for label, share in cell["probabilities"].items()},
        "known": cell["known"],
        "remark": cell["remark"],
        "stage": cell.get("stage"),
        "attributes": cell.get("attributes") or {},
        "map": [[max(0, round(100 * value / highest)) for value in row] for row in cell["activation_map"]],
        "tile": number,
    }


def page_script(classifier: Classifier, example: dict[str, Any]) -> str:
    """Return the script of the page, with what it needs to know of the model.

    Args:
        classifier: The model.
        example: The worked example of the start page, as `page_field` returns it.
    """
    labels, config = classifier.labels, classifier.model.config
    order = [label for label in CELL_TYPES if label in labels] + [label for label in labels if label not in CELL_TYPES]
    settings = {
        "labels": labels,
        "order": order,
        "colors": {label: _COLORS[index % len(_COLORS)] for index, label in enumerate(labels)},
        "types": {
            label: {
                "name": kind.name._asdict(),
                "description": kind.description._asdict(),
                "normal": kind.normal_percent,
            }
            for label, kind in CELL_TYPES.items()
        },
        "stagesOf": getattr(config, "active_stages", {}),
        "stages": {name: stage._asdict() for name, stage in STAGES.items()},
        "attributes": {name: attribute._asdict() for name, attribute in ATTRIBUTES.items()},
        "values": {name: value._asdict() for name, value in VALUES.items()},
        "texts": {key: label._asdict() for key, label in PAGE_TEXTS.items()},
        "confident": CONFIDENT,
        "mapSide": classifier.map_side,
        "atlasColumns": ATLAS_COLUMNS,
        "imageTypes": ",".join(IMAGE_TYPES),
        "source": MEDLINEPLUS_URL,
        "canAdapt": hasattr(classifier.model, "adapt"),
        "minAdapt": MIN_ADAPT,
        "model": classifier.name,
        "versions": ", ".join(
            f"{name} {version}"
            for name, version in (
                ("Python", python_version()),
                ("PyTorch", torch.__version__),
                ("transformers", transformers.__version__),
                ("Gradio", gradio.__version__),
            )
        ),
        "example": [example],
    }
    # Within a script element, "</" would end it.
    parts = [f"const PAGE = {json.dumps(settings, ensure_ascii=False)};".replace("</", "<\\/")]
    parts += [(_HERE / "page" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return "(() => {\n" + "\n".join(parts) + "\n})();"


def shell(title: str, examples: str, about: str) -> str:
    """Return the HTML of the page, whose words and contents the script puts in.

    Args:
        title: The heading in HTML.
        examples: The thumbnails to click in HTML.
        about: The section about the model in HTML.
    """
    html = (_HERE / "page" / "shell.html").read_text(encoding="utf-8")
    for name, content in (("title", title), ("examples", examples), ("about", about)):
        html = html.replace(f"<!-- {name} -->", content)
    return html
