"""Archives that nobody would make unless to harm, and archives as people make them."""

import io
import struct
import zipfile
import zlib

import pytest

from space import uploads


def archive_of(path, members: dict):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.png": b"", "../../b.png": b""}, "leads out of it"),
        ({"/etc/a.png": b""}, "leads out of it"),
        ({"C:\\\\a.png": b""}, "leads out of it"),
        ({"a/b.ZIP": b""}, "another archive"),
        ({"a.bmp": bytes(3 << 20)}, "unpacks to 3 MiB"),
    ],
)
def test_refuses_archives_that_nobody_would_make(monkeypatch, tmp_path, members, reason):
    monkeypatch.setattr(uploads, "MAX_UNPACKED_BYTES", 2 << 20)
    ((name, error),) = uploads.read_uploads([archive_of(tmp_path / "a.zip", members)])
    assert name == "a.zip"
    assert reason in str(error)


def test_an_archive_that_lies_of_its_sizes_costs_no_memory(monkeypatch, tmp_path):
    path = tmp_path / "a.zip"
    archive_of(path, {"a.bmp": bytes(8 << 20), "b.png": b"no image"})
    content = bytearray(path.read_bytes())
    # Of the central directory's first entry, the size: 8 MiB become 100 bytes.
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    (_, first), (_, second) = uploads.read_uploads([str(path)])
    assert isinstance(first, ValueError)
    assert second.read() == b"no image"
    for damaged in (b"", b"PK\x03\x04 and no more"):
        path.write_bytes(damaged)
        ((name, error),) = uploads.read_uploads([str(path)])
        assert name == "a.zip"
        assert "zip" in str(error).lower()


def archive_of_names(path, names: list[bytes], flag: int = 0, extra: bytes = b""):
    """An archive of files whose names are these bytes, with and without the flag of UTF-8."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number, name in enumerate(names):
            member = zipfile.ZipInfo(f"{number:0{len(name)}d}")
            member.extra = extra
            archive.writestr(member, str(number))
    content = bytearray(content.getvalue())
    for number, name in enumerate(names):
        placeholder = f"{number:0{len(name)}d}".encode()
        for start, at, flags in ((b"PK\x03\x04", 30, 6), (b"PK\x01\x02", 46, 8)):
            begin = next(
                place
                for place in range(len(content))
                if content[place : place + 4] == start and content[place + at :][: len(name)] == placeholder
            )
            content[begin + at : begin + at + len(name)] = name
            content[begin + flags : begin + flags + 2] = flag.to_bytes(2, "little")
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("utf-8", ["中性粒细胞.png", "Präparat.png", "кровь.png"]),
        ("gb18030", ["中性粒细胞.png"]),
        ("gb18030", ["血涂片/淋巴细胞 1.png", "血涂片/未命名.png", "plain.png"]),
        ("big5", ["嗜中性球/血液抹片.png", "嗜中性球/新資料夾.png"]),
        ("cp932", ["血液塗抹標本/リンパ球.png", "好中球.png"]),
        ("cp932", ["患者/表示能力.png"]),  # whose second bytes are backslashes and letters
        ("cp949", ["호중구.png", "혈액 도말/림프구.png"]),
        ("cp866", ["мазок крови/лимфоцит.png", "Новая папка/снимок.png"]),
        ("cp1251", ["мазок крови/лимфоцит.png", "Новая папка/снимок.png"]),
        ("cp437", ["Präparat.png", "Müller/Größe 2.png"]),
        ("cp850", ["São João.png", "Ölimmersion.png"]),
    ],
)
def test_names_without_the_flag_of_utf_8_are_decoded_as_they_were_meant(tmp_path, encoding, names):
    path = archive_of_names(tmp_path / "a.zip", [name.encode(encoding) for name in names])
    read = list(uploads.read_uploads([path]))
    assert [name for name, _ in read] == [f"a.zip/{name}" for name in names]
    assert [content.read() for _, content in read] == [str(number).encode() for number in range(len(names))]


def test_a_name_is_the_one_that_the_archive_states(tmp_path):
    """With the flag it is UTF-8; Info-ZIP's extra field gives it beside the name of the code page."""
    name = "患者.png"
    flagged = archive_of_names(tmp_path / "a.zip", [name.encode(), b"\xce\xb2.png"], flag=0x800)
    assert [name for name, _ in uploads.read_uploads([flagged])] == ["a.zip/患者.png", "a.zip/β.png"]
    for checked, is_stated in ((b"\xd1\xae.png", True), (b"renamed.png", False)):
        field = b"\x01" + zlib.crc32(checked).to_bytes(4, "little") + name.encode()
        extra = struct.pack("<HH", 0x7075, len(field)) + field
        path = archive_of_names(tmp_path / "a.zip", [b"\xd1\xae.png"], extra=extra)
        ((read, _),) = uploads.read_uploads([path])
        assert (read == f"a.zip/{name}") == is_stated


def test_one_wrong_name_does_not_end_the_others(tmp_path):
    wrong = archive_of_names(tmp_path / "a.zip", [b"\xff.png"], flag=0x800)
    nameless = archive_of_names(tmp_path / "b.zip", [b"./."])
    (_, first), (_, second), (name, third) = uploads.read_uploads([wrong, nameless, "c.png"])
    assert "not in UTF-8 as it states" in str(first)
    assert "has no name" in str(second)
    assert (name, third) == ("c.png", "c.png")


def test_files_that_are_plainly_no_images_are_left_out(tmp_path):
    clutter = ["Thumbs.db", "desktop.ini", "notes.TXT", "a/labels.csv", "a/a.xml", "__MACOSX/._a.png", "a/.DS_Store"]
    mixed = archive_of(tmp_path / "a.zip", {**dict.fromkeys(clutter, b"x"), "a/a.png": b"x", "a/b.svg": b"x"})
    assert [name for name, _ in uploads.read_uploads([mixed])] == ["a.zip/a/a.png", "a.zip/a/b.svg"]
    only = archive_of(tmp_path / "b.zip", dict.fromkeys(clutter, b"x"))
    ((name, error),) = uploads.read_uploads([only])
    assert (name, str(error)) == ("b.zip", "it holds no image")


def test_an_archive_that_cannot_be_opened_does_not_end_the_others(tmp_path):
    good = archive_of(tmp_path / "good.zip", {"a.png": b"x"})
    (name, error), (member, _) = uploads.read_uploads([str(tmp_path / "gone.zip"), good])
    assert (name, member) == ("gone.zip", "good.zip/a.png")
    assert str(tmp_path) not in str(error)  # which is the server's


def test_counts_what_it_yields_without_unpacking_it(monkeypatch, tmp_path):
    good = archive_of(tmp_path / "good.zip", {"a.png": b"x", "b/b.png": b"x", "notes.txt": b"x", "c/": b""})
    unsafe = archive_of(tmp_path / "unsafe.zip", {"a.png": b"x", "../b.png": b"x"})
    empty = archive_of(tmp_path / "empty.zip", {"notes.txt": b"x"})
    paths = [good, unsafe, empty, str(tmp_path / "gone.zip"), str(tmp_path / "image.png")]
    yielded = [len(list(uploads.read_uploads([path]))) for path in paths]
    monkeypatch.setattr(uploads, "_unpack", None)
    assert [uploads.count_images([path]) for path in paths] == yielded == [2, 1, 1, 1, 1]
