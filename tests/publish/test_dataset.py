"""The command that builds a data set: what it prints, refuses and leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub.__main__ import main
from hub.data.bccd import build_bccd
from hub.data.load import load, save
from hub.data.pbc import build_pbc
from hub.data.publisher import Publisher
from tests.raw_folders import counts, make_pbc

ROOT = Path(__file__).resolve().parents[2]


# A process that imports once, then forks a build for each line that it reads: one that stops in the middle of saving.
# It prints the build's process id, and its exit status.
BUILDS = """
import json, os, runpy, sys, time
from pathlib import Path
from datasets import DatasetDict
import hub.publish.dataset

def stuck(self, path):
    Path(path).mkdir()
    Path(path, "half").touch()
    print("saving", flush=True)
    time.sleep(60)

DatasetDict.save_to_disk = stuck
for line in sys.stdin:
    arguments, output, errors = json.loads(line)
    build = os.fork()
    if not build:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = ["hub", *arguments]
        runpy.run_module("hub", run_name="__main__", alter_sys=True)
    print(build, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(build, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def builds():
    """A process of `BUILDS`."""
    with subprocess.Popen(
        [sys.executable, "-c", BUILDS],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that starts tests in the background has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        yield process
        process.stdin.close()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_killed_build_leaves_no_output(builds, bccd, tmp_path, number, status):
    place, output, errors = tmp_path / "place", tmp_path / "output.txt", tmp_path / "errors.txt"
    arguments = ["dataset", "build", "bccd", "--source", str(bccd), "--output", str(place / "out")]
    print(json.dumps([arguments, str(output), str(errors)]), file=builds.stdin, flush=True)
    pid = int(builds.stdout.readline())
    try:
        deadline = time.monotonic() + 60
        while not (output.exists() and "saving" in output.read_text(encoding="utf-8")):
            assert time.monotonic() < deadline, errors.read_text(encoding="utf-8")
            time.sleep(0.02)
        assert os.listdir(place) == [f".out.partial-{pid}"]
        os.kill(pid, number)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    assert int(builds.stdout.readline()) == status
    assert "Traceback" not in errors.read_text(encoding="utf-8")
    if number == signal.SIGKILL:
        assert os.listdir(place) == [f".out.partial-{pid}"]
        save(build_bccd(bccd)[0], place / "out")
        assert os.listdir(place) == ["out"]
    else:
        assert not os.listdir(place)


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


def test_a_user_error_is_one_line(tmp_path, capsys):
    arguments = ["dataset", "build", "bccd", "--source", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err == f"error: no such folder: {tmp_path / 'nowhere'}\n"


def test_a_filled_output_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("x", encoding="utf-8")
    monkeypatch.setattr(Publisher, "build", lambda *arguments: pytest.fail("built"))
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
