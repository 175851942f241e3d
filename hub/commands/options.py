"""What several commands have in common: default names and folders, and arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

# Default names of the repositories, and default folders of their contents.
MODEL_NAME = "wbc-ibn-resnet34"
DATASET_NAME = "bccd-wbc"
CHECKPOINT = Path("hub/checkpoint")
BUILT = Path("data/blood8")
# The published labs, and those that a union may have: the keys of `hub.data.union.PUBLISHERS`, and its `UNITED`.
LABS = ("bccd", "pbc", "chula", "lisc", "raabin")
UNITED = ("bccd", "pbc", "chula")


def add_command(commands, name: str, help: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    """Add a command. `run` gets its arguments, and its parser among them for errors of usage."""
    parser = commands.add_parser(name, help=help)
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_folder(parser, flag: str, help: str, **options) -> None:
    """Add an argument that is a folder."""
    parser.add_argument(flag, type=Path, metavar="DIR", help=help, **options)


def add_output(parser: argparse.ArgumentParser, classifier: bool = False) -> None:
    """Add the argument --output, and --model for a command that runs a classifier."""
    if classifier:
        help = f"classifier, by folder or id on the Hub (default: {CHECKPOINT})"
        parser.add_argument("--model", metavar="ID", default=CHECKPOINT, help=help)
    add_folder(parser, "--output", "folder to write; new or empty", required=True)
