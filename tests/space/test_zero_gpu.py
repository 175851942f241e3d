"""The Space on ZeroGPU, where a call runs in another process, which has a GPU."""

import importlib
import pickle
import sys
import types

import pytest

import space.classifier
import space.zero_gpu
from hub.data.synthetic import draw_field
from tests.publish.clients import CHECKPOINT


@pytest.fixture
def lent(monkeypatch):
    """The calls that were lent a GPU: the package `spaces`, with processes that exchange pickles."""
    calls = []

    def gpu(task):
        def call(*arguments):
            calls.append(arguments)
            return pickle.loads(pickle.dumps(task(*pickle.loads(pickle.dumps(arguments)))))

        return call

    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    for module in (space.zero_gpu, space.classifier):
        importlib.reload(module)
    yield calls
    monkeypatch.undo()
    for module in (space.zero_gpu, space.classifier):
        importlib.reload(module)


def test_an_analysis_borrows_the_gpu_and_answers_as_elsewhere(lent):
    images = [("one.png", draw_field("neutrophil", seed=3)), ("two.png", draw_field("monocyte", seed=4))]
    classifier = space.classifier.Classifier(str(CHECKPOINT))
    answers = [answer for answer, _ in classifier.answers(images, 256)]
    assert len(lent) == 1
    assert [answer["status"] for answer in answers] != ["empty", "empty"]
    # Adapted weights are not in the other process.
    classifier.model = space.zero_gpu._model(str(CHECKPOINT))
    assert [answer for answer, _ in classifier.answers(images, 256)] == answers
    assert len(lent) == 1
