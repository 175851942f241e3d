"""Shared by the tests of inference: a classifier that costs nothing, and processes that start at once."""

import multiprocessing

import pytest
import torch

from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of an untrained tiny model of crops."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    WBCImageProcessor(size=32).save_pretrained(folder)
    WBCForImageClassification(WBCConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def processes():
    """A context whose processes are new ones, forked off one that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.inference.processes"])
    return context
