"""Registration: which photograph a file shows, and the cache of the results."""

import json
import logging
import os

import cv2
import joblib
import numpy as np
import pytest

from hub.data import photographs as photographs_module
from hub.data.photographs import PhotographIndex, register
from hub.data.sift import SIZE, grey
from hub.data.synthetic import draw_field
from tests.raw_folders import LABELS, augmented, encode


@pytest.fixture(scope="module")
def photographs(drawn):
    return {name: grey(encode(image)) for name, image in drawn.items()}


@pytest.fixture(scope="module")
def index(photographs):
    return PhotographIndex(photographs)


def test_augmented_files_are_found_and_laid_over_their_photographs(drawn, photographs, index):
    for seed, (name, image) in enumerate(drawn.items()):
        file = grey(augmented(image, seed))
        match = index.find(file)
        assert match.photograph == name
        assert match.error < 3
        # Drawn by the transform, the photograph lies where the file shows it.
        drawn_over = cv2.warpAffine(photographs[name], match.transform, SIZE)
        smaller = [cv2.resize(image, (224, 168), interpolation=cv2.INTER_AREA) for image in (drawn_over, file)]
        assert np.corrcoef(*(image.ravel() for image in smaller))[0, 1] > 0.97


def test_a_file_of_no_photograph_matches_none(photographs, index):
    assert index.find(grey(augmented(draw_field("monocyte", seed=777, size=(640, 480)), 1))) is None
    assert index.find(np.zeros((240, 320), np.uint8)) is None
    assert PhotographIndex({}).find(photographs["BloodImage_00001"]) is None


def test_matching_is_deterministic(drawn, photographs):
    few = {name: photographs[name] for name in list(photographs)[3:9]}
    file = grey(augmented(drawn["BloodImage_00005"], 5))
    first, second = (PhotographIndex(few).find(file) for _ in range(2))
    assert first.photograph == second.photograph == "BloodImage_00005"
    assert first.error == second.error
    assert np.array_equal(first.transform, second.transform)


# --- The cache ---


@pytest.fixture
def few(drawn):
    """(files, photographs, labels) to register: six photographs, two of which overlap, and a file of each."""
    names = [f"BloodImage_{number:05d}" for number in (0, 1, 2, 3, 4, 32)]
    photographs = {name: encode(drawn[name]) for name in names}
    labels = {name: LABELS[int(name[-5:])] for name in names}
    files = {f"{name}.jpeg": (augmented(drawn[name], 1), labels[name]) for name in names}
    return files, photographs, labels


def test_a_second_time_nothing_is_looked_up_again(few, tmp_path, monkeypatch):
    first = register(*few, tmp_path / "cache.json")
    monkeypatch.setattr(PhotographIndex, "find", lambda *arguments: pytest.fail("looked up again"))
    monkeypatch.setattr(photographs_module, "find_overlaps", lambda *arguments: pytest.fail("looked up again"))
    second = register(*few, tmp_path / "cache.json")
    for name, match in first.matches.items():
        assert match.photograph == second.matches[name].photograph == name.removesuffix(".jpeg")
        assert match.error == second.matches[name].error
        assert np.array_equal(match.transform, second.matches[name].transform)
    assert (first.overlaps, first.fields, first.labels) == (second.overlaps, second.fields, second.labels)
    assert len(first.overlaps) == 1


def test_only_what_changed_is_looked_up(few, drawn, tmp_path, monkeypatch):
    files, photographs, labels = few
    register(files, photographs, labels, tmp_path / "cache.json")
    looked_up = []
    find = PhotographIndex.find
    monkeypatch.setattr(PhotographIndex, "find", lambda *given: looked_up.append(0) or find(*given))
    new = {
        "BloodImage_00001.jpeg": (augmented(drawn["BloodImage_00001"], 2), "lymphocyte"),  # other content
        "BloodImage_00002.jpeg": (files["BloodImage_00002.jpeg"][0], "lymphocyte"),  # in the folder of another class
        "new.jpeg": (augmented(drawn["BloodImage_00003"], 2), "neutrophil"),
    }
    matches = register(files | new, photographs, labels, tmp_path / "cache.json").matches
    assert len(looked_up) == 3
    assert matches["new.jpeg"].photograph == "BloodImage_00003"
    assert matches["BloodImage_00002.jpeg"] is None
    # With another photograph, everything is.
    photographs = photographs | {"BloodImage_00004": photographs["BloodImage_00003"]}
    register(files, photographs, labels, tmp_path / "cache.json")
    assert len(looked_up) == 3 + 6


def test_an_interruption_keeps_what_was_found(few, tmp_path, monkeypatch):
    find = PhotographIndex.find
    calls = []

    def stop_after_three(*given):
        calls.append(0)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return find(*given)

    monkeypatch.setattr(PhotographIndex, "find", stop_after_three)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        register(*few, tmp_path / "cache.json")
    known = json.loads((tmp_path / "cache.json").read_text(encoding="utf-8"))
    assert len(known["files"]) == 3
    assert known["overlaps"]
    assert os.listdir(tmp_path) == ["cache.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 3}', '{"key": "another"}'])
def test_a_damaged_cache_is_not_used(few, tmp_path, content):
    (tmp_path / "cache.json").write_text(content, encoding="utf-8")
    matches = register(*few, tmp_path / "cache.json").matches
    assert {name.removesuffix(".jpeg"): name for name in matches} == {m.photograph: n for n, m in matches.items()}
    assert len(json.loads((tmp_path / "cache.json").read_text(encoding="utf-8"))["files"]) == 6


def test_where_nothing_can_be_written_the_work_is_done_all_the_same(few, tmp_path, caplog):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        registration = register(*few, tmp_path / "file" / "cache.json")
    assert all(registration.matches.values())
    assert "could not be written" in caplog.text
