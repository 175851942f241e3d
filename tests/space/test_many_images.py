"""Summaries of many images."""

import re
from collections import Counter
from types import SimpleNamespace

import app
from space import jobs
from space.many_images import differential

VISITOR = SimpleNamespace(session_hash="visitor")


def test_more_than_a_thousand_images_are_cut(monkeypatch, classifier, folder):
    monkeypatch.setattr(app, "MAX_IMAGES", 3)
    monkeypatch.setattr(jobs, "MAX_IMAGES", 3)
    paths = [str(path) for path in sorted(folder.glob("mono*"))[:5]]
    _, summary, english, _ = app.Handlers(classifier).look_at_many(paths, VISITOR, lambda *_, **__: None)
    assert "3 images are the most in one go: the others were left out" in summary
    assert len(english["value"]) == 3


def test_a_differential_count_is_of_white_cells_the_commonest_of_healthy_blood_first():
    html = differential(Counter(platelet=50, erythroblast=50, ig=1, basophil=1, neutrophil=2))
    names = re.findall(r'class="type"><span class="en" lang="en">(.+?)<', html)
    assert names == ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil", "immature granulocyte"]
    figures = re.findall(r'class="figure">(.+?)<', html)
    assert figures == ["50.0 % (2)", "0.0 % (0)", "0.0 % (0)", "0.0 % (0)", "25.0 % (1)", "25.0 % (1)"]
