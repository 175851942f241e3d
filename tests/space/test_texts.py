"""The texts in both languages, and what fills them."""

import json
import string
from pathlib import Path

from space.about import about
from space.texts import CELL_TYPES, Text, text

TEXTS = json.loads((Path(__file__).parents[2] / "space" / "texts.json").read_text(encoding="utf-8"))


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_every_text_says_the_same_in_both_languages():
    assert len(TEXTS["texts"]) > 30
    for key, languages in TEXTS["texts"].items():
        assert languages.keys() == {"en", "zh"}, key
        assert all(languages.values()), key
        # Chinese has no articles.
        assert placeholders(languages["en"]) - {"article"} == placeholders(languages["zh"]), key


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
