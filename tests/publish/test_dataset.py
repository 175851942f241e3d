"""The command that builds a data set: what it prints, refuses and leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import yaml

from hub.__main__ import main
from hub.data.bccd import build_bccd
from hub.data.chula import CHULA
from hub.data.columns import ATTRIBUTES
from hub.data.lisc import LISC_CLASSES
from hub.data.load import load, save
from hub.data.pbc import build_pbc
from hub.data.publisher import Publisher
from hub.files import UserError
from hub.publish.dataset import configurations, stage
from tests.raw_folders import counts, make_chula, make_classes, make_pbc, make_wbcatt

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


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache; processes that tests start have it by their environment."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder))


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
    monkeypatch.setattr(Publisher, "read", lambda *arguments, **options: pytest.fail("read"))
    assert main(["dataset", "build", "bccd", "--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'out'} exists and is not empty")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["bccd"], "one of the arguments --source --download is required"),
        (["bccd", "--bccd", "x"], "bccd takes --source DIR; --bccd is for a union"),
        (["blood8", "--bccd", "x"], "blood8 needs --bccd DIR and --pbc DIR"),
        (
            ["blood8", "--bccd", "x", "--pbc", "y", "--chula", "z"],
            "blood8 needs --bccd DIR and --pbc DIR and no other",
        ),
        (["blood8", "--bccd", "x", "--pbc", "y", "--download"], "neither --source nor --download"),
        (["union"], "union needs one or more of --bccd DIR, --pbc DIR, --chula DIR"),
        (["union", "--chula", "x", "--wbcatt", "y"], "--wbcatt has attributes of PBC's images"),
        (["lisc", "--source", "x", "--wbcatt", "y"], "--wbcatt has attributes of PBC's images"),
        (["folder", "--source", "x"], "folder needs --source DIR and --lab NAME"),
        (["chula", "--source", "x", "--group", "y"], "--lab and --group are for folder"),
        (["bccd", "--source", "x", "--download"], "not allowed with"),
        (["other", "--download"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["dataset", "build", *arguments, "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("lab", "place"), [("pbc", "10.17632/snkd93bnjr.1"), ("chula", "singgihbekti/WBC_Dataset")])
def test_a_lab_without_an_archive_says_where_to_get_it(lab, place, tmp_path, capsys):
    assert main(["dataset", "build", lab, "--download", "--output", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {lab} has no archive to download: ")
    assert place in printed


def test_chula_is_saved_with_its_fields_and_published_with_them(tmp_path):
    make_chula(tmp_path / "raw")
    built, folder = tmp_path / "built", tmp_path / "repository"
    assert main(["dataset", "build", "chula", "--source", str(tmp_path / "raw"), "--output", str(built)]) == 0
    fields = datasets.load_from_disk(built / "fields")
    assert fields.keys() == {"train", "validation", "unlabelled"}
    assert load(built)["train"].features == CHULA.columns
    folder.mkdir()
    stage(built, folder, "someone/chula")
    card = (folder / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert [config["config_name"] for config in head["configs"]] == ["chula", "fields"]
    assert "object-detection" in head["task_categories"]
    published = datasets.load_dataset("parquet", data_files=str(folder / "fields" / "train-*"), split="train")
    assert published.features == fields["train"].features
    assert published["objects"][:] == fields["train"]["objects"][:]
    assert 'load_dataset("someone/chula", "chula", split="train")' in card


def test_a_union_is_published_as_its_labs(tmp_path):
    make_chula(tmp_path / "chula")
    make_pbc(tmp_path / "pbc")
    wbcatt = make_wbcatt(tmp_path / "wbcatt", [f"BA_{index:03d}.jpg" for index in range(8)])
    folders = ["--pbc", str(tmp_path / "pbc"), "--chula", str(tmp_path / "chula"), "--wbcatt", str(wbcatt)]
    assert main(["dataset", "build", "union", *folders, "--output", str(tmp_path / "built")]) == 0
    report = json.loads((tmp_path / "built" / "build.json").read_text(encoding="utf-8"))
    assert (report["name"], report["labs"], report["validation_only"]) == ("union", ["pbc", "chula"], False)
    assert [row["attribute"] for row in report["agreement"]] == list(ATTRIBUTES)
    parts = configurations(load(tmp_path / "built"))
    assert list(parts) == ["union", "pbc", "chula"]
    assert parts["chula"]["train"].features == CHULA.columns
    (tmp_path / "out").mkdir()
    stage(tmp_path / "built", tmp_path / "out", "someone/cells")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    command = "python -m hub dataset build union --pbc DIR --chula DIR --wbcatt DIR --output data/union"
    for words in (
        command,
        "| `cell_size` | big 8, small 0 | 50.0 | 0.00 |",
        "## Near-duplicates",
        "WBCAtt",
        "### chula",
    ):
        assert words in card
    assert "{{" not in card
    assert "{%" not in card
    assert str(tmp_path) not in card


def test_images_for_validation_only_are_not_published(tmp_path):
    make_classes(tmp_path / "raw", LISC_CLASSES, 2)
    built = tmp_path / "built"
    assert main(["dataset", "build", "lisc", "--source", str(tmp_path / "raw"), "--output", str(built)]) == 0
    assert "**For validation only**: lisc may be neither trained on" in (built / "README.md").read_text(
        encoding="utf-8"
    )
    for change in ({}, {"labs": ["pbc"], "validation_only": False}):  # Its rows name the lab even so.
        report = json.loads((built / "build.json").read_text(encoding="utf-8")) | change
        (built / "build.json").write_text(json.dumps(report), encoding="utf-8")
        with pytest.raises(UserError, match="holds images of lisc, whose terms are not known"):
            stage(built, tmp_path / "out", "someone/cells")
    assert not (tmp_path / "out").exists()


def test_the_command_builds_anybodys_folder(tmp_path):
    make_classes(tmp_path / "raw", ("band", "segmented"), 6)
    built = tmp_path / "built"
    arguments = ["--source", str(tmp_path / "raw"), "--lab", "Our lab", "--group", r"_0(\d+)", "--output", str(built)]
    assert main(["dataset", "build", "folder", *arguments]) == 0
    part = load(built)["train"]
    assert (set(part["lab"][:]), set(part["group"][:]) < {f"{k:02d}" for k in range(6)}) == ({"Our lab"}, True)
    (tmp_path / "out").mkdir()
    stage(built, tmp_path / "out", "someone/cells")
    assert "# White blood cells of Our lab" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
