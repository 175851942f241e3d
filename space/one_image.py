"""HTML of the answer to one image: the image with its cells, and the verdict on a chosen cell."""

from html import escape

from PIL import Image

from space.classifier import CONFIDENT, candidates, first_known, is_out_of_focus, status_of
from space.pictures import heat_map_url, hottest_place, jpeg_url
from space.texts import CELL_TYPES, MEDLINEPLUS, NORMAL_PERCENT, percentage, text, type_name

MAX_CELLS = 100  # boxes in an image


def annotated_image(answer: dict, preview: Image.Image | None, map_side: float) -> str:
    """Return the image with a box and a heat map for each cell, of which the style sheet shows the chosen one's.

    Args:
        answer: An answer of `Classifier`.
        preview: The image in RGB, of any size; None if it cannot be read, which gives no HTML.
        map_side: See `Classifier`.
    """
    if preview is None:
        return ""
    layers = [f'<img class="field" src="{jpeg_url(preview)}" alt="{escape(answer["file"])}">']
    chosen = first_known(answer)
    for index, cell in enumerate(answer["cells"][:MAX_CELLS]):
        layers += _cell_layers(answer, index, index == chosen, map_side, cell)
    pages = f", {text('remark.pages', count=answer['pages']).html}" if answer["pages"] > 1 else ""
    caption = f'<p class="hint">{escape(answer["file"])}, {answer["width"]:,} × {answer["height"]:,}{pages}</p>'
    shape = f"aspect-ratio:{preview.width}/{preview.height}"
    return f'<div class="stage" style="{shape}">{"".join(layers)}</div>{caption}'


def _cell_layers(answer: dict, index: int, chosen: bool, map_side: float, cell: dict) -> list[str]:
    """Return the heat map of a known cell, and the box of any cell."""
    size = answer["width"], answer["height"]
    name = type_name(cell["label"]) if cell["known"] else text("field.unknown")
    state = " chosen" if chosen else ""
    layers = []
    if cell["known"]:
        place = hottest_place(cell["activation_map"], map_side)
        alt = " ".join(text("field.heat_map", number=index + 1, type=name, place=place))
        layers.append(
            f'<img class="heat{state}" data-cell="{index}" style="{_position(cell["window"], size)}" '
            f'src="{heat_map_url(cell["activation_map"], map_side)}" alt="{alt}">'
        )
    layers.append(
        f'<button type="button" class="box{state} {"known" if cell["known"] else "unknown"}" data-cell="{index}" '
        f'style="{_position(cell["box"], size)}" aria-label="{index + 1}: {name.en}, {name.zh}">'
        f"<b>{index + 1}</b></button>"
    )
    return layers


def _position(box: list[float], size: tuple[int, int]) -> str:
    """Return a box in pixels as a CSS position in percent of the image."""
    left, top, right, bottom = box
    width, height = size
    return (
        f"left:{100 * left / width:.3f}%;top:{100 * top / height:.3f}%;"
        f"width:{100 * (right - left) / width:.3f}%;height:{100 * (bottom - top) / height:.3f}%"
    )


def verdict(answer: dict, index: int) -> str:
    """Return the verdict on the cell of that index, or on the image if it has no cells."""
    status = answer["status"]
    if status == "unreadable":
        reason = text("verdict.unreadable_reason", file=escape(answer["file"]), reason=escape(answer["remark"]))
        return _panel(status, text("verdict.unreadable").html, reason.html)
    if status == "empty":
        return _panel(status, text("verdict.empty").html, text("verdict.empty_advice").html)
    cell = answer["cells"][index]
    if is_out_of_focus(cell):
        return _panel("unknown", text("verdict.focus").html, text("verdict.focus_advice").html)
    if not cell["known"]:
        return _panel("unknown", text("verdict.unknown").html, text("verdict.unknown_advice").html)
    labels = candidates(cell)
    name, probability = type_name(labels[0]), percentage(cell["confidence"])
    if cell["confidence"] >= CONFIDENT:
        labels = labels[:1]
        title, advice = name.capitalize(), text("verdict.probability", probability=probability)
    elif len(labels) == 2:
        title = text("verdict.one_of_two")
        advice = text(
            "verdict.one_of_two_advice",
            first=name.capitalize(),
            first_probability=probability,
            second=type_name(labels[1]),
            second_probability=percentage(cell["probabilities"][labels[1]]),
        )
    else:
        title = text("verdict.perhaps", article="an" if name.en[0] in "aeiou" else "a", type=name)
        advice = text("verdict.perhaps_advice", probability=probability)
    return _panel(status_of(cell), title.html, advice.html, "".join(_description(label) for label in labels))


def _panel(status: str, title: str, advice: str, descriptions: str = "") -> str:
    return f'<section class="verdict {status}" role="status"><h2>{title}</h2><p>{advice}</p>{descriptions}</section>'


def _description(label: str) -> str:
    """Return what a cell type looks like and how common it is, where `texts.json` has it."""
    if label not in CELL_TYPES:
        return ""
    normal = ""
    if label in NORMAL_PERCENT:
        low, high = NORMAL_PERCENT[label]
        normal = text("verdict.normal_range", low=low, high=high, source=MEDLINEPLUS).html
    return f"<h3>{type_name(label).capitalize().html}</h3><p>{CELL_TYPES[label].description.html} {normal}</p>"
