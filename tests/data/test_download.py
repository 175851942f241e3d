"""Downloads that break off, and the archive of BCCD, from a server on loopback."""

import http.server
import io
import os
import threading
import zipfile

import pytest

from hub.__main__ import main
from hub.data import bccd as bccd_module
from hub.data import download as download_module
from hub.data.bccd import BCCD, BCCD_CLASSES, BCCD_SPLITS, download_bccd
from hub.data.columns import to_datasets
from hub.data.download import download
from hub.data.load import load
from hub.files import UserError
from tests.raw_folders import BCCD_COUNTS, counts, jpeg, make_bccd


class Server:
    """An HTTP server of one file that misbehaves on demand; it records the Range header of every request."""

    def __init__(self):
        self.content = b""
        self.ranges = []
        self.break_after = []  # for each of the next requests, the number of bytes after which the connection drops
        self.statuses = []  # for each of the next requests, an error to answer
        self.knows_ranges = True
        self.sends_length = True
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/archive.zip"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, handler):
        asked = handler.headers["Range"]
        self.ranges.append(asked)
        if self.statuses:
            return handler.send_error(self.statuses.pop(0))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.knows_ranges else 0
        if start and start >= len(self.content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.content)}")
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.sends_length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.break_after.pop(0)] if self.break_after else body)


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    pauses = []
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    server = Server()
    server.pauses = pauses
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """The bytes of a small archive laid out as the published one; its counts pass for the published ones."""
    make_bccd(tmp_path / "raw" / "wbc-classification-1a2b" / "_inputs" / "images")
    (tmp_path / "raw" / "wbc-classification-1a2b" / "README.md").write_text("read me", encoding="utf-8")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for path in sorted((tmp_path / "raw").rglob("*")):
            file.write(path, path.relative_to(tmp_path / "raw"))
        file.writestr("wbc-classification-1a2b/_inputs/images/TRAIN/../../../../../../evil.jpeg", jpeg())
        file.writestr("../_inputs/images/TRAIN/MONOCYTE/evil.jpeg", jpeg())
    published = {split: dict.fromkeys(BCCD_CLASSES, BCCD_COUNTS[folder]) for split, folder in BCCD_SPLITS.items()}
    monkeypatch.setattr(bccd_module, "BCCD_PUBLISHED", published)
    return content.getvalue()


# --- Any file ---


def test_a_broken_download_is_resumed(server, tmp_path):
    server.content = os.urandom(3_000_000)
    server.break_after = [1_000_000, 500_000]
    download(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.pauses == [1, 2]
    assert os.listdir(tmp_path) == ["file"]


def test_a_later_call_resumes(server, tmp_path):
    server.content = os.urandom(3_000)
    (tmp_path / "file.incomplete").write_bytes(server.content[:1_200])
    download(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content
    assert server.ranges == ["bytes=1200-"]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.content = os.urandom(3_000)
    server.break_after = [1_000]
    server.knows_ranges = False
    download(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content
    assert server.ranges == [None, "bytes=1000-"]


def test_a_server_without_content_length_is_fine(server, tmp_path):
    server.content = os.urandom(3_000)
    server.sends_length = False
    download(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content


def test_a_complete_incomplete_file_is_taken(server, tmp_path):
    server.content = os.urandom(3_000)
    (tmp_path / "file.incomplete").write_bytes(server.content)
    download(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content
    assert server.ranges == ["bytes=3000-"]


def test_a_too_long_incomplete_file_starts_over(server, tmp_path):
    server.content = os.urandom(3_000)
    (tmp_path / "file.incomplete").write_bytes(bytes(4_000))
    download(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.content
    assert server.ranges == ["bytes=4000-", None]


def test_missing_file_and_overload(server, tmp_path):
    server.content = b"content"
    server.statuses = [404]
    with pytest.raises(UserError, match=f"{server.url}: the server answered 404"):
        download(server.url, tmp_path / "file")
    assert len(server.ranges) == 1
    server.statuses = [503, 429]
    download(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert server.pauses == [1, 2]


def test_a_dead_server_is_an_error_after_some_attempts(server, tmp_path):
    server.statuses = [500] * 9
    with pytest.raises(ConnectionError, match=r"500.*5 attempts"):
        download(server.url, tmp_path / "file")
    assert server.pauses == [1, 2, 4, 8]
    assert not os.listdir(tmp_path)


# --- The archive of BCCD ---


def test_download_builds_and_keeps_the_archive(server, archive, tmp_path):
    server.content = archive
    reading = download_bccd(server.url, tmp_path / "cache")
    dataset = to_datasets(reading.splits, BCCD.columns)
    assert reading.registration is None
    assert counts(dataset) == {"train": [3] * 4, "test": [2] * 4, "test_simple": [1] * 4}
    assert [path.read_bytes() for path in (tmp_path / "cache").iterdir()] == [archive]
    assert not list(tmp_path.rglob("evil.jpeg"))
    download_bccd(server.url, tmp_path / "cache")
    assert server.ranges == [None]


def test_the_command_downloads(server, archive, tmp_path, monkeypatch):
    server.content = archive
    monkeypatch.setattr(download_bccd, "__defaults__", (server.url, None, 0))
    assert main(["dataset", "build", "bccd", "--download", "--output", str(tmp_path / "out")]) == 0
    assert counts(load(tmp_path / "out"))["train"] == [3] * 4


@pytest.mark.parametrize("damage", ["cut", "flipped", "page", "fewer"])
def test_a_damaged_archive_is_deleted(server, archive, tmp_path, monkeypatch, damage):
    middle = archive.index(b"\xff\xd8") + 300
    server.content = {
        "cut": archive[: len(archive) // 2],
        "flipped": archive[:middle] + bytes([archive[middle] ^ 255]) + archive[middle + 1 :],
        "page": b"<html>log in</html>",
        "fewer": archive,
    }[damage]
    if damage == "fewer":
        monkeypatch.setitem(bccd_module.BCCD_PUBLISHED["test"], "monocyte", 3)
    with pytest.raises(UserError, match="damaged and was deleted"):
        download_bccd(server.url, tmp_path / "cache")
    assert not os.listdir(tmp_path / "cache")
