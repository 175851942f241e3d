"""Data sets of drawn cells, a tiny model and a finished run, made once."""

import datasets
import pytest
import torch
from runs import TINY, arguments, launch

from hub.data.bccd import BCCD_CLASSES
from hub.data.columns import PHOTOGRAPH_COLUMNS, features
from hub.data.load import save
from hub.data.synthetic import draw_field, drawn_cells
from hub.inference.threads import network_threads
from modeling_wbc import WBCConfig, WBCForImageClassification


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A saved data set of drawn cells: 24 to train on, 12 to test."""
    folder = tmp_path_factory.mktemp("data") / "cells"
    save(drawn_cells(seed=0, train=24, test=12), folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of an untrained tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    WBCForImageClassification(WBCConfig(**TINY)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def trained(data, tiny, tmp_path_factory):
    """A finished run of two epochs with evaluation, and what it printed; tests copy the folder."""
    output = tmp_path_factory.mktemp("trained") / "run"
    process = launch(
        *("-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu.yaml", "train.py"),
        *arguments(data, tiny, output, "--num_train_epochs", "2", "--do_train", "--do_eval"),
    )
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return output, printed


@pytest.fixture(scope="session")
def blood(tmp_path_factory):
    """A small data set of two labs: photographs with files made from them as BCCD's, and single cells."""
    names = ("basophil", *BCCD_CLASSES)
    columns = features(names, "lab", "group", *PHOTOGRAPH_COLUMNS)
    splits = {}
    for split, first in {"train": 0, "test": 100, "validation": 200}.items():
        rows = []
        photographs = []
        for number in range(first, first + 8):
            label, name = BCCD_CLASSES[number % 4], f"photo {number}"
            image = draw_field(label, seed=number, size=(160, 120))
            known = {"label": label, "photograph": name, "group": name, "lab": "bccd"}
            photographs.append(known | {"image": image, "file_name": f"bccd/{name}.jpg"})
            for copy in range(1 + number % 3):
                file = image.rotate(20 * copy)
                rows.append(known | {"image": file, "file_name": f"bccd/{copy}_{number}.jpg", "match_error": 1.0})
        for number in range(first, first + 6):
            label = ("basophil", "monocyte", "neutrophil")[number % 3]
            image = draw_field("monocyte", seed=500 + number, size=(60, 60))
            rows.append({"label": label, "image": image, "file_name": f"pbc/{number}.jpg", "lab": "pbc"})
        for part, content in ((split, rows), (f"{split}_photographs", photographs)):
            splits[part] = datasets.Dataset.from_dict(
                {column: [row.get(column) for row in content] for column in columns}, features=columns
            )
    folder = tmp_path_factory.mktemp("blood") / "cells"
    save(datasets.DatasetDict(splits), folder)
    return str(folder)


@pytest.fixture
def one_thread(monkeypatch):
    """Have this process and those it starts compute on one thread; several may add in another order each time."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with network_threads(1):
        yield
