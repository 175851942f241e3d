"""`python -m hub predict` when it is killed, when a worker of it dies, and when the disk is full."""

import os
import random
import signal
import zipfile

import psutil
import pytest

from hub.data.synthetic import draw_field
from hub.inference.predict import predict
from tests.inference.processes import answered, finish, start, wait_until
from tests.inference.tables import assert_same_answers, table


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of thirty images, one in ten of them damaged, and a ZIP archive of ten."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "smears").mkdir()
    field = draw_field("monocyte", 1)
    for number in range(30):
        path = folder / "smears" / f"{number:02d}.png"
        field.rotate(number).save(path)
        if number % 10 == 3:
            path.write_bytes(path.read_bytes()[:200])
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for number in range(10):
            archive.write(folder / "smears" / f"{number:02d}.png", f"{number}.png")
    return [folder / "smears", folder / "more.zip"]


@pytest.fixture(scope="module")
def expected(images, model, tmp_path_factory):
    """The output of a run that nothing interrupts, in one process."""
    output = tmp_path_factory.mktemp("expected")
    predict(images, model, output, workers=0)
    return output


def arguments(images, model, output):
    return ["predict", *images, "--model", model, "--output", output, "--workers", "1", "--batch-size", "3"]


def test_a_run_that_is_killed_goes_on_without_a_row_lost_or_doubled(images, model, expected, processes, tmp_path):
    draw, kills, process = random.Random(0), 0, None
    output = tmp_path / "out"
    while process is None or finish(process) != 0:
        process = start(processes, arguments(images, model, output), tmp_path / "stderr")
        target = answered(output) + draw.randint(3, 9)
        if wait_until(lambda target=target: answered(output) > target, process):
            if kills == 0:  # this time its worker process lives on for a moment
                os.kill(process.pid, signal.SIGKILL)
            else:
                os.killpg(process.pid, signal.SIGKILL)
            kills += 1
    assert kills >= 2
    assert_same_answers(output, expected)
    assert [path.name for path in output.iterdir()] == ["cells.csv"]
    assert "going on after" in (tmp_path / "stderr").read_text()


def test_an_unfinished_run_goes_on_with_the_same_command_only(images, model, processes, tmp_path):
    output = tmp_path / "out"
    process = start(processes, arguments(images, model, output), tmp_path / "stderr")
    assert wait_until(lambda: answered(output) > 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    before = answered(output)
    for argv in (arguments(images[:1], model, output), [*arguments(images, model, output), "--draw"]):
        assert finish(start(processes, argv, tmp_path / "stderr")) == 1
        *_, line = (tmp_path / "stderr").read_text().splitlines()
        assert line.startswith(f"error: {output} holds an unfinished run of ")
    assert answered(output) == before


def test_a_worker_that_dies_is_named_in_one_line_and_nothing_is_lost(images, model, expected, processes, tmp_path):
    output = tmp_path / "out"
    process = start(processes, arguments(images, model, output), tmp_path / "stderr")
    assert wait_until(lambda: answered(output) > 3, process)
    (worker,) = psutil.Process(process.pid).children()
    worker.kill()
    assert finish(process) == 1
    *_, line = (tmp_path / "stderr").read_text().splitlines()
    assert line.startswith("error: ")
    assert "worker process" in line
    assert "died" in line
    assert "give the same command again" in line
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    assert finish(start(processes, arguments(images, model, output), tmp_path / "stderr")) == 0
    assert_same_answers(output, expected)


@pytest.mark.parametrize("written", ["log", "table"])
def test_a_full_disk_is_named_in_one_line_and_nothing_is_lost(written, images, model, expected, processes, tmp_path):
    output = tmp_path / "out"
    argv = [*arguments(images, model, output)]
    size = 2_000 if written == "log" else (expected / "cells.csv").stat().st_size - 1
    if written == "table":  # the log is in several files, each of which is small enough
        for _ in range(2):
            process = start(processes, argv, tmp_path / "stderr")
            target = answered(output) + 10
            assert wait_until(lambda target=target: answered(output) > target, process)
            os.killpg(process.pid, signal.SIGKILL)
            finish(process)
    assert finish(start(processes, argv, tmp_path / "stderr", size)) == 1
    *_, line = (tmp_path / "stderr").read_text().splitlines()
    assert line.startswith("error: could not write")
    assert os.strerror(27) in line
    assert "the same command again" in line
    assert not (output / "cells.csv").exists()
    assert finish(start(processes, argv, tmp_path / "stderr")) == 0
    assert_same_answers(output, expected)
    assert len({row["file"] for row in table(output)}) == 40
