"""The script that measures everything on a GPU, on whatever there is here."""

import json
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def test_the_script_reports_what_passed(tmp_path):
    wrong = subprocess.run([FOLDER / "run.sh"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.startswith("usage: ")) == (2, True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [FOLDER / "run.sh", "--output", "out", FOLDER / "test_kernels.py::test_the_loss_is_that_of_the_equations"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["tests"]) == 2
    assert {row["outcome"] for row in report["tests"].values()} == {"passed"}
    assert set(report["software"]) == {"torch", "transformers", "accelerate", "python", "cuda"}
