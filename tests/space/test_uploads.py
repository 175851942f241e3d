"""Archives that nobody would make, unless to harm."""

import zipfile

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
