"""Several jobs at once: a large image holds nobody up, and a job can be cancelled."""

import copy
import threading
import zipfile

import pytest
from PIL import Image

from hub.data.synthetic import draw_field
from space import jobs
from space.jobs import Jobs, answers_to_many


@pytest.fixture(scope="module")
def large():
    """A field of 100 cells, which the network takes in four batches."""
    cell = draw_field("lymphocyte", 3, (160, 120))
    field = Image.new("RGB", (1600, 1200))
    for index in range(100):
        field.paste(cell, (index % 10 * 160, index // 10 * 120))
    return field


@pytest.fixture
def batches(classifier):
    """The numbers of cells of the batches that the network is given, and functions to call before each."""
    sizes, before = [], []

    def note(_, arguments):
        sizes.append(len(arguments[0]))
        for function in before:
            function()

    handle = classifier.model.register_forward_pre_hook(note)
    yield sizes, before
    handle.remove()


def test_a_small_image_does_not_wait_for_a_large_one(classifier, known, large, batches):
    sizes, before = batches
    ended = []

    def ask(name, image):
        ((answer, _),) = classifier.answers([(name, image)], 64)
        ended.append((name, len(answer["cells"]), len(sizes)))

    visitor = threading.Thread(target=ask, args=("small", str(known[0])))

    def visit():
        if not visitor.ident:
            visitor.start()

    before.append(visit)
    ask("large", large)
    visitor.join(120)
    (first, cells, batch), (second, many, _) = ended
    assert (first, second) == ("small", "large")
    assert cells == len(known[1]["cells"])
    assert many == 100
    assert batch < len(sizes) == 5


def test_a_cancelled_job_ends_in_its_image_and_frees_the_network(classifier, known, large, batches):
    sizes, before = batches
    running = Jobs()
    before.append(lambda: running.cancel("somebody else"))
    before.append(lambda: len(sizes) == 2 and running.cancel("visitor"))
    with running.running("visitor") as cancelled:
        classifier.answers([("large", large)], 64)
        raise AssertionError("the job went on")
    assert cancelled.is_set()
    assert sizes == [32, 32]
    # Neither the next job of the visitor nor anybody else is affected.
    with running.running("visitor") as cancelled:
        ((answer, _),) = classifier.answers([("small", str(known[0]))], 64)
    assert answer["cells"] == known[1]["cells"]
    assert not cancelled.is_set()


def test_an_error_in_the_network_frees_it(classifier, known, batches):
    def fail():
        raise RuntimeError("out of memory")

    batches[1].append(fail)
    ((answer, _),) = classifier.answers([("small", str(known[0]))], 64)
    assert answer["status"] == "unreadable"
    batches[1].clear()
    # A copy takes its turns with the original.
    for model in (copy.deepcopy(classifier.model), classifier.model):
        assert len(model.analyze(str(known[0]), classifier.image_processor).cells) == len(known[1]["cells"])


def test_the_progress_counts_images_also_those_of_an_archive(classifier, folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "five.zip", "w") as archive:
        for number in range(4):
            archive.write(folder / f"monocyte-{number}.png", f"a/{number}.png")
        archive.writestr("a/notes.txt", "no image")
        archive.writestr("a/damaged.png", b"no image")
    (tmp_path / "empty.zip").write_bytes(b"")
    files = [str(tmp_path / "five.zip"), str(tmp_path / "empty.zip"), str(folder / "six.png")]
    heard = []
    answers = list(answers_to_many(classifier, files, 64, lambda done, unit: heard.append(done)))
    assert heard == [(done, 7) for done in range(1, 8)]
    assert [answer["file"] for answer, _, _ in answers][4:] == ["five.zip/a/damaged.png", "empty.zip", "six.png"]


def test_a_cancelled_job_of_many_images_gives_what_it_has(classifier, folder, monkeypatch):
    monkeypatch.setattr(jobs, "_BATCH", 2)
    files = [str(folder / f"monocyte-{number}.png") for number in range(8)]
    running, answers = Jobs(), []

    def progress(done, unit):
        if done == (5, 8):
            running.cancel("visitor")

    with running.running("visitor"):
        for answer in answers_to_many(classifier, files, 64, progress):
            answers.append(answer)
    assert [answer["file"] for answer, _, _ in answers] == [f"monocyte-{number}.png" for number in range(4)]
