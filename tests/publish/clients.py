"""Real clients of the Hub server, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.publish.hub_server import TOKEN, USER

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "hub" / "checkpoint"
MODEL, DATASET, SPACE = f"{USER}/wbc-ibn-resnet34", f"{USER}/bccd-wbc", f"{USER}/wbc"
REPO = f"{USER}/cells"


def environment(hub, home, token=TOKEN):
    """The environment of a process that knows this Hub, a cache of its own, and not this repository."""
    mine = {"PYTHONPATH", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_MODULES_CACHE"}
    kept = {name: value for name, value in os.environ.items() if name not in mine}
    return kept | hub.environment(token) | {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def command(hub, home, *arguments, token=TOKEN, status=0):
    """Run `python -m hub` and return what it printed."""
    process = subprocess.run(
        [sys.executable, "-m", "hub", *map(str, arguments)],
        cwd=ROOT,
        env=environment(hub, home, token),
        capture_output=True,
        text=True,
    )
    output = process.stdout + process.stderr
    assert process.returncode == status, output
    assert TOKEN not in output
    return output


def stranger(hub, home, script, token=None, **variables):
    """Run a script in a folder without this repository, and return the JSON that it prints last."""
    home.mkdir(exist_ok=True, parents=True)
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=home,
        env=environment(hub, home, token) | variables,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


PUSH = """
import sys
from pathlib import Path
from hub.files import UserError
from hub.publish.repository import push
try:
    commit = push(Path({folder!r}), {repo_id!r}, {kind!r}, "Publish", **{options!r})
except UserError as error:
    sys.exit(f"error: {{error}}")
print("pushed" if commit else "unchanged")
"""


def start_push(hub, home, folder, repo_id=REPO, kind="model", **options):
    script = PUSH.format(folder=str(folder), repo_id=repo_id, kind=kind, options=options)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment(hub, home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pushed(*arguments, **options):
    """What a push printed last, and its errors."""
    process = start_push(*arguments, **options)
    out, errors = process.communicate(timeout=240)
    assert TOKEN not in out + errors
    return out.strip().splitlines()[-1] if process.returncode == 0 else "failed", errors


def holds(hub, folder, revision="main", repo_id=REPO, kind="model"):
    """Whether the repository holds what the folder holds."""
    tree = hub.repo(kind, repo_id).commit(revision).tree
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return tree.keys() - {".gitattributes"} == files.keys() and all(
        hub.content(kind, repo_id, name, revision) == path.read_bytes() for name, path in files.items()
    )


def uploads(hub):
    return [path for method, path, status in hub.requests if method == "PUT" and status == 200]
