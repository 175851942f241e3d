"""Files and folders that are written whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError

from hub.files import HUB_ERRORS, UserError, one_line, write_json, writing


def dead_process():
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_folder_appears_when_it_is_complete(tmp_path):
    output = tmp_path / "new" / "out"
    with writing(output) as folder:
        folder.mkdir()
        (folder / "file").write_text("x", encoding="utf-8")
        assert not output.exists()
    assert (output / "file").read_text(encoding="utf-8") == "x"
    assert os.listdir(output.parent) == ["out"]


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    with writing(output) as folder:
        folder.mkdir()
        (folder / "file").touch()
    for refused, reason in ((output, "is not empty"), (output / "file", "is not a folder")):
        with (
            pytest.raises(UserError, match=f"{refused} exists and {reason}; remove it or name another"),
            writing(refused),
        ):
            pytest.fail("the block runs")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(output) == ["file"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, OSError])
def test_a_failure_leaves_nothing(tmp_path, failure):
    with pytest.raises(failure), writing(tmp_path / "out") as folder:
        folder.mkdir()
        (folder / "half").touch()
        raise failure
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_a_failed_write_of_json_keeps_the_older_file(tmp_path, monkeypatch, failure):
    path = tmp_path / "results.json"
    write_json(path, {"accuracy": 0.5})
    write_text = Path.write_text

    def fail(self, text, *args, **kwargs):
        write_text(self, text[:5], *args, **kwargs)
        raise failure

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(failure):
        write_json(path, {"accuracy": 0.75})
    monkeypatch.undo()
    assert json.loads(path.read_text(encoding="utf-8")) == {"accuracy": 0.5}
    assert os.listdir(tmp_path) == ["results.json"]


def test_json_is_written_in_utf_8_with_its_folder(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"class": "é", "n": [1, 2]})
    write_json(tmp_path / "new" / "a.json", {"class": "嗜", "n": [3]})
    text = (tmp_path / "new" / "a.json").read_bytes().decode("utf-8")
    assert json.loads(text) == {"class": "嗜", "n": [3]}
    assert text.endswith("}\n")
    assert os.listdir(tmp_path / "new") == ["a.json"]
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "a.json", {"set": {1}})
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8"))["n"] == [3]


def test_remains_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path):
    dead, living = dead_process(), os.getppid()
    for name in ("out", "a.json"):
        (tmp_path / f".{name}.partial-{living}").mkdir()
    (tmp_path / f".out.partial-{dead}" / "half").mkdir(parents=True)
    (tmp_path / f".a.json.partial-{dead}").touch()
    with writing(tmp_path / "out") as folder:
        folder.mkdir()
    write_json(tmp_path / "a.json", {})
    left = [f".a.json.partial-{living}", f".out.partial-{living}", "a.json", "out"]
    assert sorted(os.listdir(tmp_path)) == left


def test_an_error_is_printed_on_one_line():
    assert one_line(ValueError("no such\n  thing")) == "no such thing"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert issubclass(UserError, ValueError)
    assert issubclass(HfHubHTTPError, HUB_ERRORS)
