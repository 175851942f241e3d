"""Rules of the house beyond the import linter: the entry points, and the size of files and functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = [ROOT / "train.py", *sorted((ROOT / "hub").rglob("*.py")), *sorted((ROOT / "modeling_wbc").rglob("*.py"))]
CODE += [ROOT / "app.py", *sorted((ROOT / "space").glob("*.py"))]
CODE = [path for path in CODE if "checkpoint" not in path.parts]
MOST_LINES = {"train.py": 250, "app.py": 700}


def imported(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_rooms_import_one_way_and_in_no_circle():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_nothing_imports_an_entry_point():
    for path in CODE:
        assert not {name.split(".")[0] for name in imported(path)} & {"train", "app"}, path


def test_the_page_reaches_the_model_only_through_from_pretrained():
    for name in imported(ROOT / "app.py"):
        assert name.split(".")[0] not in ("hub", "modeling_wbc", "train")


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_and_its_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES.get(path.name, 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body  # a docstring may be long
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{node.name} has {lines} lines"
