"""Downloads of a model that go wrong."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from modeling_wbc import WBCConfig, WBCForImageClassification
from tests.publish.clients import CHECKPOINT, REPO, pushed, stranger
from tests.publish.hub_server import USER, Fault


def tiny(folder, **options):
    torch.manual_seed(0)
    config = WBCConfig(**{"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32} | options)
    WBCForImageClassification(config).save_pretrained(folder)
    return folder


LOAD = """
import json
from transformers import AutoModelForImageClassification
results = []
for name in {names}:
    try:
        model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True)
        results.append(float(sum(weight.double().sum() for weight in model.state_dict().values())))
    except OSError as error:
        results.append(str(error))
print(json.dumps(results))
"""


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/cdn/", kind="drop", after=5 * 2**22),  # the client writes 10 MB at a time
        Fault("GET", "/cdn/", kind="slow", seconds=0.002),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_broken_or_slow_download_is_whole_in_the_end(fresh, tmp_path, fault):
    weights = CHECKPOINT / "model.safetensors"
    assert pushed(fresh, tmp_path, CHECKPOINT)[0] == "pushed"
    fresh.faults.append(fault)
    expected = sum(weight.double().sum() for weight in load_file(weights).values()).item()
    assert stranger(fresh, tmp_path / "home", LOAD.format(names=[REPO])) == [pytest.approx(expected, rel=1e-9)]
    assert fault.times == 0
    if fault.kind == "drop":  # and went on where it broke off
        assert ("GET", 206) in {(method, status) for method, path, status in fresh.requests if "/cdn/" in path}


def test_weights_that_are_not_the_models_are_an_error_that_names_the_file(fresh, tmp_path):
    def truncated(folder, weights):
        weights.write_bytes(weights.read_bytes()[:-1000])

    def deeper(folder, weights):
        shutil.copy(tiny(folder.with_name("two"), depths=[1, 2]) / "model.safetensors", weights)

    def wider(folder, weights):
        shutil.copy(tiny(folder.with_name("wide"), hidden_sizes=[8, 24]) / "model.safetensors", weights)

    def pickled(folder, weights):
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()

    repo_ids = []
    for spoil in (truncated, deeper, wider, pickled):
        folder = tiny(tmp_path / spoil.__name__)
        spoil(folder, folder / "model.safetensors")
        repo_ids.append(f"{USER}/{spoil.__name__}")
        assert pushed(fresh, tmp_path, folder, repo_id=repo_ids[-1])[0] == "pushed"
    errors = stranger(fresh, tmp_path / "home", LOAD.format(names=repo_ids))
    assert f"model.safetensors of {repo_ids[0]} is damaged" in errors[0]
    for repo_id, error in zip(repo_ids[1:3], errors[1:3], strict=True):
        assert f"model.safetensors of {repo_id} holds a network of another architecture" in error
    assert "has no model.safetensors" in errors[3]
    assert "a pickle could run code" in errors[3]
