"""The recipes, and the commands in README and docs: every one of them is parsed by the program that it calls."""

import argparse
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from hub.__main__ import main
from hub.publish.docs import ROOT
from hub.training.arguments import DataArguments, ModelArguments, WBCTrainingArguments

RAW = {name: f"raw/{name.lower()}" for name in ("BCCD", "PBC", "CHULA", "WBCATT", "LISC", "LITE0", "LITE2")}
RECIPES = sorted((ROOT / "recipes").glob("*.sh"))
# Stands in for python and accelerate: it notes its arguments, a command on each line.
STUB = '#!/usr/bin/env bash\n{ printf "%q " "$(basename "$0")" "$@"; echo; } >> "$COMMANDS"\n'


class Parsed(Exception):
    """The arguments were understood."""


@pytest.fixture
def run(tmp_path):
    """Run a script with programs that do nothing; return their names and arguments."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("python", "accelerate", "torchrun", "cp"):
        (programs / name).write_text(STUB, encoding="utf-8")
        (programs / name).chmod(0o755)

    def run(script: str, **variables: str) -> list[list[str]]:
        commands = tmp_path / "commands"
        commands.touch()
        folder = tmp_path / "clone" / "recipes"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.sh").write_text(script, encoding="utf-8")
        environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "COMMANDS": str(commands)} | variables
        done = subprocess.run(["bash", folder / "recipe.sh"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [shlex.split(line) for line in commands.read_text(encoding="utf-8").splitlines()]

    return run


@pytest.fixture
def parse(monkeypatch):
    """Give a command's arguments to the parser of `train.py` or of `python -m hub`; return whether it has one."""

    def parse(command: list[str]) -> bool:
        match command:
            case ["accelerate", "launch", *_]:
                arguments = command[command.index("train.py") + 1 :]
                train = HfArgumentParser((ModelArguments, DataArguments, WBCTrainingArguments))
                train.parse_args(arguments)
                return True
            case ["python", "-m", "hub", *arguments]:
                with monkeypatch.context() as patch:
                    original = argparse.ArgumentParser.parse_args

                    def stop(self, *given):
                        original(self, *given)
                        raise Parsed

                    patch.setattr(argparse.ArgumentParser, "parse_args", stop)
                    with pytest.raises(Parsed):
                        main(arguments)
                return True
        return False

    return parse


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_recipes_are_bash_with_flags_that_exist(recipe, run, parse):
    subprocess.run(["bash", "-n", recipe], check=True)
    script = recipe.read_text(encoding="utf-8")
    assert "\nset -euo pipefail\n" in script
    commands = run(script, **RAW)
    assert sum(map(parse, commands)) >= 2
    for command in commands:
        if "--do_train" in command or "--num_train_epochs" in command:
            assert "--resume_from_checkpoint" in command


def test_recipes_skip_what_is_finished(run, tmp_path):
    for name in ("paper-start", "paper"):
        folder = tmp_path / "clone" / "outputs" / name
        folder.mkdir(parents=True)
        if name == "paper-start":
            (folder / "test_results.json").touch()
    commands = run((ROOT / "recipes" / "paper.sh").read_text(encoding="utf-8"), BCCD="raw/bccd", PBC="raw/pbc")
    assert [command[command.index("--output_dir") + 1] for command in commands if command[0] == "accelerate"] == [
        "outputs/paper"
    ]


def test_recipes_ask_for_the_raw_images(tmp_path):
    done = subprocess.run(
        ["bash", ROOT / "recipes" / "paper.sh"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "name the raw folder of BCCD" in done.stderr


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_commands_in_the_documents_have_flags_that_exist(path: Path, run, parse):
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    # In running text and tables, commands leave out what every reader knows.
    lines += [line for line in re.findall(r"`([^`]+)`", text) if line.startswith(("python -m hub ", "train.py "))]
    commands = [line for line in lines if line.startswith(("python -m hub", "accelerate launch train.py", "train.py"))]
    commands = [line for line in commands if re.search(r" --\w", line)]
    commands = [
        line.replace("train.py", "accelerate launch train.py", 1) if line.startswith("train") else line
        for line in commands
    ]
    for command in run("\n".join(line.replace(" ...", "") for line in commands)):
        assert parse(command), command
