"""Errors of the publishing commands before anything is sent."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub.__main__ import main
from tests.publish.clients import CHECKPOINT, DATASET, MODEL, ROOT, SPACE, command
from tests.publish.hub_server import TOKEN


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run `python -m hub` here, where there is a token and no network, and return the error that it ends with."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def refused(*arguments):
        assert main([*map(str, arguments)]) == 1
        return capsys.readouterr().err

    return refused


@pytest.mark.parametrize("repo_id", ["cells", "a/b/c", "someone/ce lls", "someone/cells--and", "someone/.cells"])
@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_wrong_id_is_refused(refused, kind, repo_id):
    assert f"{repo_id!r} is not the id of a repository" in refused(kind, "push", "--repo-id", repo_id)


def test_without_a_token_the_error_says_how_to_get_one(fresh, tmp_path):
    printed = command(fresh, tmp_path, "space", "push", "--repo-id", SPACE, token=None, status=1)
    assert "https://huggingface.co/settings/tokens" in printed
    assert "hf auth login" in printed
    assert fresh.requests == []
    printed = command(fresh, tmp_path, "space", "push", "--repo-id", SPACE, token="hf_wrong", status=1)
    assert "Invalid credentials" in printed
    assert "hf_wrong" not in printed
    assert fresh.repos == {}
    printed = command(fresh, tmp_path, "space", "push", "--repo-id", "somebody-else/wbc", status=1)
    assert "rights" in printed
    assert fresh.repos == {}


def test_a_dry_run_lists_and_touches_nothing(fresh, tmp_path):
    printed = command(fresh, tmp_path, "space", "push", "--repo-id", SPACE, "--dry-run", token=None)
    assert re.search(rf"app\.py +{(ROOT / 'app.py').stat().st_size:,}\n", printed)
    assert "nothing was" in printed
    assert fresh.requests == []


def test_arguments_that_contradict_are_explained(fresh, tmp_path):
    printed = command(
        fresh, tmp_path, "space", "push", "--repo-id", SPACE, "--create-pr", "--revision", "v2", status=2
    )
    assert "leave out --revision" in printed


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the checkpoint to spoil."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def test_a_checkpoint_that_does_not_fit_together_is_not_pushed(refused, checkpoint):
    push = ("model", "push", "--repo-id", MODEL, "--checkpoint", checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    save_file(weights | {"classifier.1.bias": torch.zeros(5)}, checkpoint / "model.safetensors", {"format": "pt"})
    assert "classifier.1.bias has the shape (5,) in the weights, and (8,) by the configuration" in refused(*push)
    (checkpoint / "model.safetensors").write_bytes((CHECKPOINT / "model.safetensors").read_bytes()[:-7])
    assert "model.safetensors is damaged" in refused(*push)
    (checkpoint / "results.json").unlink()
    assert f"{checkpoint} has no results.json" in refused(*push)
    shutil.rmtree(checkpoint)
    assert f"{checkpoint} has no config.json and no" in refused(*push)


def test_a_folder_that_no_build_wrote_is_no_dataset(refused, tmp_path):
    printed = refused("dataset", "push", "--repo-id", DATASET, "--dataset", tmp_path)
    assert "build the data set with `python -m hub dataset build`" in printed
