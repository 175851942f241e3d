"""`python -m hub labs`: what a classifier is right on, knows and refuses in each lab."""

import io
import json
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hub.__main__ import main
from hub.data.load import save
from hub.data.synthetic import draw_field
from hub.evaluation import labs as module
from hub.evaluation.labs import load_labs, measure
from hub.evaluation.sheets import contact_sheet
from hub.files import UserError
from modeling_wbc import Cell, Field, WBCConfig, WBCForImageClassification, WBCImageProcessor

TYPES = ["basophil", "eosinophil", "monocyte", "platelet"]
# The answer of `Reader` by the grey level of an image's first pixel: probabilities of TYPES, and whether it is known.
ANSWERS = {
    10: ([0.95, 0.02, 0.02, 0.01], True),
    20: ([0.05, 0.92, 0.02, 0.01], True),
    30: ([0.05, 0.92, 0.02, 0.01], False),
    40: ([0.10, 0.20, 0.30, 0.40], True),  # a platelet, and a monocyte where there are none
    50: None,  # no cell
}


class Reader:
    """A classifier that answers by the first pixel, and keeps the number of images of each call."""

    def __init__(self):
        self.config = SimpleNamespace(num_labels=4, id2label=dict(enumerate(TYPES)))
        self.calls = []

    def analyze(self, images):
        one = not isinstance(images, list)
        self.calls.append(1 if one else len(images))
        fields = [self.field(source) for source in ([images] if one else images)]
        return fields[0] if one else fields

    def field(self, source):
        try:
            with Image.open(source) as image:
                answer = ANSWERS[image.convert("L").getpixel((0, 0))]
        except OSError as error:
            raise ValueError(f"cannot read the image: {error}") from error
        if answer is None:
            return Field([], tuple(TYPES))
        probabilities, known = answer
        foremost = cell(probabilities, known)
        return Field([foremost, cell([0.0, 0.0, 0.0, 1.0], True)], tuple(TYPES))


def cell(probabilities, known):
    named = dict(zip(TYPES, probabilities, strict=True))
    remark = None if known else "unfamiliar stain"
    box = (0, 0, 4, 4)
    return Cell(box, box, 0.5, max(named, key=named.get), named, 1.0, 1.0, known, [[0.0]], remark=remark)


def encoded(level):
    if level is None:
        return b"\x89PNG\r\n\x1a\n no image"
    file = io.BytesIO()
    Image.new("L", (4, 4), level).save(file, "png")
    return file.getvalue()


def lab(levels, labels, names=TYPES, **columns):
    """A data set of images of these grey levels and types; None is a damaged file."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    features |= dict.fromkeys(columns, datasets.Value("string"))
    rows = {"image": [{"bytes": encoded(level), "path": None} for level in levels], "label": labels, **columns}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def test_the_figures_of_a_lab_by_hand():
    labels = ["basophil"] * 4 + ["monocyte"] * 4
    images = lab([10, 10, 20, 50, 40, 30, 20, 10], labels, group=["a", "a", "b", None, "c", None, "c", "d"])
    found = measure(Reader(), {"here": images})["labs"]["here"]
    assert found["types"] == ["basophil", "monocyte"]
    assert found["images"] == 8
    assert found["groups"] == 6  # four, and two images without one
    # Without eosinophils and platelets: 20 and 30 are basophils, 40 a monocyte.
    assert found["confusion_matrix"] == [[3, 0, 1], [3, 1, 0]]
    assert found["accuracy"] == 4 / 8
    assert found["balanced_accuracy"] == (3 / 4 + 1 / 4) / 2
    # With all types, only those of 10 among the basophils are right.
    assert found["accuracy_of_all_types"] == 2 / 8
    assert found["found"] == 7 / 8
    assert found["known"] == 6 / 8
    assert found["refused"] == 2  # the unknown one, and the one not found
    assert found["confidently_wrong"] == 3 / 8  # neither 30, which is unknown, nor 40, which is not sure
    # 10: 2 of 3 right at 0.95; 20 and 30: none of 3 at 0.92; 40: wrong at 0.4; and the bins of 0.95 and 0.92 differ.
    expected = (abs(2 - 3 * 0.95) + 3 * 0.92 + 0.4) / 7
    assert found["expected_calibration_error"] == pytest.approx(expected)
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high


def test_other_types_are_left_out_and_counted_and_case_does_not_matter():
    images = lab([10, 20, 20, 50], [0, 2, 1, 2], names=["Basophil", "blast", "EOSINOPHIL"])
    reader = Reader()
    found = measure(reader, {"here": images})["labs"]["here"]
    assert found["left_out"] == {"blast": 1}
    assert found["images"] == sum(reader.calls) == 3
    assert found["types"] == ["basophil", "eosinophil"]
    assert found["confusion_matrix"] == [[1, 0, 0], [0, 1, 1]]
    with pytest.raises(UserError, match="knows no type of the lab blasts, which has blast, smudge; it knows basophil"):
        measure(reader, {"here": images, "blasts": lab([10], [0], names=["blast", "smudge"])})
    assert sum(reader.calls) == 3  # refused before any image is analysed


def test_a_damaged_image_is_named_and_counted_and_the_run_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(module, "_CHUNK", 3)
    levels = [10, 10, 20, 10, None, 20, 50]
    images = lab(levels, [0, 0, 1, 0, 0, 1, 1], file_name=[f"{number}.png" for number in range(7)])
    reader = Reader()
    found = measure(reader, {"here": images})["labs"]["here"]
    assert found["unreadable"] == ["4.png"]
    assert "4.png of the lab here: cannot read the image" in caplog.text
    assert found["images"] == 6
    assert found["confusion_matrix"] == [[3, 0, 0], [0, 2, 1]]  # the rows after it keep their types
    assert max(reader.calls) == 3
    with pytest.raises(UserError, match="no image of the lab here could be read"):
        measure(reader, {"here": lab([None], [0])})


def test_a_lab_in_which_nothing_is_found_has_no_calibration_error():
    found = measure(Reader(), {"here": lab([50, 50], [0, 1])})["labs"]["here"]
    assert found["expected_calibration_error"] is None
    assert found["groups"] is None
    assert (found["accuracy"], found["refused"]) == (0, 2)


def test_the_sheet_shows_known_mistakes_the_most_probable_first(tmp_path, monkeypatch):
    drawn = []

    def laid_out(tiles, **layout):
        drawn.extend(tiles)
        return contact_sheet(tiles, **layout)

    monkeypatch.setattr(module, "contact_sheet", laid_out)
    images = lab([10, 40, 20, 30, 50, 10], [0, 0, 0, 0, 0, 1], file_name=[f"{number}.png" for number in range(6)])
    measure(Reader(), {"here": images}, tmp_path / "out")
    # The last is sure by 0.95, 20 by 0.92, 40 by 0.4; the first is right, 30 unknown, 50 has no cell.
    assert [np.asarray(tile.convert("L"))[-100, 5] for tile in drawn] == [10, 20, 40]
    with Image.open(tmp_path / "out" / "mistakes.png") as sheet:
        assert sheet.height == drawn[0].height + 4
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", keep_default_na=False)
    assert table["remark"].to_list() == ["", "", "", "unfamiliar stain", "", ""]


def test_the_share_of_unfamiliar_stain_is_among_the_refused():
    found = measure(Reader(), {"here": lab([10, 30, 30, 50], [0, 0, 0, 1])})["labs"]["here"]
    assert (found["known"], found["unfamiliar_stain"], found["refused"]) == (0.25, 0.5, 3)


def test_groups_widen_the_interval():
    levels, groups = [10] * 40 + [20] * 40, [str(number // 10) for number in range(80)]
    both = {"alone": lab(levels, [0] * 80), "grouped": lab(levels, [0] * 80, group=groups)}
    alone, grouped = (
        np.diff(found["intervals"]["accuracy_of_all_types"])[0] for found in measure(Reader(), both)["labs"].values()
    )
    assert grouped > 2 * alone > 0


def two_labs():
    """Splits with the columns of earlier versions: bccd in all of them, chula in two, pbc in training alone."""
    known = {"train": ("bccd", "chula", "pbc"), "validation": ("bccd", "chula"), "test": ("bccd",)}
    return {
        split: lab(
            [10, 20] * len(names),
            [0, 1] * len(names),
            dataset=np.repeat(names, 2).tolist(),
            photograph=[f"{split} {number}" for number in range(2 * len(names))],
        )
        for split, names in known.items()
    }


def test_each_lab_is_measured_on_its_first_split_that_has_it(tmp_path):
    splits = two_labs()
    save(datasets.DatasetDict(splits), tmp_path / "union")
    source = str(tmp_path / "union")
    with pytest.raises(UserError, match="no image of the lab pbc in the split test or validation, only in train"):
        load_labs([source])
    loaded = load_labs([source], ["test", "validation", "train"])
    assert {name: str(images.split) for name, images in loaded.items()} == {
        "bccd": "test", "chula": "validation", "pbc": "train",
    }  # fmt: skip
    assert loaded["chula"]["photograph"][:] == ["validation 2", "validation 3"]
    joined = load_labs([source], ["test", "train+validation"])
    assert {name: len(images) for name, images in joined.items()} == {"bccd": 2, "chula": 4, "pbc": 2}
    found = measure(Reader(), joined)["labs"]
    assert [figures["split"] for figures in found.values()] == ["test", "train+validation", "train+validation"]
    assert found["chula"]["groups"] == 4


def test_the_column_lab_comes_before_the_name_of_the_folder(tmp_path):
    save(datasets.DatasetDict(test=lab([10, 20], [0, 1], lab=["tehran", None])), tmp_path / "cells")
    assert list(load_labs([tmp_path / "cells"])) == ["tehran", "cells"]
    with pytest.raises(UserError, match="has the lab cells, which an earlier data set has, too"):
        load_labs([tmp_path / "cells", tmp_path / "cells"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of an untrained tiny model of crops that knows about half of the drawn cells."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    WBCImageProcessor(size=32).save_pretrained(folder)
    model = WBCForImageClassification(WBCConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).eval()
    model.novelty.whitening.normal_()
    fields = model.analyze([draw_field("neutrophil", seed) for seed in range(8)], WBCImageProcessor(size=32))
    model.config.max_novelty = float(np.median([field.cells[0].novelty for field in fields]))
    model.save_pretrained(folder)
    return folder


def test_the_command_measures_folders_of_images_and_writes_all(model, tmp_path, capsys):
    plain = tmp_path / "mine"
    for name in ("lymphocyte", "neutrophil"):
        (plain / name).mkdir(parents=True)
        for seed in range(6):
            draw_field(name, seed).save(plain / name / f"{name}_{seed}.png")
    Image.new("RGB", (80, 60), "white").save(plain / "neutrophil" / "neutrophil_6.png")
    other = tmp_path / "other" / "test" / "monocyte"
    other.mkdir(parents=True)
    (tmp_path / "other" / "test" / "eosinophil").mkdir()
    draw_field("monocyte", 1).save(other / "a.png")
    draw_field("eosinophil", 1).save(other.parent / "eosinophil" / "b.png")
    output = tmp_path / "out"
    sources = ["--dataset", str(plain), "--dataset", str(tmp_path / "other")]
    arguments = ["labs", "--model", str(model), *sources, "--output", str(output)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert results["model"] == str(model)
    assert {name: found["split"] for name, found in results["labs"].items()} == {"mine": "all", "other": "test"}

    table = pd.read_csv(output / "predictions.csv", dtype=str, keep_default_na=False)
    assert len(table) == 15
    own = table[table["lab"] == "mine"]
    loaded = WBCForImageClassification.from_pretrained(model)
    labels = list(loaded.config.id2label.values())
    for row in own.itertuples():
        field = loaded.analyze(plain / row.file_name)
        assert row.label == row.file_name.split("/")[0]
        assert row.found == ("yes" if field.cells else "no")
        if not field.cells:
            assert (row.prediction, row.confidence, row.known) == ("", "", "no")
            continue
        first = field.cells[0]
        assert row.prediction == first.label
        assert row.known == ("yes" if first.known else "no")
        assert float(row.confidence) == pytest.approx(max(first.probabilities.values()), abs=1e-4)
        assert row.prediction_of_lab == max(("lymphocyte", "neutrophil"), key=first.probabilities.get)
    found = results["labs"]["mine"]
    assert found["accuracy"] == pytest.approx((own["label"] == own["prediction_of_lab"]).mean())
    assert found["known"] == pytest.approx((own["known"] == "yes").mean())
    assert 0 < found["known"] < found["found"] == 12 / 13
    assert set(labels) >= set(own["prediction"]) - {""}
    assert "mine " in printed
    for name in ("labs.png", "mistakes.png"):
        with Image.open(output / name) as picture:
            assert picture.width > 1000
    assert main(arguments) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert {*own["remark"]} == {"", "no smear"}
    few = ["--dataset", str(tmp_path / "other"), "--output", str(tmp_path / "few"), "--corruptions"]
    assert main([*arguments[:3], *few]) == 0
    assert "colour cast" in capsys.readouterr().out
    corrupted = json.loads((tmp_path / "few" / "results.json").read_text(encoding="utf-8"))["corruptions"]["other"]
    assert corrupted["images"] == 2
    for name in ("accuracy", "known"):
        assert corrupted["clean"][name] == results["labs"]["other"][name]
    assert main([*arguments[:-1], str(tmp_path / "new"), "--split", "validation"]) == 1
    assert "no image of the lab other in the split validation, only in test" in capsys.readouterr().err
