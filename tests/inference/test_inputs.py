"""What `hub predict` finds among files and folders: every file has an answer, whatever it is."""

import os
from pathlib import Path

import pytest
from PIL import Image

from hub.files import UserError
from hub.inference.inputs import Reader, find_inputs, open_archives, readable_name


def found(folder, *paths):
    """The status of each input by its path in a folder, and the number of files left out."""
    inputs, left_out = find_inputs([folder / path for path in paths] or [folder])
    reader, statuses = Reader(), {}
    for item in open_archives(inputs):
        image = reader.read(item)
        statuses[os.path.relpath(item.name, folder)] = "read" if image else item.status
    return statuses, left_out


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "smears" / "a.png"
    path.parent.mkdir()
    Image.new("RGB", (60, 60), "white").save(path)
    return path


def test_files_are_tried_by_their_content(image):
    folder = image.parent
    content = image.read_bytes()
    for name in ("without ending", "2026.03.01", "photo.jpg_large", "slide.svs", "slide.NDPI"):
        (folder / name).write_bytes(content)
    for name in ("truncated", "truncated.png", "truncated.dat"):
        (folder / name).write_bytes(content[:60])
    for name in ("drawing.svg", "paper.pdf", "LICENSE", "broken.JPG"):
        (folder / name).write_text("no image")
    statuses, left_out = found(folder)
    assert left_out == 0
    read = {"a.png", "without ending", "2026.03.01", "photo.jpg_large"}
    no_image = {"slide.svs", "slide.NDPI", "drawing.svg", "paper.pdf", "LICENSE"}
    assert statuses == {
        **dict.fromkeys(read, "read"),
        **dict.fromkeys(no_image, "not an image"),
        **dict.fromkeys(("truncated", "truncated.png", "truncated.dat", "broken.JPG"), "unreadable"),
    }


def test_what_is_plainly_no_image_is_left_out_and_counted(image):
    folder = image.parent
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._a.png", "a.txt", "a.CSV", "a.xml", "a.json", "README.md"):
        (folder / name).write_text("no image")
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir" / "thumbnail.png").write_bytes(image.read_bytes())
    assert found(folder) == ({"a.png": "read"}, 10)
    # A file that was named is tried, and has an answer.
    assert found(folder, "a.txt", "._a.png") == ({"a.txt": "not an image", "._a.png": "unreadable"}, 0)


def test_links_end_and_nothing_is_counted_twice(image):
    folder = image.parent
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.png").write_bytes(image.read_bytes())
    for name, target in {"other": elsewhere, "up": ".", "self": "self", "dead.png": "gone", "z.png": "a.png"}.items():
        (folder / name).symlink_to(target)
    statuses, _ = found(folder)
    assert statuses == {
        "a.png": "read",
        "dead.png": "unreadable",
        "other/b.png": "read",
        "self": "unreadable",
        "up": "duplicate",
        "z.png": "duplicate",
    }
    inputs, _ = find_inputs([image, image, folder / "up" / "a.png", folder])
    assert [item.status for item in inputs[:3]] == ["", "duplicate", "duplicate"]
    assert sum(not item.status for item in inputs) == 2


def test_what_cannot_be_opened_has_an_answer(image, monkeypatch):
    folder = image.parent
    (folder / "closed").mkdir()
    os.mkfifo(folder / "pipe.jpg")  # opening it would wait for ever
    (folder / "deep").mkdir()

    iterdir = Path.iterdir

    def refuse(self):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    statuses, _ = found(folder)
    assert statuses == {"a.png": "read", "closed": "unreadable", "pipe.jpg": "not an image"}
    assert found(folder, "gone.png", "a.png")[0] == {"gone.png": "unreadable", "a.png": "read"}
    with pytest.raises(UserError, match=r"no such file or folder: .*gone\.png"):
        find_inputs([folder / "gone.png"])


def test_names_are_readable():
    assert readable_name(os.fsdecode("Präparat 中".encode())) == "Präparat 中"
    assert readable_name(os.fsdecode(b"Pr\xe4parat")) == r"Pr\xe4parat"
