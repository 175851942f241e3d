"""HTML of the answers to many images: the summary, the differential count, thumbnails, and a table to download."""

import base64
import csv
import io
from collections import Counter

from space.classifier import CONFIDENT, remark
from space.pictures import THUMBNAIL_SIZE
from space.texts import MEDLINEPLUS, NORMAL_PERCENT, Text, percentage, text, type_name

# Types that a differential count leaves out.
_NOT_WHITE = ("erythroblast", "platelet")


def table_headers(language: str) -> list[str]:
    """Return the column names of `table_rows`; `language` is "en" or "zh"."""
    return [getattr(text(f"many.column_{column}"), language) for column in ("file", "type", "confidence", "remark")]


def table_rows(answers: list[dict], language: str) -> list[list[str]]:
    """Return a row for each answer.

    Args:
        answers: Answers of `Classifier`.
        language: "en" or "zh".
    """
    rows = []
    for answer in answers:
        label = getattr(type_name(answer["label"]), language) if answer["label"] else "–"
        confidence = percentage(answer["confidence"]) if answer["label"] else "–"
        rows.append([answer["file"], label, confidence, getattr(remark(answer), language)])
    return rows


def csv_link(answers: list[dict], labels: list[str]) -> str:
    """Return a link that holds the answers as a CSV file for spreadsheets, a row for each image.

    Args:
        answers: Answers of `Classifier`.
        labels: The cell types, whose probabilities are the last columns.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["file", "type", "confidence", "remark", "cells", *labels])
    for answer in answers:
        name = answer["file"]
        # A spreadsheet would run it as a formula.
        name = f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
        probabilities = answer["probabilities"] or {}
        confidence = "" if answer["confidence"] is None else f"{answer['confidence']:.4f}"
        row = [name, answer["label"] or "", confidence, answer["remark"], len(answer["cells"])]
        writer.writerow([*row, *(f"{probabilities[label]:.4f}" if probabilities else "" for label in labels)])
    content = base64.b64encode(file.getvalue().encode("utf-8-sig")).decode()
    link = text("many.download").html
    return f'<a class="csv" download="white-blood-cells.csv" href="data:text/csv;base64,{content}">{link}</a>'


def differential(counts: Counter) -> str:
    """Return a bar for the percentage of each type of white cell, above its normal range.

    Args:
        counts: The number of cells of each type, of which those that are no white cells are left out.
    """
    white = {label: counts[label] for label in NORMAL_PERCENT}
    white |= {label: count for label, count in counts.items() if label not in (*white, *_NOT_WHITE)}
    total = sum(white.values())
    bars = "".join(_bar(label, count, total) for label, count in white.items())
    note = text("differential.note", total=total, source=MEDLINEPLUS).html
    title = text("differential.title").html
    return f'<section class="differential"><h2>{title}</h2>{bars}<p class="note">{note}</p></section>'


def _bar(label: str, count: int, total: int) -> str:
    percent = 100 * count / max(1, total)
    normal = band = ""
    if label in NORMAL_PERCENT:
        low, high = NORMAL_PERCENT[label]
        normal = text("differential.normal_range", low=low, high=high).html
        band = f'<i class="normal" style="left:{low}%;width:{high - low}%"></i>'
    return (
        f'<div class="bar"><span class="type">{type_name(label).html}</span>'
        f'<span class="track" aria-hidden="true">{band}<i class="part" style="width:{percent:.1f}%"></i></span>'
        f'<span class="figure">{percent:.1f} % ({count:,})</span><span class="range">{normal}</span></div>'
    )


def overview(answers: list[dict], thumbnails: dict[str, list[str]], labels: list[str], cut_at: int | None) -> str:
    """Return the summary of many images, the download, the differential count and thumbnails of each type.

    Args:
        answers: Answers of `Classifier`.
        thumbnails: For each type, pictures of some of its cells as URLs.
        labels: The cell types.
        cut_at: The most images in one go, if more were uploaded.
    """
    counts = Counter(cell["label"] for answer in answers for cell in answer["cells"] if cell["known"])
    parts = [f'<p role="status">{_summary(answers, cut_at).html}</p>', csv_link(answers, labels), differential(counts)]
    for label, urls in sorted(thumbnails.items(), key=lambda item: -counts[item[0]]):
        side = f'width="{THUMBNAIL_SIZE}" height="{THUMBNAIL_SIZE}"'
        images = "".join(f'<img src="{url}" alt="" {side}>' for url in urls)
        more = f'<span class="note">+ {counts[label] - len(urls):,}</span>' if counts[label] > len(urls) else ""
        heading = f"{type_name(label).html} ({counts[label]:,})"
        parts.append(f'<details open class="type"><summary>{heading}</summary>{images}{more}</details>')
    return "".join(parts)


def _summary(answers: list[dict], cut_at: int | None) -> Text:
    cells = [cell for answer in answers for cell in answer["cells"]]
    known = [cell for cell in cells if cell["known"]]
    unreadable = sum(answer["status"] == "unreadable" for answer in answers)
    summary = text(
        "many.summary",
        read=len(answers) - unreadable,
        unreadable=unreadable,
        cells=len(known),
        doubtful=sum(cell["confidence"] < CONFIDENT for cell in known),
        unknown=len(cells) - len(known),
    )
    left_out = text("many.left_out", images=cut_at) if cut_at else Text("", "")
    return Text(summary.en + left_out.en, summary.zh + left_out.zh)
