"""The texts in both languages, and what fills them."""

import json
import re
import string
from pathlib import Path

from PIL import Image

from hub.data.columns import ATTRIBUTES, STAGES
from space.about import about
from space.texts import ATTRIBUTES as ATTRIBUTE_TEXTS
from space.texts import CELL_TYPES, VALUES, Text, reason_text, text
from space.texts import STAGES as STAGE_TEXTS
from space.uploads import read_uploads

TEXTS = json.loads((Path(__file__).parents[2] / "space" / "texts.json").read_text(encoding="utf-8"))


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_every_text_says_the_same_in_both_languages():
    assert len(TEXTS["texts"]) > 30
    assert len(TEXTS["page"]) > 100
    for key, languages in [*TEXTS["texts"].items(), *TEXTS["page"].items()]:
        assert languages.keys() == {"en", "zh"}, key
        assert all(languages.values()), key
        # Chinese has no articles.
        assert placeholders(languages["en"]) - {"article"} == placeholders(languages["zh"]), key


def test_every_text_of_the_script_is_there_and_none_is_left_over():
    folder = Path(__file__).parents[2] / "space" / "page"
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()))
    keys = set(TEXTS["page"])
    used = set(re.findall(r"""["']([a-z_]+\.[a-z0-9_]+)["']""", code))
    # Of keys that the script puts together, such as `verdict.${reason}`, it holds the beginning.
    beginnings = tuple(re.findall(r"`([a-z_]+\.)\$\{", code))
    assert used <= keys
    assert {key for key in keys - used if not key.startswith(beginnings)} == set()


def test_every_stage_and_attribute_of_the_data_sets_has_a_name():
    assert set(STAGES) == STAGE_TEXTS.keys()
    assert set(ATTRIBUTES) == ATTRIBUTE_TEXTS.keys()
    assert {f"{name}.{value}" for name, values in ATTRIBUTES.items() for value in values} == VALUES.keys()


def test_reasons_are_given_in_both_languages(classifier, tmp_path):
    (tmp_path / "paper.jpg").write_bytes(b"%PDF-1.7")
    Image.new("RGB", (300, 300), "white").save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and no more")
    for name in ("paper.jpg", "cut.png", "a.zip"):
        ((_, source),) = read_uploads([str(tmp_path / name)])
        ((answer, _),) = classifier.answers([(name, source)], 64)
        assert answer["status"] == "unreadable"
        reason = reason_text(answer["remark"])
        assert reason.en == answer["remark"]
        assert reason.zh != reason.en, reason.en
    assert reason_text("something new") == ("something new", "something new")


def test_every_type_of_the_model_is_described(classifier):
    assert set(classifier.labels) <= CELL_TYPES.keys()


def test_a_text_takes_the_value_of_its_own_language():
    filled = text("remark.one_of_two", first=Text("one", "一"), second="{x}")
    assert filled == ("doubtful: one or {x}", "存疑：一或{x}")


def test_results_of_every_release_are_shown(classifier, monkeypatch):
    """Earlier releases name the figures of out-of-distribution images "foreign"."""
    results = classifier.results()
    figures = results.pop("ood", None) or results.pop("foreign")
    pages = []
    for extra in ({"foreign": figures}, {"ood": figures}):
        monkeypatch.setattr(classifier, "results", lambda extra=extra: results | extra)
        pages.append(about(classifier))
    assert pages[0] == pages[1]
    assert f"{100 * figures['all']['refused'][0]:.1f} %" in pages[0]
