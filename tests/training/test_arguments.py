"""The task of a run, as its user typed it."""

import pytest

import train
from hub.files import UserError


@pytest.mark.parametrize(
    "typed, task",
    [
        ("", "train eval"),
        ("--eval_strategy epoch", "train eval"),
        ("--eval_strategy steps --eval_steps 5", "train eval"),
        ("--do_train", "train"),
        ("--do_train --eval_strategy epoch", "train"),
        ("--do_train --do_eval", "train eval"),
        ("--do_train --do_predict", "train predict"),
        ("--do_eval", "eval"),
        ("--do_eval --eval_strategy epoch", "eval"),
        ("--do_predict", "predict"),
        ("--do_predict --eval_strategy epoch", "predict"),
        ("--do_train False", "eval"),
        ("--do_eval False", "train"),
        ("--calibrate", "eval calibrate"),
        ("--calibrate --do_train", "train calibrate"),
    ],
)
def test_what_was_typed_is_the_task(typed, task):
    *_, args = train.parse_arguments(typed.split())
    asked = {"train": args.do_train, "eval": args.do_eval, "predict": args.do_predict, "calibrate": args.calibrate}
    assert " ".join(name for name, is_asked in asked.items() if is_asked) == task


@pytest.mark.parametrize(
    "typed, strategy",
    [
        ("", "epoch"),
        ("--do_train", "no"),
        ("--eval_strategy no", "no"),
        ("--do_train --eval_strategy steps", "steps"),
        ("--do_train --load_best_model_at_end", "epoch"),
        ("--load_best_model_at_end --save_strategy steps --save_steps 7", "steps"),
        ("--do_train --lr_scheduler_type reduce_lr_on_plateau", "epoch"),
        ("--do_train --save_strategy best", "epoch"),
    ],
)
def test_a_run_validates_as_typed_and_where_it_chooses_by_the_validation(typed, strategy):
    *_, args = train.parse_arguments(typed.split())
    assert args.eval_strategy == strategy
    assert args.eval_steps == (7 if "save_steps" in typed else 10 if "steps" in typed else None)


def test_workers_that_were_typed_are_kept(data, tiny, tmp_path):
    *_, args = train.parse_arguments(["--find_cell", "--dataloader_num_workers", "0"])
    assert (args.dataloader_num_workers, args.chooses_workers) == (0, False)
    *_, args = train.parse_arguments(["--find_cell"])
    assert args.chooses_workers


@pytest.mark.parametrize(
    "typed", ["--do_train False --do_eval False", "--do_predict False --do_eval False --do_train False"]
)
def test_nothing_to_do_is_said(typed):
    with pytest.raises(UserError, match="nothing is left to do"):
        train.parse_arguments(typed.split())
