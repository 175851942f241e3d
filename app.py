"""The demo: drop a smear image, or a thousand, and see what the classifier sees.

    python app.py                       # the bundled weights, at http://127.0.0.1:7860
    python app.py --model NAME/NAME     # those of a repository on the Hub; `WBC_MODEL` does the same

It reaches the model through `from_pretrained` alone and works as a Space with nothing but this file and
`requirements.txt`; there, the card beside it names the model. Images in `examples` are offered to click.
"""

import argparse
import base64
import csv
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from itertools import islice
from pathlib import Path, PurePosixPath

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import numpy as np
import torch
from huggingface_hub import metadata_load
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import cached_file

HERE = Path(__file__).parent
MOST_IMAGES = 1000  # in one go
MOST_BYTES = 256 * 2**20  # of one file, packed or not
MOST_UNPACKED = 2**30  # bytes of an archive
BATCH = 16  # images that are analysed together
PREVIEW = 1280  # pixels of the longer side of the image shown
THUMBNAIL = 72
SHOWN_CELLS = 100  # boxes in an image, and thumbnails of a type
WAITING = 256  # requests in the queue
EXAMPLES = 8  # images of a dataset to click
# Of answers given with less than this probability, more than a fifth are wrong where probabilities keep their word.
CONFIDENT = 0.8

# English and Chinese names. What is said of the types beyond them is textbook knowledge; the shares in the white
# cells of healthy adults are those of MedlinePlus.
RANGES_SOURCE = "https://medlineplus.gov/ency/article/003657.htm"
SOURCE_LINK = f'<a href="{RANGES_SOURCE}">MedlinePlus</a>'
RANGES = {
    "neutrophil": (40, 60),
    "lymphocyte": (20, 40),
    "monocyte": (2, 8),
    "eosinophil": (1, 4),
    "basophil": (0.5, 1),
}
NAMES = {
    "basophil": ("basophil", "嗜碱性粒细胞"),
    "eosinophil": ("eosinophil", "嗜酸性粒细胞"),
    "erythroblast": ("erythroblast", "有核红细胞"),
    "ig": ("immature granulocyte", "幼稚粒细胞"),
    "lymphocyte": ("lymphocyte", "淋巴细胞"),
    "monocyte": ("monocyte", "单核细胞"),
    "neutrophil": ("neutrophil", "中性粒细胞"),
    "platelet": ("platelet", "血小板"),
}
FACTS = {
    "basophil": (
        "Coarse, dark violet granules that often hide the nucleus, which has two or three lobes.",
        "胞质内有粗大的深紫色颗粒，常遮盖分为二至三叶的细胞核。",
    ),
    "eosinophil": (
        "A nucleus of two lobes, mostly, and large orange-red granules of one size that fill the cell.",
        "细胞核多为两叶，胞质充满粗大、均匀的橘红色颗粒。",
    ),
    "erythroblast": (
        "A precursor of red cells with its nucleus still there: small, round and very dense. It is no white cell and "
        "left out of the differential count. Healthy adults have none in their blood.",
        "红细胞的前体，仍保留小而圆、染色极深的细胞核。不是白细胞，不计入分类计数。健康成人外周血中没有。",
    ),
    "ig": (
        "A promyelocyte, myelocyte or metamyelocyte: a large cell with granules and a round or indented nucleus, not "
        "in lobes yet. Healthy adults have hardly any in their blood.",
        "早幼粒、中幼粒或晚幼粒细胞：体积大，有颗粒，细胞核圆形或凹陷，尚未分叶。健康成人外周血中几乎没有。",
    ),
    "lymphocyte": (
        "A round, dense nucleus that nearly fills the cell, a thin rim of blue cytoplasm, few granules or none.",
        "细胞核圆而致密，几乎占满细胞，仅有一窄圈蓝色胞质，颗粒少或无。",
    ),
    "monocyte": (
        "The largest cell of normal blood: a folded, kidney-shaped nucleus in grey-blue cytoplasm, often with "
        "vacuoles.",
        "正常血液中最大的细胞：细胞核折叠或呈肾形，胞质灰蓝色，常有空泡。",
    ),
    "neutrophil": (
        "A nucleus of two to five lobes on thin threads, and fine, pale granules.",
        "细胞核分为二至五叶，叶间以细丝相连，颗粒细小而色淡。",
    ),
    "platelet": (
        "A fragment of a megakaryocyte, 2 to 3 µm across, without a nucleus. It is no white cell and left out of the "
        "differential count.",
        "巨核细胞的碎片，直径 2 至 3 微米，无细胞核。不是白细胞，不计入分类计数。",
    ),
}

# What Gradio translates itself; what is made anew for each answer says it in both languages, see `both`.
TEXTS = {
    "wbc.one": ("One image", "单张图像"),
    "wbc.many": ("Many images", "批量图像"),
    "wbc.about": ("About", "关于"),
    "wbc.image": ("Smear image: drop, paste or choose", "血涂片图像：拖放、粘贴或选择"),
    "wbc.files": ("Up to 1,000 smear images, or a ZIP of them", "最多 1000 张血涂片图像，或其 ZIP 压缩包"),
    "wbc.heat": ("Heat map (%)", "热力图（%）"),
    "wbc.heat_info": ("Where the window speaks for the type", "窗口中支持该类型的部位"),
    "wbc.cell": ("Cell", "细胞"),
    "wbc.probabilities": ("Calibrated probabilities", "校准后的概率"),
    "wbc.results": ("Results", "结果"),
}
I18N = gr.I18n(
    **{
        locale: {key: texts[index] for key, texts in TEXTS.items()}
        for index, locales in enumerate((("en",), ("zh-CN", "zh")))
        for locale in locales
    }
)


def both(english: str, chinese: str) -> str:
    """HTML that shows one of two HTML texts, by the language that Gradio has set."""
    return f'<span class="en" lang="en">{english}</span><span class="zh" lang="zh-CN">{chinese}</span>'


def name_of(label: str) -> tuple[str, str]:
    """A type's names for people, as HTML; another model's own type as it is."""
    return NAMES.get(label, (escape(label), escape(label)))


class Classifier:
    """A model of the Hub or of a folder, and what it says of images as plain values.

    An answer is a dictionary: `file`, its name; `status`, one of `sure`, `doubtful` (less than `CONFIDENT`), `unknown`
    (no smear), `empty` (no white cell found) and `unreadable`; `label`, `confidence` and `probabilities` of the
    foremost cell that the model knows, or None; `remark`, what people should know beside the label; `width` and
    `height` in pixels; and `cells`, each with `box` and `window` (left, top, right, bottom in pixels), `label`,
    `confidence`, `probabilities`, `known`, `novelty` and `activation_map`, rows of how much each part of the window
    speaks for the label.
    """

    def __init__(self, source: str):
        self.source = source
        self.model = AutoModelForImageClassification.from_pretrained(source, trust_remote_code=True).eval()
        if not hasattr(self.model, "analyze"):
            raise SystemExit(f"error: {source} is a {type(self.model).__name__}, which finds no cells in images")
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.image_processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
        # The network's side in strides of its last feature map, whose values lie at multiples of the stride.
        self.reach = self.model.config.image_size / 32
        self.labels = [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    def results(self) -> dict | None:
        """The figures that lie with the weights."""
        path = cached_file(self.source, "results.json", _raise_exceptions_for_missing_entries=False)
        return json.loads(Path(path).read_text(encoding="utf-8")) if path else None

    def answers(self, sources: Iterable, size: int) -> list[tuple[dict, Image.Image | None]]:
        """Answers to images, with each image scaled to at most `size` pixels, or None where it cannot be read.

        Args:
            sources: of each image its name and what `fetch_images` reads, or the error that keeps it away.
            size: of the longer side, in pixels.
        """
        answers = []

        def readable():
            # One image in memory at a time, however many are analysed together.
            for name, source in sources:
                answer = {"file": name, "status": "unreadable", "label": None, "confidence": None}
                answer |= {"probabilities": None, "remark": "", "width": None, "height": None, "cells": []}
                preview = None
                try:
                    if isinstance(source, Exception):
                        raise source
                    image = self.image_processor.fetch_images(source)
                except (ValueError, MemoryError) as error:
                    # The name in the message is that of a file of the server.
                    read = source if isinstance(source, str) else "in memory"
                    answer["remark"] = str(error).removeprefix(f"cannot read the image {read}: ") or "it is too large"
                else:
                    answer |= {"status": "empty", "width": image.width, "height": image.height}
                    preview = image.copy() if max(image.size) <= size else image.reduce(max(image.size) // size)
                    preview.thumbnail((size, size))
                answers.append((answer, preview))
                if preview is not None:
                    yield image
                    del image

        fields = iter(self.model.analyze(readable(), self.image_processor))
        for answer, preview in answers:
            if preview is not None:
                self._tell(answer, next(fields))
        return answers

    def _tell(self, answer: dict, field) -> None:
        answer["cells"] = [
            {
                "box": list(cell.box),
                "window": list(cell.crop_box),
                "label": cell.label,
                "confidence": cell.probabilities[cell.label],
                "probabilities": cell.probabilities,
                "known": cell.known,
                "novelty": cell.novelty,
                "activation_map": cell.activation_map,
            }
            for cell in field.cells
        ]
        known = [cell for cell in answer["cells"] if cell["known"]]
        if known:
            answer |= {key: known[0][key] for key in ("label", "confidence", "probabilities")}
            answer["status"] = status_of(known[0])
        elif answer["cells"]:
            answer["status"] = "unknown"
        answer["remark"] = remarks(answer)[0]


def status_of(cell: dict) -> str:
    if not cell["known"]:
        return "unknown"
    return "sure" if cell["confidence"] >= CONFIDENT else "doubtful"


def rivals(cell: dict) -> list[str]:
    """The likeliest type, and the second where it is at least half as likely."""
    first, second = sorted(cell["probabilities"], key=cell["probabilities"].get, reverse=True)[:2]
    close = cell["probabilities"][second] >= cell["probabilities"][first] / 2
    return [first, second] if close else [first]


def remarks(answer: dict) -> tuple[str, str]:
    """What to know of an answer beside its type, in English and Chinese, as text."""
    cells = answer["cells"]
    if answer["status"] == "unreadable":
        return answer["remark"], f"无法读取：{answer['remark']}"
    if answer["status"] == "empty":
        return "no white cell found", "未发现白细胞"
    if answer["status"] == "unknown":
        return "does not look like a blood smear", "不像血涂片"
    said: list[tuple[str, str]] = []
    if answer["status"] == "doubtful":
        options = [name_of(label) for label in rivals(next(cell for cell in cells if cell["known"]))]
        if len(options) == 2:
            said.append((f"doubtful: {options[0][0]} or {options[1][0]}", f"存疑：{options[0][1]}或{options[1][1]}"))
        else:
            said.append(("doubtful", "存疑"))
    if len(cells) > 1:
        said.append((f"{len(cells)} cells", f"{len(cells)} 个细胞"))
    return tuple("; ".join(part) for part in zip(*said, strict=True)) or ("", "")


# ------------------------------------------------------------------------------------------------ one image


def jpeg(image: Image.Image, quality: int = 85) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def heat(activation_map: list[list[float]], reach: float) -> str:
    """A picture of what speaks for a type: nothing where the map is 0 or less, through yellow to red at its maximum.

    Values lie at 0, 1, ... along either side of the window, which ends at `reach`.
    """
    values = np.maximum(np.array(activation_map), 0)
    values = values / max(values.max(), 1e-6)
    for _ in range(2):  # along one side, then the other
        places = np.linspace(0, reach, 96)
        values = np.stack([np.interp(places, np.arange(len(line)), line) for line in values.T])
    pixels = np.stack((np.full_like(values, 255), 220 * (1 - values), 0 * values, 255 * values), -1)
    content = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


PLACES = (
    (("upper left", "左上"), ("top", "上方"), ("upper right", "右上")),
    (("left", "左侧"), ("middle", "中央"), ("right", "右侧")),
    (("lower left", "左下"), ("bottom", "下方"), ("lower right", "右下")),
)


def hottest(activation_map: list[list[float]], reach: float) -> tuple[str, str]:
    """Where in the window the map is at its maximum, in words."""
    values = np.array(activation_map)
    row, column = (min(2, int(3 * place / reach)) for place in np.unravel_index(values.argmax(), values.shape))
    return PLACES[row][column]


def stage(answer: dict, preview: Image.Image | None, reach: float) -> str:
    """The image with a box and a heat map for each cell, of which the style sheet shows the chosen one's."""
    if preview is None:
        return ""

    def place(box):
        left, top, right, bottom = box
        share = [
            100 * value / side for value, side in zip((left, top), (answer["width"], answer["height"]), strict=True)
        ]
        share += [100 * (right - left) / answer["width"], 100 * (bottom - top) / answer["height"]]
        return "left:{:.3f}%;top:{:.3f}%;width:{:.3f}%;height:{:.3f}%".format(*share)

    layers = [f'<img class="field" src="{jpeg(preview)}" alt="{escape(answer["file"])}">']
    chosen = foremost(answer)
    for index, cell in enumerate(answer["cells"][:SHOWN_CELLS]):
        english, chinese = name_of(cell["label"]) if cell["known"] else ("unknown", "未知")
        state = " chosen" if index == chosen else ""
        if cell["known"]:
            where = hottest(cell["activation_map"], reach)
            alt = f"Heat map of cell {index + 1}: most of what speaks for {english} lies {where[0]} in the window. "
            alt += f"细胞 {index + 1} 的热力图：支持{chinese}的部位主要在窗口的{where[1]}。"
            layers.append(
                f'<img class="heat{state}" data-cell="{index}" style="{place(cell["window"])}" '
                f'src="{heat(cell["activation_map"], reach)}" alt="{alt}">'
            )
        layers.append(
            f'<button type="button" class="box{state} {"known" if cell["known"] else "unknown"}" data-cell="{index}" '
            f'style="{place(cell["box"])}" aria-label="{index + 1}: {english}, {chinese}">'
            f"<b>{index + 1}</b></button>"
        )
    caption = f'<p class="hint">{escape(answer["file"])}, {answer["width"]:,} × {answer["height"]:,}</p>'
    shape = f"aspect-ratio:{preview.width}/{preview.height}"
    return f'<div class="stage" style="{shape}">{"".join(layers)}</div>{caption}'


def foremost(answer: dict) -> int:
    return next((index for index, cell in enumerate(answer["cells"]) if cell["known"]), 0)


def percent(share: float) -> str:
    """A probability as people read it, and never as certainty."""
    return "> 99 %" if share > 0.99 else f"{100 * share:.0f} %"


def verdict(answer: dict, index: int) -> str:
    """What the page says of one cell of an answer, or of the image where there is none."""
    name = escape(answer["file"])
    if answer["status"] == "unreadable":
        title = both("This file cannot be read", "无法读取此文件")
        reason = escape(answer["remark"])
        text = both(f"{name}: {reason}", f"{name}：{reason}")
        return panel("unreadable", title, text)
    if not answer["cells"]:
        title = both("No white cell found", "未发现白细胞")
        text = both(
            "Nothing here is stained like the nucleus of a white cell. Is it a stained smear, in colour and in focus?",
            "图像中没有染成白细胞核颜色的部分。请确认这是清晰的彩色染色血涂片。",
        )
        return panel("empty", title, text)
    cell = answer["cells"][index]
    (english, chinese), share = name_of(cell["label"]), percent(cell["confidence"])
    if not cell["known"]:
        title = both("This does not look like a blood smear", "这不像血涂片")
        text = both(
            "It is unlike the smears that the model learned from, so that any type it named would be a guess. Another "
            "laboratory's stain or camera can be the reason too.",
            "它与模型学习过的血涂片不同，给出的任何类型都只是猜测。不同实验室的染色或相机也可能是原因。",
        )
        return panel("unknown", title, text)
    options = rivals(cell)
    if cell["confidence"] >= CONFIDENT:
        title = both(english.capitalize(), chinese)
        text = both(f"Probability {share}", f"概率 {share}")
    elif len(options) == 2:
        (_, other), second = name_of(options[1]), percent(cell["probabilities"][options[1]])
        title = both("Not sure: one of two types", "不确定：两种类型之一")
        text = both(
            f"{english.capitalize()} ({share}) or {name_of(options[1])[0]} ({second}). Have a specialist look at it.",
            f"{chinese}（{share}）或{other}（{second}）。请由专业人员判断。",
        )
    else:
        title = both(f"Not sure: perhaps {article(english)}", f"不确定：可能是{chinese}")
        text = both(
            f"Its probability is {share} only. Have a specialist look at it.", f"概率仅为 {share}。请由专业人员判断。"
        )
    facts = ""
    for label in options if cell["confidence"] < CONFIDENT else options[:1]:
        if label in FACTS:
            facts += (
                f"<h3>{both(*map(str.capitalize, name_of(label)))}</h3><p>{both(*FACTS[label])} {share_of(label)}</p>"
            )
    return panel(status_of(cell), title, text, facts)


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def share_of(label: str) -> str:
    if label not in RANGES:
        return ""
    low, high = RANGES[label]
    return both(
        f"{low:g} to {high:g} % of the white cells of healthy adults. {SOURCE_LINK}",
        f"占健康成人白细胞的 {low:g}% 至 {high:g}%。{SOURCE_LINK}",
    )


def panel(status: str, title: str, text: str, more: str = "") -> str:
    return f'<section class="verdict {status}" role="status"><h2>{title}</h2><p>{text}</p>{more}</section>'


def probabilities(answer: dict, index: int) -> list:
    """Updates of the two labels, English and Chinese, for one cell; hidden where probabilities would mislead."""
    cell = answer["cells"][index] if answer["cells"] else None
    if cell is None or not cell["known"]:
        return [gr.update(value=None, visible=False)] * 2
    return [
        gr.update(
            value={name_of(label)[language]: share for label, share in cell["probabilities"].items()}, visible=True
        )
        for language in (0, 1)
    ]


# ------------------------------------------------------------------------------------------------ many images


def sources_of(paths: Iterable[str]) -> Iterator[tuple[str, object]]:
    """Of each image among files and in archives its name, and a path, an open file or the reason against it."""
    for path in paths:
        name = Path(path).name
        if not name.lower().endswith(".zip"):
            yield name, path
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                for member in members_of(archive):
                    yield f"{name}/{member.filename}", unpacked(archive, member)
        except (ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            yield name, ValueError(str(error))


def members_of(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of an archive, but for those that systems hide in it.

    Raises:
        ValueError: if it is not an archive of images that anybody would make.
    """
    members = [member for member in archive.infolist() if not member.is_dir()]
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise ValueError(f"it is refused, as the path {member.filename!r} leads out of it")
        if path.suffix.lower() in (".zip", ".gz", ".bz2", ".xz", ".7z", ".rar", ".tar"):
            raise ValueError(f"it is refused, as it holds another archive, {member.filename!r}")
        if member.flag_bits & 1:
            raise ValueError("it is encrypted")
    if (size := sum(member.file_size for member in members)) > MOST_UNPACKED:
        raise ValueError(f"it is refused, as it unpacks to {size / 2**20:,.0f} MiB, more than {MOST_UNPACKED >> 20:,}")
    hidden = ("__MACOSX", ".")
    return [
        member
        for member in members
        if not any(part.startswith(hidden) for part in PurePosixPath(member.filename).parts)
    ]


def unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo):
    """A member's content as an open file in memory, or the reason why there is none."""
    try:
        # What the archive says of its sizes need not be so.
        with archive.open(member) as file:
            content = file.read(min(member.file_size, MOST_BYTES) + 1)
    except Exception as error:  # the decoders raise errors of every kind at what is damaged
        return ValueError(f"it is damaged ({error})")
    if len(content) > member.file_size or member.file_size > MOST_BYTES:
        return ValueError(f"it is larger than it says, or than {MOST_BYTES >> 20} MiB")
    return io.BytesIO(content)


def thumbnail(answer: dict, preview: Image.Image, cell: dict) -> str:
    """The cell's window, small."""
    scale = preview.width / answer["width"]
    left, top, right, bottom = (round(value * scale) for value in cell["window"])
    return jpeg(preview.crop((left, top, right, bottom)).resize((THUMBNAIL, THUMBNAIL)), 80)


def table_rows(answers: list[dict], language: int) -> list[list[str]]:
    rows = []
    for answer in answers:
        label = name_of(answer["label"])[language] if answer["label"] else "–"
        confidence = percent(answer["confidence"]) if answer["label"] else "–"
        rows.append([answer["file"], label, confidence, remarks(answer)[language]])
    return rows


def csv_link(answers: list[dict], labels: list[str]) -> str:
    """A link that saves the answers as a CSV file for spreadsheets, a row for each file, which it holds itself."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["file", "type", "confidence", "remark", "cells", *labels])
    for answer in answers:
        name = answer["file"]
        # A spreadsheet would take it for a formula.
        name = f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
        shares = answer["probabilities"] or {}
        confidence = "" if answer["confidence"] is None else f"{answer['confidence']:.4f}"
        row = [name, answer["label"] or "", confidence, answer["remark"], len(answer["cells"])]
        writer.writerow([*row, *(f"{shares[label]:.4f}" if shares else "" for label in labels)])
    content = base64.b64encode(file.getvalue().encode("utf-8-sig")).decode()
    text = both("Download as CSV", "下载 CSV")
    return f'<a class="csv" download="white-blood-cells.csv" href="data:text/csv;base64,{content}">{text}</a>'


def differential(counts: Counter) -> str:
    """A bar for each white cell's share, above the range of healthy adults."""
    white = {label: counts[label] for label in RANGES} | {
        label: count
        for label, count in counts.items()
        if label not in RANGES and label not in ("erythroblast", "platelet")
    }
    total = sum(white.values())
    rows = []
    for label, count in white.items():
        share = 100 * count / max(1, total)
        usual = band = ""
        if label in RANGES:
            low, high = RANGES[label]
            usual = both(f"usual {low:g}–{high:g} %", f"参考 {low:g}–{high:g}%")
            band = f'<i class="usual" style="left:{low}%;width:{high - low}%"></i>'
        rows.append(
            f'<div class="bar"><span class="type">{both(*name_of(label))}</span>'
            f'<span class="track" aria-hidden="true">{band}<i class="share" style="width:{share:.1f}%"></i></span>'
            f'<span class="figure">{share:.1f} % ({count:,})</span><span class="range">{usual}</span></div>'
        )
    note = both(
        f"{total:,} white cells. The grey bands are the ranges of healthy adults: {SOURCE_LINK}. They hold for cells "
        "counted as they come in a smear, not for collections of chosen images.",
        f"共 {total:,} 个白细胞。灰色条带为健康成人的参考范围：{SOURCE_LINK}，"
        "仅适用于血涂片中依次计数的细胞，不适用于挑选的图像集。",
    )
    title = both("Differential count", "白细胞分类计数")
    return f'<section class="differential"><h2>{title}</h2>{"".join(rows)}<p class="note">{note}</p></section>'


def overview(answers: list[dict], pictures: dict[str, list[str]], left_out: bool, labels: list[str]) -> str:
    """The summary of many images: what was read, the differential count, thumbnails of each type."""
    cells = [cell for answer in answers for cell in answer["cells"]]
    counts = Counter(cell["label"] for cell in cells if cell["known"])
    states = Counter(answer["status"] for answer in answers)
    read = len(answers) - states["unreadable"]
    doubtful = sum(cell["known"] and cell["confidence"] < CONFIDENT for cell in cells)
    unknown = sum(not cell["known"] for cell in cells)
    english = (
        f"{read:,} images read, {states['unreadable']:,} unreadable; {counts.total():,} cells, {doubtful:,} of them "
    )
    english += f"doubtful; {unknown:,} more places that look like no smear."
    chinese = f"已读取 {read:,} 张图像，{states['unreadable']:,} 个文件无法读取；"
    chinese += f"共 {counts.total():,} 个细胞，其中 {doubtful:,} 个存疑；另有 {unknown:,} 处不像血涂片。"
    if left_out:
        english += f" {MOST_IMAGES:,} images are the most in one go: the others were left out."
        chinese += f"一次最多 {MOST_IMAGES:,} 张图像，其余未处理。"
    parts = [f'<p role="status">{both(english, chinese)}</p>', csv_link(answers, labels), differential(counts)]
    for label, shown in sorted(pictures.items(), key=lambda item: -counts[item[0]]):
        images = "".join(f'<img src="{source}" alt="" width="{THUMBNAIL}" height="{THUMBNAIL}">' for source in shown)
        more = f'<span class="note">+ {counts[label] - len(shown):,}</span>' if counts[label] > len(shown) else ""
        head = f"{both(*name_of(label))} ({counts[label]:,})"
        parts.append(f'<details open class="type"><summary>{head}</summary>{images}{more}</details>')
    return "".join(parts)


# ------------------------------------------------------------------------------------------------ the page


def about(classifier: Classifier) -> str:
    """What the model was trained on, its figures as they lie with the weights, and what they are worth."""
    results = classifier.results()
    paper = '<a href="https://doi.org/10.16208/j.issn1000-7024.2020.10.046">Ma, Shuai, Liu &amp; Li 2020</a>'
    # Where a folder lies on the server is nobody's business.
    name = "" if Path(classifier.source).is_dir() else f"{escape(classifier.source)}. "
    parts = [
        f"<h2>{both('The model', '模型')}</h2>",
        both(
            f"<p>{name}The IBN-ResNet34 with hard-mined centre loss of {paper}, which tells "
            f"apart {len(classifier.labels)} types of cells. It finds each cell by the stain of its nucleus and looks "
            "at a window around it. Its probabilities are calibrated on validation images, and what looks unlike the "
            "smears of its training it calls unknown.</p>",
            f"<p>{name}{paper} 提出的 IBN-ResNet34 网络（难样本挖掘中心损失），可区分 "
            f"{len(classifier.labels)} 类细胞。它根据细胞核的染色定位每个细胞，并观察其周围窗口。概率经验证集校准；"
            "与训练所用血涂片不同的图像会被判为未知。</p>",
        ),
    ]
    if results is None:
        parts.append(both("<p>No figures lie with these weights.</p>", "<p>该权重未附带评估数据。</p>"))
    else:
        subsets = results["splits"]["test"]["subsets"]
        for key, title in (
            ("bccd_4_classes", both("BCCD, test images of four types", "BCCD 测试集，四类")),
            ("pbc", both("PBC, test images of eight types", "PBC 测试集，八类")),
        ):
            if key in subsets:
                parts.append(figures_table(title, subsets[key], results["splits"]["test"]["label_names"]))
        refused = results["foreign"]["all"]
        share, low, high = (100 * value for value in refused["refused"])
        parts.append(
            both(
                f"<p>Of {refused['images']:,} images that show no white cell, {share:.1f} % ({low:.1f} to {high:.1f}) "
                "were refused: nothing was found in them, or it was called unknown.</p>",
                f"<p>在 {refused['images']:,} 张不含白细胞的图像中，{share:.1f}%（{low:.1f} 至 {high:.1f}）被拒绝："
                "未发现细胞或判为未知。</p>",
            )
        )
        parts.append(
            both(
                "<p>In brackets are 95 % intervals. BCCD's test images show 71 photographs only, of one stain and one "
                "lab, some with labels in doubt; its interval is over photographs. Smears of a third laboratory were "
                "never tested.</p>",
                "<p>括号内为 95% 置信区间。BCCD 测试图像仅来自 71 张照片（同一实验室、同一染色，部分标签存疑），"
                "其区间按照片计算。未在第三家实验室的血涂片上测试。</p>",
            )
        )
    parts.append(f"<h2>{both('Data and licence', '数据与许可')}</h2>")
    parts.append(
        both(
            "<p>Trained on BCCD (MIT licence) and PBC (Acevedo et al. 2020, "
            '<a href="https://doi.org/10.1016/j.dib.2020.105474">doi</a>, CC BY 4.0). Code and weights: Apache-2.0. '
            "For research only, no diagnosis. Images are analysed on this server alone and deleted from it within "
            "seventy minutes.</p>",
            "<p>训练数据：BCCD（MIT 许可）与 PBC（Acevedo 等 2020，"
            '<a href="https://doi.org/10.1016/j.dib.2020.105474">doi</a>，CC BY 4.0）。代码与权重：Apache-2.0。'
            "仅供研究，不用于诊断。图像仅在本服务器上分析，七十分钟内删除。</p>",
        )
    )
    return f'<div class="about">{"".join(parts)}</div>'


def figures_table(title: str, figures: dict, labels: list[str]) -> str:
    """Precision, recall and F1 of each type, and the accuracy, each with its interval."""

    def cell(key: str) -> str:
        low, high = figures["intervals"][key]
        return f"<td>{100 * figures[key]:.1f} ({100 * low:.1f}–{100 * high:.1f})</td>"

    heads = (both("Type", "类型"), both("Precision (%)", "精确率（%）"), both("Recall (%)", "召回率（%）"), "F1 (%)")
    rows = "".join(
        f'<tr><th scope="row">{both(*name_of(label))}</th>'
        + "".join(cell(f"{measure}_{label}") for measure in ("precision", "recall", "f1"))
        + "</tr>"
        for label in labels
        if figures.get(f"support_{label}")
    )
    low, high = (100 * value for value in figures["intervals"]["accuracy"])
    accuracy = f"{100 * figures['accuracy']:.1f} ({low:.1f}–{high:.1f})"
    images = figures["num_images"]
    line = both(f"Accuracy {accuracy} % of {images:,} images", f"准确率 {accuracy}%，共 {images:,} 张图像")
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table 1"><table><caption>{title}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div><p>{line}</p>"
    )


CSS = """
html:not([lang^="zh"]) .zh, html[lang^="zh"] .en { display: none !important; }
.gradio-container { --heat: 0.5; }
h1, h2, h3 { font-weight: 600; }
.masthead { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; align-items: baseline;
  justify-content: space-between; }
.masthead h1 { font-size: 1.6rem; margin: 0; }
.masthead p { margin: 0; color: var(--body-text-color); }
.masthead button { text-decoration: underline; cursor: pointer; }
.masthead .use { font-weight: 600; border-left: 4px solid #b45309; padding-left: 0.6rem; }
.examples { display: flex; flex-wrap: wrap; gap: 0.5rem; }
.examples img { height: 64px; border-radius: 6px; margin: 0; }
button[role="tab"].selected { color: #1d4ed8; }
.dark button[role="tab"].selected { color: #93c5fd; }
.stage { position: relative; overflow: hidden; width: 100%; max-height: 75vh; margin: auto; border-radius: 8px;
  box-shadow: 0 0 0 1px var(--border-color-primary); }
.stage img { position: absolute; max-width: none; margin: 0; }
.stage .field { inset: 0; width: 100%; height: 100%; }
.stage .heat { opacity: 0; pointer-events: none; }
.stage .heat.chosen { opacity: var(--heat); }
.stage .box { position: absolute; padding: 0; background: none; border: 2px solid #fff; outline: 2px solid #0b5394;
  border-radius: 3px; cursor: pointer; }
.stage .box.unknown { outline: 2px dashed #4b5563; }
.stage .box.chosen { border-width: 3px; outline-width: 4px; }
.stage .box:focus-visible { box-shadow: 0 0 0 6px #facc15; }
.stage .box b { position: absolute; left: 0; top: 0; padding: 0 0.35em; font-size: 0.8rem; color: #fff;
  background: #0b5394; }
.stage .box.unknown b { background: #4b5563; }
.verdict { border-left: 6px solid #0b5394; padding: 0.25rem 1rem; }
.verdict.sure { border-color: #15803d; }
.verdict.doubtful { border-color: #b45309; }
.verdict.unknown, .verdict.unreadable, .verdict.empty { border-color: #6b7280; }
.verdict h2 { font-size: 1.5rem; margin: 0; }
.verdict h3 { font-size: 1rem; margin: 0.75rem 0 0; }
.differential h2 { font-size: 1.3rem; margin: 0.75rem 0; }
.verdict a, .differential a, .about a { text-decoration: underline; }
a.csv { display: inline-block; margin: 0.5rem 0; padding: 0.4rem 1rem; border-radius: 6px; background: #0b5394;
  color: #fff; }
/* Gradio's own are wider than their column, and a probability of 0 has a bar. */
.confidence-set .inner-wrap { min-width: 0; max-width: 100%; }
.confidence-set meter { overflow: hidden; }
.hint { color: var(--body-text-color); }
.bar { display: grid; grid-template-columns: 11em 1fr 8em 9em; gap: 0.75rem; align-items: center; margin: 0.35rem 0; }
.bar .track { position: relative; height: 1.5rem; background: var(--background-fill-secondary); border-radius: 4px;
  overflow: hidden; border: 1px solid var(--border-color-primary); }
.bar .usual { position: absolute; top: 0; bottom: 0; background: #9ca3af; min-width: 3px; }
.bar .share { position: absolute; left: 0; top: 30%; bottom: 30%; background: #0b5394; min-width: 1px; }
.dark .bar .share { background: #7db8f0; }
details.type { margin: 0.5rem 0; }
details.type summary { font-weight: 600; cursor: pointer; }
details.type img { display: inline-block; margin: 2px; border-radius: 4px; }
.about table { border-collapse: collapse; margin: 0; }
.about h2 { font-size: 1.3rem; margin: 1rem 0 0.5rem; }
.about p { margin: 0.5rem 0; }
.about th, .about td { padding: 0.25rem 0.75rem; text-align: right; white-space: nowrap;
  border: 0 solid var(--border-color-primary); border-bottom-width: 1px; }
.about th:first-child { text-align: left; }
.about caption { text-align: left; font-weight: 600; padding: 0.5rem 0; }
.scroll { overflow-x: auto; }
@media (max-width: 640px) {
  .bar { grid-template-columns: 1fr 1fr; gap: 0.1rem 0.75rem; }
  .bar .track { grid-column: 1 / -1; grid-row: 2; }
  .bar .figure, .bar .range { text-align: right; }
  .bar .range { grid-column: 2; }
}
"""

# Pasted images go to the field in sight. Of a chosen cell, box and heat map stand out.
HEAD = """
<script>
function markCell(index) {
  for (const part of document.querySelectorAll("#stage [data-cell]"))
    part.classList.toggle("chosen", part.dataset.cell === String(index));
}
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  const inputs = [...document.querySelectorAll(".drop input[type=file]")];
  const input = inputs.find((found) => found.closest(".drop").offsetParent);
  if (!files.length || !input) return;
  const transfer = new DataTransfer();
  for (const file of input.multiple ? files : files.slice(0, 1)) transfer.items.add(file);
  input.files = transfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
</script>
"""
CHOOSE_BY_CLICK = """
element.addEventListener("click", (event) => {
  const box = event.target.closest(".box");
  if (!box) return;
  markCell(box.dataset.cell);
  trigger("click", { index: Number(box.dataset.cell) });
});
"""
CHOOSE_EXAMPLE = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("click", { index: Number(button.dataset.index) });
});
"""


def example_images(folder: str, dataset: str | None) -> tuple[list[str], tuple[str, str]]:
    """Puts images to click into a folder, of a dataset if it is reachable, otherwise drawn ones.

    Returns their paths and what they are.
    """
    if dataset:
        try:
            from datasets import Image as Encoded
            from datasets import load_dataset

            rows = load_dataset(dataset, split="test", streaming=True).cast_column("image", Encoded(decode=False))
            first = {}  # of each class: rows often come sorted by it
            for row in islice(rows, 10_000):
                first.setdefault(row["label"], row["image"]["bytes"])
            for label, content in sorted(first.items())[:EXAMPLES]:
                with Image.open(io.BytesIO(content)) as image:
                    image.convert("RGB").save(Path(folder, f"{label}.png"))
            title = f"Examples of {escape(dataset)}", f"示例（{escape(dataset)}）"
            return sorted(map(str, Path(folder).iterdir())), title
        except Exception as error:  # whatever keeps examples away must not keep the page away
            print(f"no examples of {dataset}: {error}")
    title = "Examples, drawn by a program", "示例（程序绘制）"
    return [shutil.copy(path, folder) for path in sorted((HERE / "examples").glob("*.jpg"))], title


def examples_row(examples: list[str], title: tuple[str, str]) -> str:
    """Thumbnails to click."""
    buttons = []
    for index, path in enumerate(examples):
        with Image.open(path) as image:
            image.thumbnail((160, 160))
            picture = jpeg(image.convert("RGB"))
        alt = f"{title[0]} / {title[1]}: {index + 1}"
        buttons.append(f'<button type="button" data-index="{index}"><img src="{picture}" alt="{alt}"></button>')
    return f'<p class="hint">{both(*title)}</p><div class="examples">{"".join(buttons)}</div>' if buttons else ""


def build(classifier: Classifier, dataset: str | None = None) -> gr.Blocks:
    """The page and its API for a classifier; `dataset` is the id of one on the Hub to take examples from."""

    def named(paths: Iterable[str | None]) -> Iterator[tuple[str, object]]:
        for path in paths:
            yield (Path(path).name, path) if path else ("", ValueError("no file was given"))

    # Of what can be asked for together, Gradio hands over several visitors' at once: a list in, a list out.
    def look(paths: list[str]) -> tuple[list, ...]:
        """What the page shows of an image."""
        columns = []
        for answer, preview in classifier.answers(named(paths), PREVIEW):
            index, count = foremost(answer), len(answer["cells"][:SHOWN_CELLS])
            choices = gr.update(choices=[(str(n + 1), n) for n in range(count)], value=index, visible=count > 1)
            opacity = gr.update(visible=any(cell["known"] for cell in answer["cells"]))
            field = stage(answer, preview, classifier.reach)
            said = [verdict(answer, index), *probabilities(answer, index)]
            # The field is emptied, ready for the next image.
            columns.append([None, answer, field, choices, *said, opacity])
        return tuple(map(list, zip(*columns, strict=True)))

    def describe(answer: dict, index: int) -> list:
        index = min(max(0, int(index or 0)), max(0, len(answer["cells"]) - 1))
        return [verdict(answer, index), *probabilities(answer, index)]

    def describe_box(answer: dict, event: gr.EventData) -> list:
        return [event.index, *describe(answer, event.index)]

    def classify(image: list[str]) -> list[list[dict]]:
        """Classify the white blood cells of one smear image.

        Returns the type of its foremost cell with calibrated probabilities, or says that it is doubtful or that the
        image shows no smear, and every cell that was found: box, type, probabilities. For research only, no diagnosis.

        Args:
            image: JPEG, PNG, TIFF, BMP, WebP or GIF, at most 256 MB.
        """
        return [[answer for answer, _ in classifier.answers(named(image), THUMBNAIL)]]

    def answers_to_many(sources: Iterator[tuple[str, object]], expected: int, progress):
        """Yields what `Classifier.answers` does, of the first images, and tells how many of the expected are done."""
        images, done = islice(sources, MOST_IMAGES), 0
        while batch := list(islice(images, BATCH)):
            yield from classifier.answers(batch, 640)
            done += len(batch)
            progress((done, max(done, min(MOST_IMAGES, expected))), unit="images")

    def look_at_many(files: list[str], progress=gr.Progress()) -> list:
        sources, answers, pictures = sources_of(files), [], {}
        for answer, preview in answers_to_many(sources, len(files), progress):
            answers.append(answer)
            for cell in answer["cells"]:
                shown = pictures.setdefault(cell["label"], []) if cell["known"] else None
                if shown is not None and len(shown) < SHOWN_CELLS:
                    shown.append(thumbnail(answer, preview, cell))
        left_out = next(sources, None) is not None
        tables = [gr.update(value=table_rows(answers, language), visible=True) for language in (0, 1)]
        return [None, overview(answers, pictures, left_out, classifier.labels), *tables]

    def classify_batch(files: list[str], progress=gr.Progress()) -> list[dict]:
        """Classify the white blood cells of up to 1,000 smear images, or of a ZIP archive of them.

        Returns for each file what `classify` returns for one, in their order; a file that cannot be read is one whose
        `status` is "unreadable", with the reason as its `remark`. For research only, no diagnosis.

        Args:
            files: images or ZIP archives, at most 256 MB each.
        """
        files = files or []
        return [answer for answer, _ in answers_to_many(sources_of(files), len(files), progress)]

    # Gradio hands out files of the working directory and of the one for temporary files only.
    folder = tempfile.TemporaryDirectory(prefix="examples-")
    examples, title = example_images(folder.name, dataset)

    def take_example(event: gr.EventData) -> str:
        return str(Path(folder.name, Path(examples[event.index]).name))

    language = (
        "<button type='button' onclick='document.querySelector(`footer .settings`).click()'>English / 中文</button>"
    )
    with gr.Blocks(title="White blood cells", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(
            f'<header class="masthead"><h1>{both("White blood cells", "白细胞分类")}</h1>'
            f'<p class="use">{both("Research use only, no diagnosis", "仅供研究，不用于诊断")}</p>{language}</header>',
            apply_default_css=False,
        )
        with gr.Tabs():
            with gr.Tab(I18N("wbc.one")), gr.Row():
                with gr.Column(scale=3):
                    image = gr.File(label=I18N("wbc.image"), height=140, elem_classes="drop", elem_id="image")
                    gallery = gr.HTML(
                        examples_row(examples, title), apply_default_css=False, js_on_load=CHOOSE_EXAMPLE
                    )
                    shown = gr.HTML(elem_id="stage", apply_default_css=False, js_on_load=CHOOSE_BY_CLICK)
                    opacity = gr.Slider(
                        0,
                        100,
                        50,
                        step=1,
                        label=I18N("wbc.heat"),
                        info=I18N("wbc.heat_info"),
                        visible=False,
                        elem_id="heat",
                    )
                with gr.Column(scale=2):
                    hint = both(
                        "Drop an image of a stained blood smear, a whole field or a single cell.",
                        "请拖入一张染色血涂片图像（整个视野或单个细胞）。",
                    )
                    said = gr.HTML(f'<p class="hint">{hint}</p>', elem_id="verdict", apply_default_css=False)
                    chosen = gr.Radio([], type="value", label=I18N("wbc.cell"), visible=False, elem_id="cells")
                    shares = [
                        gr.Label(
                            label=I18N("wbc.probabilities"),
                            num_top_classes=len(classifier.labels),
                            show_heading=False,
                            visible=False,
                            elem_classes=language,
                        )
                        for language in ("en", "zh")
                    ]
            with gr.Tab(I18N("wbc.many")):
                files = gr.File(
                    label=I18N("wbc.files"), file_count="multiple", height=180, elem_classes="drop", elem_id="files"
                )
                summary = gr.HTML(elem_id="summary", apply_default_css=False)
                tables = [
                    gr.Dataframe(
                        headers=list(headers),
                        datatype="str",
                        label=I18N("wbc.results"),
                        interactive=False,
                        wrap=True,
                        max_height=480,
                        visible=False,
                        elem_classes=language,
                    )
                    for language, headers in (
                        ("en", ("File", "Type", "Confidence", "Remark")),
                        ("zh", ("文件", "类型", "置信度", "备注")),
                    )
                ]
            with gr.Tab(I18N("wbc.about")):
                gr.HTML(about(classifier), apply_default_css=False)

        # Not a State: those of visitors whose images are looked at together would be mixed up.
        answer = gr.JSON(visible="hidden")
        outputs = [image, answer, shown, chosen, said, *shares, opacity]
        together = {"batch": True, "max_batch_size": BATCH, "concurrency_limit": 1, "concurrency_id": "one image"}
        looking = {**together, "trigger_mode": "always_last", "api_visibility": "private", "show_progress_on": [said]}
        image.upload(look, image, outputs, **looking)
        gallery.click(take_example, None, image, api_visibility="private").then(look, image, outputs, **looking)
        choosing = {"queue": False, "api_visibility": "private"}
        chosen.input(
            describe,
            [answer, chosen],
            [said, *shares],
            js="(answer, index) => { markCell(index); return [answer, index]; }",
            **choosing,
        )
        # Not by a click on the row of cells: that appears a moment after the boxes.
        shown.click(describe_box, answer, [chosen, said, *shares], **choosing)
        opacity.input(
            None, opacity, js="(v) => document.querySelector('.gradio-container').style.setProperty('--heat', v / 100)"
        )
        many = {"concurrency_limit": 1, "concurrency_id": "many images"}
        files.upload(look_at_many, files, [files, summary, *tables], api_visibility="private", **many)

        with gr.Group(visible=False):  # what the API takes and gives
            one, several = gr.File(label="image"), gr.File(label="files", file_count="multiple")
            asked = gr.Button()
            asked.click(classify, one, gr.JSON(label="answer"), api_name="classify", **together)
            asked.click(classify_batch, several, gr.JSON(label="answers"), api_name="classify_batch", **many)
    return page.queue(max_size=WAITING)


def main() -> None:
    # A Space says in its card which model it shows and which dataset its examples are from.
    card = HERE / "README.md"
    named = (metadata_load(card) if card.is_file() else None) or {}
    model = next(iter(named.get("models", [])), str(HERE / "hub" / "checkpoint"))
    dataset = next(iter(named.get("datasets", [])), None)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.environ.get("WBC_MODEL", model), help="a folder or a Hub id")
    parser.add_argument(
        "--dataset",
        default=os.environ.get("WBC_DATASET", dataset),
        help="the id of a dataset on the Hub to take examples from",
    )
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    parser.add_argument(
        "--mcp", action="store_true", help="whether assistants may call it by the Model Context Protocol"
    )
    args = parser.parse_args()
    # Fonts of the visitor's own: the usual ones are fetched from elsewhere. Greys with a contrast above 4.5.
    theme = gr.themes.Default(
        primary_hue="blue", font=["ui-sans-serif", "system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
    )
    build(Classifier(args.model), args.dataset).launch(
        server_name=args.host,
        server_port=args.port,
        max_file_size=MOST_BYTES,
        mcp_server=args.mcp,
        i18n=I18N,
        theme=theme,
        css=CSS,
        head=HEAD,
        ssr_mode=False,
        footer_links=["api", "settings"],
        run_history=False,
    )


if __name__ == "__main__":
    main()
