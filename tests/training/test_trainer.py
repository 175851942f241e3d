"""The Trainer: exact resume, no half checkpoint, a stop at a NaN, and the parts of the loss in the log."""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from runs import arguments, launch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from hub.files import UserError
from hub.training.trainer import last_checkpoint
from modeling_wbc import WBCConfig


def test_the_parts_of_the_loss_reach_tensorboard(trained):
    output, _ = trained
    log = EventAccumulator(str(next(output.glob("runs/*")))).Reload()
    curves = {
        name: [point.value for point in log.Scalars(f"train/{name}")]
        for name in ("loss", "cross_entropy", "center_loss", "active_fraction", "accuracy")
    }
    weight = WBCConfig().center_loss_weight
    for loss, cross_entropy, center_loss, active, accuracy in zip(*curves.values(), strict=True):
        assert loss == pytest.approx(cross_entropy + weight * center_loss, abs=1e-3)
        assert 0 <= active <= 1
        assert 0 <= accuracy <= 1
    assert len(curves["loss"]) == 6  # two epochs of 24 images, 8 a step


@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_resumes_to_the_same_weights(data, tiny, tmp_path):
    schedule = ("--do_train", "--num_train_epochs", "3", "--save_strategy", "steps", "--save_steps", "1")
    train.main(arguments(data, tiny, tmp_path / "whole", *schedule))

    killed = tmp_path / "killed"
    process = launch("train.py", *arguments(data, tiny, killed, *schedule))
    # Step 4 is the first of the second epoch's three: the process dies within an epoch, or while it saves.
    while not (killed / "checkpoint-4" / "trainer_state.json").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (killed / "model.safetensors").exists()

    train.main(arguments(data, tiny, killed, *schedule, "--resume_from_checkpoint"))
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", killed))
    start = load_file(Path(tiny, "model.safetensors"))
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name
    assert not torch.equal(whole["classifier.1.weight"], start["classifier.1.weight"])


def test_half_a_checkpoint_is_ignored(trained, tmp_path):
    output, _ = trained
    copy = shutil.copytree(output, tmp_path / "copy")
    newest = last_checkpoint(copy)
    half = shutil.copytree(newest, newest.with_name("checkpoint-999"))
    (half / "trainer_state.json").unlink()
    assert last_checkpoint(copy) == newest


def test_a_run_is_not_overwritten_by_the_next(trained, data, tiny):
    output, _ = trained
    with pytest.raises(UserError, match="--resume_from_checkpoint"):
        train.main(["--do_train", *arguments(data, tiny, output)])


@pytest.mark.parametrize(
    "change, message",
    [
        (["--resume_from_checkpoint", "no/such/checkpoint"], "no/such/checkpoint is no checkpoint"),
        (["--learning_rate", "1e30"], r"Lower --learning_rate \(now 1e\+30\) or --center_loss_weight \(now 0.001\)"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(data, tiny, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train.main(["--do_train", *arguments(data, tiny, tmp_path / "out"), *change])
    assert not list(tmp_path.glob("out/checkpoint-*"))


def test_a_full_disk_costs_no_checkpoint(data, tiny, tmp_path):
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path]).returncode:
        pytest.skip("needs a small file system, which only root can mount")
    try:
        output, ballast = tmp_path / "out", tmp_path / "ballast"
        schedule = ("--do_train", "--save_strategy", "steps", "--save_steps", "2", "--report_to", "none")
        train.main(arguments(data, tiny, output, *schedule, "--max_steps", "2"))
        with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(ballast, ballast.stat().st_size - 40_000)
        more = (*schedule, "--max_steps", "4", "--resume_from_checkpoint")
        with pytest.raises(UserError, match=r"could not write .*checkpoint-4.*Make room.*checkpoint-2"):
            train.main(arguments(data, tiny, output, *more))
        assert not (output / "checkpoint-4").exists()
        ballast.unlink()
        train.main(arguments(data, tiny, output, *more))
        assert math.isfinite(json.loads((output / "train_results.json").read_text(encoding="utf-8"))["train_loss"])
        assert last_checkpoint(output).name == "checkpoint-4"
    finally:
        subprocess.run(["umount", tmp_path], check=True)
