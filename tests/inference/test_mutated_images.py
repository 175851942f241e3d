"""Damaged files of all formats: each has an answer, and nothing ends the run, hangs or grows."""

import io
import random

from hub.data.synthetic import draw_field
from hub.inference.predict import predict
from tests.inference.tables import table

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
FILES = 25  # of each format


def encoded(form):
    file = io.BytesIO()
    draw_field("monocyte", 1, (120, 90)).save(file, form)
    return file.getvalue()


def mutated(content, draw):
    """A file that was cut off, or in which bytes, numbers or whole parts are others."""
    content = bytearray(content)
    match draw.randrange(4):
        case 0:
            return content[: draw.randrange(len(content))]
        case 1:
            for _ in range(draw.choice((1, 4, 64))):
                content[draw.randrange(len(content))] = draw.randrange(256)
        case 2:  # of the head, where the sizes stand
            start = draw.randrange(min(64, len(content)))
            content[start : start + 2] = draw.choice((b"\0\0", b"\xff\xff", b"\0\1", b"\x7f\xff"))
        case 3:
            start, end = sorted(draw.randrange(len(content)) for _ in range(2))
            content[draw.randrange(len(content)) : 0] = content[start:end]
    return content


def test_each_mutated_file_has_an_answer(model, tmp_path):
    draw, folder = random.Random(0), tmp_path / "files"
    folder.mkdir()
    for form in FORMATS:
        content = encoded(form)
        (folder / f"{form}-whole.img").write_bytes(content)
        for number in range(FILES):
            (folder / f"{form}-{number:02d}.img").write_bytes(mutated(content, draw))
    found = predict([folder], model, tmp_path / "out", workers=1)
    rows = table(tmp_path / "out")
    answers = {row["file"]: (row["status"], row["reason"]) for row in rows}
    assert len(answers) == len(FORMATS) * (FILES + 1)
    assert {status for status, _ in answers.values()} <= {"ok", "no cell", "unreadable", "not an image"}
    for name, (status, reason) in answers.items():
        if "whole" in name:
            assert status in ("ok", "no cell"), (name, reason)
        assert reason or status in ("ok", "no cell"), name
    assert found["unreadable"] + found["not_images"] > 50  # the mutations did damage
