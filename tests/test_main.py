"""The command line, `python -m hub`: every command's help, former names, and errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hub.__main__ import main

ROOT = Path(__file__).parents[1]
COMMANDS = [
    *("dataset build", "dataset audit", "dataset stage", "dataset push"),
    *("model export", "model report", "model stage", "model push", "space stage", "space push"),
    *("predict", "adapt", "compare", "labs", "mistakes", "detection", "ood", "ablations", "docs"),
]
FORMER = {"cells": "detection", "foreign": "ood", "tables": "ablations", "dataset review": "dataset audit"}


def help_of(arguments, capsys):
    """What a command prints for --help: on stdout and on stderr."""
    with pytest.raises(SystemExit) as stop:
        main([*arguments.split(), "--help"])
    assert stop.value.code == 0
    return capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    printed = help_of(command, capsys)
    assert printed.out.startswith(f"usage: python -m hub {command} ")
    assert not printed.err


@pytest.mark.parametrize("group", ["", "dataset", "model", "space"])
def test_help_lists_the_commands_and_no_former_names(group, capsys):
    printed = help_of(group, capsys).out
    for command in COMMANDS:
        if command.startswith(group):
            assert re.search(rf"^    {command.removeprefix(group).split()[0]}\s", printed, re.MULTILINE), command
    for former in FORMER:
        assert not re.search(rf"^    {former.split()[-1]}\s", printed, re.MULTILINE), former


@pytest.mark.parametrize(("former", "present"), FORMER.items())
def test_former_names_of_commands_work_and_name_the_present_one(former, present, capsys):
    printed = help_of(former, capsys)
    assert printed.out.startswith(f"usage: python -m hub {present} ")
    notice = f"{former.split()[-1]} is now called {present.split()[-1]}; the former name will be removed\n"
    assert printed.err == notice


@pytest.mark.parametrize("flag", [["--foreign", "cells"], ["--foreign=cells"]])
def test_the_former_name_of_a_flag_works_and_names_the_present_one(flag, tmp_path, capsys):
    folders = ["--evaluation", str(tmp_path), "--training", str(tmp_path / "nowhere")]
    assert main(["model", "report", str(tmp_path), *flag, *folders]) == 1
    notice, error = capsys.readouterr().err.splitlines()
    assert notice == "--foreign is now called --ood; the former name will be removed"
    assert error.startswith("error: ")


def test_former_names_are_no_longer_commands_where_they_are_values(tmp_path, capsys):
    assert main(["compare", "--first", "cells", "--second", "foreign"]) == 1
    assert "now called" not in capsys.readouterr().err


def test_help_imports_no_network_library():
    """Torch, transformers and datasets take seconds to import."""
    script = (
        "import sys\n"
        "from hub.__main__ import main\n"
        f"for command in {COMMANDS}:\n"
        "    try:\n"
        "        main([*command.split(), '--help'])\n"
        "    except SystemExit as stop:\n"
        "        assert stop.code == 0\n"
        "slow = {'torch', 'transformers', 'datasets', 'sklearn', 'cv2', 'matplotlib'} & sys.modules.keys()\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize(
    "arguments",
    [
        "dataset build pbc --source {nowhere} --output {output}",
        "dataset audit --source {nowhere} --output {output}",
        "dataset stage --repo-id a/b --dataset {nowhere} --output {output}",
        "model export {nowhere} --output {output}",
        "model report {nowhere} --evaluation {nowhere} --ood {nowhere} --training {nowhere}",
        "model stage --repo-id a/b --checkpoint {nowhere} --output {output}",
        "predict {nowhere} --model {nowhere} --output {output}",
        "compare --first {nowhere} --second {nowhere}",
        "mistakes {nowhere} --bccd {nowhere} --output {output}",
        "detection --bccd {nowhere} --output {output}",
        "ood --model {nowhere} --dataset_name {nowhere} --output {output}",
        "ablations --output {output} --dataset {nowhere} --rows ibn-hard",
    ],
)
def test_an_unknown_path_is_one_line(arguments, tmp_path, capsys):
    nowhere, output = tmp_path / "nowhere", tmp_path / "output"
    assert main(arguments.format(nowhere=nowhere, output=output).split()) == 1
    printed = capsys.readouterr().err
    line = printed.splitlines()[-1]  # after warnings of libraries, such as of a missing driver
    assert "Traceback" not in printed
    assert line.startswith("error: ")
    assert str(nowhere) in line
    assert arguments.startswith("ablations") or not output.exists()  # which adds to what is there


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["dataset"], ["predict"], ["compare", "--unknown"]])
def test_wrong_usage_has_the_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: python -m hub" in capsys.readouterr().err
