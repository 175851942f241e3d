"""The pipeline around `preprocess_cells` and the network: bounded, in order, the same from every source."""

import os
import subprocess
import sys
import time
from pathlib import Path

import datasets
import psutil
import pytest
import torch
from PIL import Image

from hub.__main__ import main
from hub.data.synthetic import draw_field
from hub.files import UserError
from hub.inference.inputs import Input
from hub.inference.pipeline import analyze_inputs
from hub.inference.predict import predict
from hub.inference.rows import Rows
from hub.inference.threads import Share, network_threads, share_cores
from modeling_wbc import WBCForImageClassification
from tests.inference.tables import assert_same_answers, table

ROOT = Path(__file__).parents[2]
TYPES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of twelve images, the third of which is damaged."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        draw_field(TYPES[number % 4], number).save(folder / f"{number:02d}.png")
    (folder / "02.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def expected(images, model, tmp_path_factory):
    """The answers of one process."""
    output = tmp_path_factory.mktemp("expected")
    predict([images], model, output, workers=0)
    return output


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_read_as_they_are_wanted_and_answered_in_order(workers, images, model):
    asked, classifier = [], WBCForImageClassification.from_pretrained(model).eval()

    def inputs():
        for number, path in enumerate(sorted(images.iterdir()) * 4):
            asked.append(number)
            yield number, Input(str(path), path)

    numbers, ahead = [], []
    for number, item, field, image in analyze_inputs(classifier, inputs(), workers, batch_size=4, keep_images=True):
        numbers.append(number)
        ahead.append(len(asked) - len(numbers))
        assert (field is None) == (image is None) == item.name.endswith("02.png")
        assert item.source is None
        time.sleep(0.005)
    assert numbers == list(range(48))
    assert max(ahead) <= (2 * workers + 2 * 4 if workers else 4)


def test_workers_go_on_until_the_next_batch_is_there_while_the_network_computes(images, model, monkeypatch):
    asked, ahead = [], []
    classifier = WBCForImageClassification.from_pretrained(model).eval()

    def inputs():
        for number in range(60):
            asked.append(number)
            yield number, Input("00.png", images / "00.png")

    def forward(*args, original=classifier.forward, **kwargs):
        taken = 4 * (1 + len(ahead))  # with the batch of this call
        deadline = time.monotonic() + 60
        while len(asked) < min(60, taken + 4) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)  # in which more would be asked for than may wait
        ahead.append(len(asked) - taken)
        return original(*args, **kwargs)

    monkeypatch.setattr(classifier, "forward", forward)
    assert len([*analyze_inputs(classifier, inputs(), 2, batch_size=4)]) == 60
    assert len(ahead) == 15
    assert min(ahead[:10]) >= 4
    assert max(ahead) <= 4 + 2 * 2


def test_breaking_off_ends_the_workers(images, model):
    classifier = WBCForImageClassification.from_pretrained(model).eval()
    inputs = ((number, Input("00.png", images / "00.png")) for number in range(10**6))
    others = psutil.Process().children()
    answers = analyze_inputs(classifier, inputs, 2, batch_size=4)
    next(answers)
    children = [child for child in psutil.Process().children() if child not in others]
    assert len(children) == 2
    answers.close()
    psutil.wait_procs(children, timeout=30)
    assert not [child for child in children if child.is_running()]


def test_an_image_with_several_cells_is_one_field_whatever_the_batch(model, tmp_path):
    wide = Image.new("RGB", (960, 240))
    for place in range(3):
        wide.paste(draw_field(TYPES[place], place), (320 * place, 0))
    wide.save(tmp_path / "wide.png")
    classifier = WBCForImageClassification.from_pretrained(model).eval()
    inputs = [(number, Input("wide.png", tmp_path / "wide.png")) for number in range(3)]
    whole = classifier.analyze(tmp_path / "wide.png")
    assert len(whole.cells) == 3
    for batch_size in (1, 2, 4, 32):
        for *_, field, _ in analyze_inputs(classifier, iter(inputs), 0, batch_size):
            assert [cell.box for cell in field.cells] == [cell.box for cell in whole.cells]
            for cell, other in zip(field.cells, whole.cells, strict=True):
                assert cell.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_a_network_whose_output_is_not_finite_is_named(model, images, tmp_path):
    broken = WBCForImageClassification.from_pretrained(model)
    torch.nn.init.constant_(broken.classifier[1].weight, float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError, match="none of 1 inputs could be read"):
        predict([images / "00.png"], tmp_path / "broken", tmp_path / "out")
    (row,) = table(tmp_path / "out")
    assert (row["status"], row["reason"]) == ("failed", "the network's output is not a finite number")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_gives_the_answers_of_its_files(streaming, images, model, expected, tmp_path, capsys):
    paths = [str(path) for path in sorted(images.iterdir())]
    rows = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image(decode=False))
    rows = rows.map(lambda row: {"image": {"bytes": Path(row["image"]["path"]).read_bytes(), "path": None}})
    rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / "data" / "test-0.parquet")
    argv = ["predict", "--dataset", str(tmp_path / "data"), "--model", str(model), "--output", str(tmp_path / "out")]
    assert main([*argv, *["--streaming"] * streaming]) == 0
    found, files = table(tmp_path / "out"), table(expected)
    assert [row["file"].rpartition("/")[2] for row in found] == [str(int(Path(row["file"]).stem)) for row in files]
    assert [row["label"] for row in found] == [row["label"] for row in files]
    assert [row["status"] for row in found] == ["ok", "ok", "not an image", *["ok"] * 9]
    with pytest.raises(UserError, match="split nowhere"):
        Rows(str(tmp_path / "data"), "nowhere", streaming)


def test_two_processes_give_the_answers_of_one(images, model, expected, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hub"]
    done = subprocess.run(
        [sys.executable, *launcher, "predict", images, "--model", model, "--output", tmp_path / "out"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("11 cells") == 1
    assert_same_answers(tmp_path / "out", expected)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cells.csv"]


def test_the_cores_are_shared_and_what_the_user_sets_wins(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert share_cores(Share(), 100, None, on_cpu=True) == (4, 4)
    assert share_cores(Share(), 100, 6, on_cpu=True) == (6, 2)
    assert share_cores(Share(), 100, None, on_cpu=False) == (7, 1)
    assert share_cores(Share(), 1, None, on_cpu=True) == (0, 8)
    four = Share(1, 4, 1, 4)
    assert share_cores(four, 100, None, on_cpu=True) == (1, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert share_cores(Share(), 100, 2, on_cpu=True) == (2, 3)


def test_the_caller_keeps_its_threads(images, model, tmp_path, monkeypatch):
    threads = []

    def noted(*args, **kwargs):
        threads.append(torch.get_num_threads())
        return analyze_inputs(*args, **kwargs)

    monkeypatch.setattr("hub.inference.predict.analyze_inputs", noted)
    monkeypatch.setattr("hub.inference.predict.share_cores", lambda *_: (0, 1))
    with network_threads(2):
        predict([images], model, tmp_path / "out")
        threads.append(torch.get_num_threads())
    assert threads == [1, 2]
