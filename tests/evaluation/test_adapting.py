"""`python -m hub labs --adapt`: what adapting to a lab brings, on images that were not used."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hub.data.synthetic import draw_field
from hub.evaluation import adapting as module
from hub.evaluation.adapting import describe_adaptation, measure_adaptation, split_in_halves
from hub.files import UserError
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor


def test_halves_share_no_group_and_have_each_type():
    rng = np.random.default_rng(0)
    class_ids, groups = rng.integers(3, size=120), rng.integers(30, size=120)
    first = split_in_halves(class_ids, groups)
    assert not {*groups[first]} & {*groups[~first]}
    for each in range(3):
        share = first[class_ids == each].mean()
        assert 0.4 < share < 0.6
    alone = split_in_halves(class_ids, np.arange(120))
    assert alone.sum() == 60
    assert all(abs(alone[class_ids == each].mean() - 0.5) < 0.1 for each in range(3))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = WBCForImageClassification(WBCConfig(embedding_size=8, hidden_sizes=[8], depths=[1], max_novelty=1.0))
    model.image_processor = WBCImageProcessor(size=32)
    return model.eval()


@pytest.fixture(scope="module")
def lab():
    """Twelve drawn cells of two types, two of a slide, one field without a cell, and a damaged file."""
    types = ["lymphocyte", "neutrophil"]
    images = [draw_field(types[number % 2], number) for number in range(12)]
    rows = {
        "image": [*images, Image.new("RGB", (80, 60), "white"), {"bytes": b"\x89PNG no image", "path": None}],
        "label": [number % 2 for number in range(14)],
        "group": [f"slide {number // 2}" for number in range(12)] + [None, None],
    }
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=types), "group": datasets.Value("string")}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(columns))


def test_the_figures_are_those_of_adapted_copies_on_the_other_half(model, lab, tmp_path):
    found = measure_adaptation(model, {"here": lab}, tmp_path, labels=(0, 2), draws=2)["here"]
    assert (tmp_path / "adaptation.json").is_file()
    assert found["images"] == 13
    assert found["adapted_to"] + found["measured_on"] in (12, 13)

    ids = np.array([1, 3])[lab[:13]["label"]]  # lymphocyte and neutrophil among the model's four types
    first = split_in_halves(ids, np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]))
    cells = [model.image_processor.preprocess_cells(image)["pixel_values"][:1] for image in lab[:13]["image"]]

    def balanced(copied):
        recalls = []
        for each in (1, 3):
            rows = np.flatnonzero(~first & (ids == each))
            answers = [
                copied(cells[row]).logits[0, [1, 3]].argmax().item() if len(cells[row]) else None for row in rows
            ]
            recalls.append(np.mean([answer is not None and (1, 3)[answer] == each for answer in answers]))
        return np.mean(recalls)

    own = [row for row in np.flatnonzero(first) if len(cells[row])]
    pixel_values = torch.cat([cells[row] for row in own])
    assert found["adapted_to"] == len(own)
    for name, moves in (("kept", False), ("moved", True)):
        assert found["norms"][name] == pytest.approx(balanced(model.adapt(pixel_values, move_norms=moves)))
    adapted = model.adapt(pixel_values)
    assert found["labels"]["0"]["mean"] == pytest.approx(balanced(adapted))
    assert found["norms_moved"] == adapted.config.adaptation["norms_moved"]
    shares = []
    for seed in range(2):
        shuffled = np.random.default_rng([seed, 2]).permutation(own)
        drawn = {row for each in (1, 3) for row in shuffled[ids[shuffled] == each][:2]}
        copied = model.adapt(pixel_values, [int(ids[row]) if row in drawn else None for row in own])
        shares.append(balanced(copied))
    assert found["labels"]["2"]["mean"] == pytest.approx(np.mean(shares))
    assert (found["labels"]["2"]["low"], found["labels"]["2"]["high"]) == (min(shares), max(shares))
    lines = describe_adaptation({"here": found}).splitlines()
    assert len(lines) == 3  # a title, the head and the lab
    assert lines[2].startswith("here")


def test_a_lab_in_which_nothing_is_found_is_refused_by_name(model, lab, monkeypatch):
    monkeypatch.setattr(module, "MAX_IMAGES", 5)
    with pytest.raises(UserError, match="no cell was found in the images of the lab blank"):
        measure_adaptation(model, {"blank": lab.select([12, 12, 12, 12, 12, 12])})


def test_an_adapted_copy_is_refused(model, lab):
    copied = model.adapt(lab[:2]["image"])
    with pytest.raises(UserError, match="adapt the original"):
        measure_adaptation(copied, {"here": lab})
