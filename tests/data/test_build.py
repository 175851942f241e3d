"""Building, saving, downloading and loading of data sets, on tiny folders made here.

WBC_BCCD_DIR and WBC_PBC_DIR, the folders of the published images, switch on the tests at the end.
"""

import http.server
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image, ImageFile

from hub.__main__ import main
from hub.data import bccd as bccd_module
from hub.data import download as download_module
from hub.data.bccd import BCCD_CLASSES, BCCD_PUBLISHED, BCCD_SPLITS, bccd_differences, build_bccd, download_bccd
from hub.data.columns import class_counts, counts_rows, features
from hub.data.download import download
from hub.data.load import load, save
from hub.data.pbc import PBC_CLASSES, build_pbc
from hub.evaluation.format import text_table
from hub.files import UserError
from hub.publish import dataset as publish_dataset

ROOT = Path(__file__).resolve().parents[2]
BCCD_COUNTS = {"TRAIN": 3, "TEST": 2, "TEST_SIMPLE": 1}


def jpeg(shade=0, size=(24, 16)):
    """An encoded image; different for every `shade` from 0 to 255."""
    content = io.BytesIO()
    Image.effect_noise(size, 40).point(lambda value: (value + shade) % 256).convert("RGB").save(content, "JPEG")
    return content.getvalue()


def make_bccd(folder):
    """BCCD in small: 3, 2 and 1 images of each class in TRAIN, TEST and TEST_SIMPLE."""
    for split, count in BCCD_COUNTS.items():
        for position, name in enumerate(BCCD_CLASSES):
            (folder / split / name.upper()).mkdir(parents=True)
            for index in range(count):
                (folder / split / name.upper() / f"_{index}_{position}.jpeg").write_bytes(jpeg(17 * index + position))
    return folder


def make_pbc(folder, count=10):
    for name in PBC_CLASSES:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{name[:2].upper()}_{index:03d}.jpg").write_bytes(jpeg(index))
    return folder


def build(source):
    """The data set alone, without what was found out about its photographs."""
    return build_bccd(source)[0]


def counts(dataset):
    return {split: list(class_counts(part).values()) for split, part in dataset.items()}


@pytest.fixture
def bccd(tmp_path):
    return make_bccd(tmp_path / "images")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


# --- Building ---


@pytest.mark.parametrize(
    "place", ["", "images", "_inputs/images", "wbc-1a2b/_inputs/images", "dataset2-master/dataset2-master/images"]
)
def test_bccd_is_found_in_every_published_layout(tmp_path, place):
    make_bccd(tmp_path / "raw" / place)
    dataset = build(tmp_path / "raw")
    assert counts(dataset) == {"train": [3] * 4, "test": [2] * 4, "test_simple": [1] * 4}
    for part in dataset.values():
        assert part.features == features(BCCD_CLASSES, photographs=True)
        assert set(part["photograph"][:]) == set(part["match_error"][:]) == {None}
    assert dataset["train"][0]["file_name"] == "TRAIN/EOSINOPHIL/_0_0.jpeg"


def test_bccd_rows_are_the_files_in_order(bccd):
    part = build(bccd)["test"]
    names = part["file_name"][:]
    assert names == sorted(names)
    assert len(set(names)) == 8
    for row in part.cast_column("image", datasets.Image(decode=False)):
        assert row["image"]["bytes"] == (bccd / row["file_name"]).read_bytes()
        assert row["file_name"].split("/")[1].lower() == BCCD_CLASSES[row["label"]]


def test_class_folders_match_in_any_case_and_hidden_files_are_skipped(bccd, caplog):
    (bccd / "TRAIN" / "MONOCYTE").rename(bccd / "TRAIN" / "Monocyte")
    (bccd / "TRAIN" / "NEUTROPHIL" / ".DS_Store").write_bytes(b"x")
    (bccd / "TRAIN" / "NEUTROPHIL" / "._0_3.jpeg").write_bytes(b"x")
    (bccd / "TRAIN" / ".hidden").mkdir()
    assert counts(build(bccd))["train"] == [3] * 4
    (message,) = caplog.messages
    assert str(bccd) in message
    assert "Original_Images" in message
    assert "no validation split" in message


@pytest.mark.parametrize("lenient", [False, True])
def test_what_does_not_decode_is_named_and_left_out(bccd, caplog, monkeypatch, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    folder = bccd / "TRAIN" / "LYMPHOCYTE"
    whole = jpeg(9, (96, 96))
    (folder / "cut.jpeg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpeg").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    (folder / "folder").mkdir()
    dataset = build(bccd)
    assert counts(dataset)["train"] == [3] * 4
    assert ImageFile.LOAD_TRUNCATED_IMAGES == lenient
    for name, reason in {
        "cut.jpeg": "truncated",
        "empty.jpeg": "not an image",
        "notes.txt": "not an image",
        "folder": "directory",
    }.items():
        assert any(str(folder / name) in message and reason in message for message in caplog.messages)
    assert "4 files were left out" in caplog.messages


def test_bccd_errors_name_the_folder_and_what_was_looked_for(bccd, tmp_path):
    def message():
        with pytest.raises(UserError) as error:
            build(bccd)
        return str(error.value)

    (bccd / "TEST" / "BASOPHIL").mkdir()
    assert str(bccd / "TEST" / "BASOPHIL") in message()
    assert "eosinophil, lymphocyte" in message()
    (bccd / "TEST" / "BASOPHIL").rmdir()

    shutil.move(bccd / "TEST" / "MONOCYTE", tmp_path / "kept")
    assert f"{bccd / 'TEST'} holds no class folder monocyte" in message()
    (bccd / "TEST" / "MONOCYTE").mkdir()
    assert f"{bccd / 'TEST' / 'MONOCYTE'} is empty" in message()
    (bccd / "TEST" / "MONOCYTE" / "a.jpeg").write_bytes(b"damaged")
    assert "split test" in message()
    assert "no readable image of monocyte" in message()

    shutil.rmtree(bccd / "TEST_SIMPLE")
    assert str(bccd) in message()
    assert "TEST_SIMPLE" in message()


def test_a_source_without_data_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such folder: .*nowhere"):
        build(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"{tmp_path} holds none of the folders test, test_simple, train"):
        build(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} holds none of the folders basophil"):
        build_pbc(tmp_path)


def test_two_data_sets_in_one_source_are_an_error(tmp_path):
    make_bccd(tmp_path / "a" / "images")
    make_bccd(tmp_path / "b" / "images")
    with pytest.raises(UserError, match="several data sets"):
        build(tmp_path)


@pytest.mark.parametrize("place", ["", "PBC_dataset_normal_DIB"])
def test_pbc_is_split_by_class_and_seed(tmp_path, place):
    make_pbc(tmp_path / "raw" / place)
    dataset = build_pbc(tmp_path / "raw", seed=1)
    assert counts(dataset) == {"train": [8] * 8, "validation": [1] * 8, "test": [1] * 8}
    assert dataset["train"].features == features(PBC_CLASSES)
    names = {split: part["file_name"][:] for split, part in dataset.items()}
    assert len(set(sum(names.values(), []))) == 80
    assert {split: part["file_name"][:] for split, part in build_pbc(tmp_path / "raw", seed=1).items()} == names
    assert build_pbc(tmp_path / "raw", seed=2)["test"]["file_name"][:] != names["test"]
    for row in dataset["test"]:
        assert row["file_name"].split("/")[0] == PBC_CLASSES[row["label"]]


def test_pbc_errors_name_the_folder(tmp_path):
    make_pbc(tmp_path / "raw")
    (tmp_path / "raw" / "ig" / "IG_000.jpg").write_bytes(b"damaged")
    with pytest.raises(UserError, match="9 readable images of ig"):
        build_pbc(tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / "ig")
    with pytest.raises(UserError, match=f"{tmp_path / 'raw'} holds no class folder ig"):
        build_pbc(tmp_path / "raw")


def test_shared_classes_of_bccd_and_pbc_have_one_name():
    assert set(BCCD_CLASSES) < set(PBC_CLASSES)
    assert list(PBC_CLASSES) == sorted(PBC_CLASSES)


def test_counts_table_is_aligned_and_differences_are_named(bccd):
    dataset = build(bccd)
    lines = text_table(counts_rows(dataset)).splitlines()
    assert lines[0].split() == ["train", "test", "test_simple"]
    assert lines[1].split() == ["eosinophil", "3", "2", "1"]
    assert lines[-1].split() == ["total", "12", "8", "4"]
    assert len({len(line) for line in lines}) == 1
    assert "test monocyte: 2 images, published 620 (-618)" in bccd_differences(dataset)


# --- Saving ---


def test_saved_and_loaded_data_are_the_same(bccd, tmp_path):
    dataset = build(bccd)
    save(dataset, tmp_path / "new" / "out")
    loaded = load(tmp_path / "new" / "out")
    assert os.listdir(tmp_path / "new") == ["out"]
    assert loaded["train"].features == dataset["train"].features
    assert loaded["test"].with_format("arrow")[:] == dataset["test"].with_format("arrow")[:]


def test_a_filled_output_is_refused_and_kept(bccd, tmp_path):
    dataset = build(bccd)
    (tmp_path / "out").mkdir()
    save(dataset, tmp_path / "out")
    before = sorted(os.listdir(tmp_path / "out"))
    for output in (tmp_path / "out", bccd / "TRAIN" / "MONOCYTE" / "_0_2.jpeg"):
        with pytest.raises(UserError, match=f"{output} exists .*; remove it or name another"):
            save(dataset, output)
    assert sorted(os.listdir(tmp_path / "out")) == before


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, OSError])
def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch, failure):
    def fail(self, path):
        Path(path).mkdir()
        raise failure

    monkeypatch.setattr(DatasetDict, "save_to_disk", fail)
    (tmp_path / "place").mkdir()
    with pytest.raises(failure):
        save(DatasetDict(), tmp_path / "place" / "out")
    assert not os.listdir(tmp_path / "place")


# A build that stops in the middle of saving and says so.
STUCK = """
import runpy, sys, time
from pathlib import Path
from datasets import DatasetDict
def stuck(self, path):
    Path(path).mkdir()
    Path(path, "half").write_text("x")
    print("saving", flush=True)
    time.sleep(60)
DatasetDict.save_to_disk = stuck
sys.argv[0] = "hub"
runpy.run_module("hub", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_killed_build_leaves_no_output(bccd, tmp_path, number, status):
    place = tmp_path / "place"
    arguments = ["dataset", "build", "bccd", "--source", str(bccd), "--output", str(place / "out")]
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts tests in the background has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            while "saving" not in (line := process.stdout.readline()):
                assert line, process.stderr.read()
            assert list(place.glob(".out.partial-*"))
            process.send_signal(number)
            errors = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert process.returncode == status
    assert "Traceback" not in errors
    assert not (place / "out").exists()
    if number == signal.SIGKILL:
        assert os.listdir(place) == [f".out.partial-{process.pid}"]
        save(build(bccd), place / "out")
        assert os.listdir(place) == ["out"]
    else:
        assert not os.listdir(place)


def test_the_partial_copy_of_a_living_process_stays(bccd, tmp_path):
    living = tmp_path / f".out.partial-{os.getppid()}"
    living.mkdir()
    save(build(bccd), tmp_path / "out")
    assert living.exists()


# --- Command line ---


def run_hub(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "hub", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_the_command_builds_a_data_set(bccd, tmp_path):
    (bccd / "TRAIN" / "MONOCYTE" / "broken.jpeg").write_bytes(b"x")
    result = run_hub("dataset", "build", "bccd", "--source", bccd, "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "total          12     8            4" in result.stdout
    assert "train monocyte: 3 images, published 2,478 (-2,475)" in result.stdout
    assert str(bccd / "TRAIN" / "MONOCYTE" / "broken.jpeg") in result.stderr
    assert counts(load(tmp_path / "out"))["test_simple"] == [1] * 4


def test_the_command_builds_pbc_with_a_seed(tmp_path, capsys):
    make_pbc(tmp_path / "raw")
    arguments = ["dataset", "build", "pbc", "--source", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--seed", "5"]) == 0
    assert "ig " in capsys.readouterr().out
    expected = build_pbc(tmp_path / "raw", seed=5)["test"]["file_name"][:]
    assert load(tmp_path / "out")["test"]["file_name"][:] == expected


def test_a_user_error_is_one_line(bccd, tmp_path):
    result = run_hub("dataset", "build", "bccd", "--source", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert result.returncode == 1
    assert not result.stdout
    assert result.stderr == f"error: no such folder: {tmp_path / 'nowhere'}\n"


def test_a_filled_output_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("x")
    monkeypatch.setattr(publish_dataset, "build_bccd", lambda *arguments: pytest.fail("built"))
    assert main(["dataset", "build", "bccd", "--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'out'} exists and is not empty")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["pbc", "--download"], "10.17632/snkd93bnjr.1"),
        (["bccd"], "one of the arguments --source --download is required"),
        (["bccd", "--bccd", "x"], "bccd takes --source DIR"),
        (["blood8", "--bccd", "x"], "blood8 needs --bccd DIR and --pbc DIR"),
        (["blood8", "--bccd", "x", "--pbc", "y", "--download"], "neither --source nor --download"),
        (["bccd", "--source", "x", "--download"], "not allowed with"),
        (["other", "--download"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["dataset", "build", *arguments, "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


# --- Download ---


class Server:
    """An HTTP server of one file that misbehaves as told; it records the Range header of every request."""

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
    (tmp_path / "raw" / "wbc-classification-1a2b" / "README.md").write_text("read me")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for path in sorted((tmp_path / "raw").rglob("*")):
            file.write(path, path.relative_to(tmp_path / "raw"))
        file.writestr("wbc-classification-1a2b/_inputs/images/TRAIN/../../../../../../evil.jpeg", jpeg())
        file.writestr("../_inputs/images/TRAIN/MONOCYTE/evil.jpeg", jpeg())
    published = {split: dict.fromkeys(BCCD_CLASSES, BCCD_COUNTS[folder]) for split, folder in BCCD_SPLITS.items()}
    monkeypatch.setattr(bccd_module, "BCCD_PUBLISHED", published)
    return content.getvalue()


def test_download_builds_and_keeps_the_archive(server, archive, tmp_path):
    server.content = archive
    dataset, registration = download_bccd(server.url, tmp_path / "cache")
    assert registration is None
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
    with pytest.raises(ConnectionError, match="500.*5 attempts"):
        download(server.url, tmp_path / "file")
    assert server.pauses == [1, 2, 4, 8]
    assert not os.listdir(tmp_path)


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
        monkeypatch.setitem(BCCD_PUBLISHED["test"], "monocyte", 3)
    with pytest.raises(UserError, match="damaged and was deleted"):
        download_bccd(server.url, tmp_path / "cache")
    assert not os.listdir(tmp_path / "cache")


# --- Loading ---


def make_plain(folder, layout):
    """Two images of each of two classes in every folder of `layout`."""
    for split in layout:
        for position, name in enumerate(("band", "segmented")):
            (folder / split / name).mkdir(parents=True)
            for index in range(2):
                (folder / split / name / f"test_{index}.jpg").write_bytes(jpeg(20 * index + position))
    return folder


def test_without_a_name_cells_are_drawn():
    dataset = load()
    assert {split: part.num_rows for split, part in dataset.items()} == {"train": 256, "test": 64}
    assert dataset["train"].features == features(BCCD_CLASSES)


@pytest.mark.parametrize(
    "layout, splits",
    [
        ([""], {"train"}),
        (["train", "test"], {"train", "test"}),
        (["TRAIN", "val", "TEST", "TEST_SIMPLE"], {"train", "validation", "test", "test_simple"}),
    ],
)
def test_a_plain_folder_is_loaded(tmp_path, layout, splits):
    dataset = load(make_plain(tmp_path / "cells", layout))
    assert set(dataset) == splits
    for part in dataset.values():
        assert class_counts(part) == {"band": 2, "segmented": 2}
        assert part[0]["image"].size == (24, 16)


def test_unreadable_files_of_a_plain_folder_are_left_out(tmp_path, caplog):
    folder = make_plain(tmp_path / "cells", ["train", "test"])
    broken = folder / "train" / "band" / "test_0.jpg"
    broken.write_bytes(jpeg(1, (96, 96))[:900])
    dataset = load(folder)
    assert counts(dataset) == {"train": [1, 2], "test": [2, 2]}
    assert any(str(broken) in message for message in caplog.messages)
    assert sum(np.asarray(row["image"]).shape == (16, 24, 3) for row in dataset["train"]) == 3


def test_a_folder_beside_splits_is_ignored_with_a_warning(tmp_path, caplog):
    folder = make_plain(tmp_path / "cells", ["train", "test", "rejected"])
    assert set(load(folder)) == {"train", "test"}
    assert str(folder / "rejected") in caplog.text


def test_a_plain_folder_that_cannot_be_used_is_explained(tmp_path):
    make_plain(tmp_path / "deep" / "inner", ["train", "test"])
    with pytest.raises(UserError, match=f"name the folder {tmp_path / 'deep' / 'inner'}"):
        load(tmp_path / "deep")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.jpg").write_bytes(jpeg())
    with pytest.raises(UserError, match=r"flat has the columns image \(Image\); .*two classes or more"):
        load(tmp_path / "flat")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is neither a saved data set nor a folder of images"):
        load(tmp_path / "empty")
    (tmp_path / "damaged" / "a").mkdir(parents=True)
    (tmp_path / "damaged" / "b").mkdir()
    for name in "ab":
        (tmp_path / "damaged" / name / "x.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="split train of .*damaged has no rows"):
        load(tmp_path / "damaged")
    with pytest.raises(UserError, match="has no configuration 'full'"):
        load(tmp_path / "flat", "full")


def test_a_saved_single_split_becomes_train(bccd, tmp_path):
    build(bccd)["test"].save_to_disk(tmp_path / "single")
    assert counts(load(str(tmp_path / "single"))) == {"train": [2] * 4}


def test_a_saved_data_set_of_another_form_is_explained(bccd, tmp_path):
    dataset = build(bccd)
    renamed = dataset.rename_column("label", "labels")
    renamed.save_to_disk(tmp_path / "renamed")
    with pytest.raises(UserError, match=r"labels \(ClassLabel\).*were expected: rename columns"):
        load(tmp_path / "renamed")
    dataset.cast_column("label", Value("int64")).save_to_disk(tmp_path / "cast")
    with pytest.raises(UserError, match=r"label \(Value\)"):
        load(tmp_path / "cast")
    dataset.save_to_disk(tmp_path / "empty")
    # What save_to_disk makes of a split without rows, in the versions that can write one.
    state = tmp_path / "empty" / "test" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "_data_files": []}))
    with pytest.raises(UserError, match="split .*test has no rows"):
        load(tmp_path / "empty")
    other = dataset["test"].cast(Features({**dataset["test"].features, "label": ClassLabel(names=list("abcd"))}))
    DatasetDict({**dataset, "test": other}).save_to_disk(tmp_path / "other")
    with pytest.raises(UserError, match="differ in their classes"):
        load(tmp_path / "other")
    dataset.save_to_disk(tmp_path / "damaged")
    shutil.rmtree(tmp_path / "damaged" / "test")
    with pytest.raises(UserError, match="damaged saved data set"):
        load(tmp_path / "damaged")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "../nowhere"])
def test_a_missing_folder_is_called_missing(name):
    with pytest.raises(UserError, match="no such folder: .*nowhere"):
        load(name)


def test_a_file_is_no_data_set(tmp_path):
    (tmp_path / "cells.zip").write_bytes(b"x")
    with pytest.raises(UserError, match="not a folder"):
        load(tmp_path / "cells.zip")


def test_a_hub_data_set_is_loaded_by_id(monkeypatch, bccd):
    dataset = build(bccd)
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: calls.append(args) or dataset)
    loaded = load("someone/cells", "full")
    assert loaded["train"]["file_name"][:] == dataset["train"]["file_name"][:]
    assert calls == [("someone/cells", "full")]
    bare = DatasetDict(train=Dataset.from_dict({"img": [1]}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: bare)
    with pytest.raises(UserError, match=r"the Hub data set someone/cells has the columns img \(Value\)"):
        load("someone/cells")


def test_rows_of_the_hub_without_image_or_label_are_handled(monkeypatch, bccd, caplog):
    dataset = build(bccd)
    encoded = dataset["train"].cast_column("image", datasets.Image(decode=False))
    rows = encoded.to_list()
    rows[1]["image"] = {"bytes": rows[1]["image"]["bytes"][:-40], "path": "torn.jpeg"}
    broken = DatasetDict(train=Dataset.from_list(rows, features=dataset["train"].features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: broken)
    assert len(load("someone/cells")["train"]) == len(rows) - 1
    assert "torn.jpeg" in caplog.text

    rows[0]["label"] = -1
    unlabelled = DatasetDict(train=Dataset.from_list(rows, features=dataset["train"].features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: unlabelled)
    with pytest.raises(UserError, match="split train of the Hub data set someone/cells has 1 rows without a label"):
        load("someone/cells")


def test_an_unreachable_hub_data_set_is_explained(monkeypatch):
    def refuse(*args):
        raise datasets.exceptions.DatasetNotFoundError("no such thing\nat all")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError) as error:
        load("someone/cells", "full")
    message = str(error.value)
    for part in ("someone/cells (configuration full)", "saved data set", "folder of images", "id of a Hub", "no such"):
        assert part in message
    assert "\n" not in message


# --- The published images ---


@pytest.mark.skipif("WBC_PBC_DIR" not in os.environ, reason="WBC_PBC_DIR is not set")
def test_published_pbc_has_the_published_counts():
    dataset = build_pbc(os.environ["WBC_PBC_DIR"])
    assert np.sum(list(counts(dataset).values()), axis=0).tolist() == [
        1218, 3117, 1551, 2895, 1214, 1420, 3329, 2348,
    ]  # fmt: skip
    assert [dataset[split].num_rows for split in ("train", "validation", "test")] == [13673, 1709, 1710]
