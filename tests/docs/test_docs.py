"""README, docs and card agree with the results, and `python -m hub docs --check` finds where they do not."""

import contextlib
import io
import json
import re
import shutil

import pytest

from hub.__main__ import main
from hub.files import UserError
from hub.publish import docs
from hub.publish.docs import ROOT, Results, figure_text, render, rows_table, update

DOCUMENTS = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))


@pytest.fixture
def repository(tmp_path):
    """A repository of one README and one results file, without a checkpoint."""
    (tmp_path / "results" / "cells").mkdir(parents=True)
    found = {
        "accuracy": 0.9026,
        "macro_f1": 0.5,
        "intervals": {"accuracy": [0.779, 0.98]},
        "files": 2487,
        "seconds": 7.8,
        "share": 0.82,
        "refused": [0.99, 0.983, 0.995],
        "runs": {"mean": 0.5, "interval": [0.4, 0.6], "difference": -0.079, "low": -0.1, "high": 0.001},
        "rows": [{"Field": "small", "Cells": 1, "Recall (%)": [1.0, 0.95, 1.0]}, {"Field": "large", "Cells": 1000}],
        "missing": None,
    }
    found["rows"][1]["Recall (%)"] = [0.5, 0.25, 0.75]
    (tmp_path / "results" / "cells" / "results.json").write_text(json.dumps(found), encoding="utf-8")
    return tmp_path


def test_all_committed_documents_show_the_results(capsys):
    assert main(["docs", "--check"]) == 0, capsys.readouterr().out
    assert "agree with the results" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "old", "new", "found"),
    [
        ("README.md", "83.0 (78.7 to 87.0)<!--", "93.0 (78.7 to 87.0)<!--", "results 83.0 (78.7 to 87.0)"),
        ("docs/detection.md", "| 36 | 134.5 |", "| 36 | 13.5 |", "table benchmark detector"),
        ("docs/experiments.md", "| 88.3, 91.0, 87.1 |", "| 98.3, 91.0, 87.1 |", "table ablations"),
        ("hub/checkpoint/README.md", "| 97.4 (95.8 to 98.9) |", "| 87.4 (95.8 to 98.9) |", "the card"),
    ],
)
def test_the_check_finds_an_altered_figure_and_the_command_mends_it(
    name, old, new, found, tmp_path, monkeypatch, capsys
):
    for part in ("README.md", "docs", "results", "hub/checkpoint"):
        source = ROOT / part
        (tmp_path / part).parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
        else:
            shutil.copy(source, tmp_path / part)
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    path = tmp_path / name
    right = path.read_text(encoding="utf-8")
    assert old in right
    wrong = right.replace(old, new, 1)
    path.write_text(wrong, encoding="utf-8")

    assert main(["docs", "--check"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith(f"{name}: ")
    assert found in told.out
    assert "1 passages differ" in told.err
    assert path.read_text(encoding="utf-8") == wrong

    assert main(["docs"]) == 0
    assert path.read_text(encoding="utf-8") == right


def test_figures_are_written_as_their_kind_asks(repository):
    results = Results(repository)
    for address, text in {
        "cells/accuracy": "90.3 (77.9 to 98.0)",
        "cells/macro_f1 %": "50.0",
        "cells/files": "2,487",
        "cells/seconds": "7.8",
        "cells/share %": "82.0",
        "cells/refused": "99.0 (98.3 to 99.5)",
        "cells/runs/mean": "50.0 (40.0 to 60.0)",
        "cells/runs/difference": "-7.9 (-10.0 to +0.1)",
        "cells/rows/1/Cells": "1,000",
    }.items():
        assert figure_text(results, address) == text


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("cells/nothing", "nothing is called nothing"),
        ("cells/rows/7/Cells", "nothing is called 7"),
        ("cells/files/deeper", "nothing is called deeper"),
        ("cells/intervals", "no figure, but dict"),
        ("cells/missing", "no figure, but NoneType"),
        ("nowhere/accuracy", "there is no results/nowhere/results.json"),
    ],
)
def test_addresses_without_a_figure_are_refused(repository, address, told):
    with pytest.raises(UserError, match=re.escape(told)):
        figure_text(Results(repository), address)


def test_rendering_touches_the_marks_alone(repository):
    text = (
        "# Cells\n\nOf 5<!-- =cells/files --> files, 90.3 (77.9 to\n98.0)<!-- =cells/accuracy --> % and 17 others.\n\n"
        "<!-- table: cells/rows -->\n\n| old |\n\n<!-- end -->\n\nThe end, 12.\n"
    )
    rendered, differences = render(text, Results(repository), {})
    assert rendered == (
        "# Cells\n\nOf 2,487<!-- =cells/files --> files, 90.3 (77.9 to\n98.0)<!-- =cells/accuracy --> % and 17 others."
        "\n\n<!-- table: cells/rows -->\n\n"
        "| Field | Cells | Recall (%) |\n| --- | ---: | ---: |\n"
        "| small | 1 | 100.0 (95.0 to 100.0) |\n| large | 1,000 | 50.0 (25.0 to 75.0) |"
        "\n\n<!-- end -->\n\nThe end, 12.\n"
    )
    assert differences == ["table cells/rows", "cells/files: the text has 5, the results 2,487"]
    assert render(rendered, Results(repository), {}) == (rendered, [])
    # Tables of other rooms, by the name that the caller gives them.
    given = {"counts": lambda results: rows_table([{"Files": results.read("cells")["files"]}])}
    rendered, _ = render("<!-- table: counts -->\n\n<!-- end -->", Results(repository), given)
    assert "\n| 2,487 |\n" in rendered


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("many<!-- =cells/files --> files", "no figure stands right before the mark of cells/files: write 2,487"),
        ("<!-- table: cells/files -->\n\n<!-- end -->", "there is no table cells/files"),
        ("<!-- table: cells/rows -->\n\n| old |\n", "a table has no <!-- end -->"),
    ],
)
def test_marks_that_cannot_be_rendered_are_named_with_their_file(repository, text, told):
    (repository / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"README.md: {told}")):
        update(repository)
    assert (repository / "README.md").read_text(encoding="utf-8") == text


# --- What the documents show beside figures ---


def test_no_results_go_untold():
    shown = "".join((ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS)
    for path in (ROOT / "results").glob("*/results.json"):
        assert re.search(rf"<!-- (=|table: ){path.parent.name}\b", shown), path
    for plot in (ROOT / "results").glob("*/*.png"):
        assert f"](../{plot.relative_to(ROOT).as_posix()})" in shown


@pytest.mark.parametrize("name", [*DOCUMENTS, "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    for link in links:
        target, _, anchor = link.partition("#")
        assert (path.parent / target).exists(), link
        if anchor:
            shown = path.parent / target if target else path
            heads = re.findall(r"^#+ (.*)$", shown.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [head.lower().replace(" ", "-") for head in heads], link


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_readmes_python_prints_what_stands_below_it(monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(from transformers.*?)```\n\n```text\n(.*?)```", readme, re.DOTALL).groups()
    monkeypatch.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {})
    assert output.getvalue() == printed
