"""Every argument of the Trainer works, or is refused in one line before anything starts."""

import csv
import dataclasses
import json
import os

import pytest
import torch
from runs import arguments
from transformers import TrainingArguments

import train
from hub.files import UserError
from hub.training.checks import check_model
from modeling_wbc import WBCConfig, WBCForImageClassification

# What an argument is refused with, by the stage that can tell.
REFUSED_AT_ONCE = {
    "--batch_eval_metrics": "--batch_eval_metrics is not supported: .* Leave it out",
    "--prediction_loss_only": "--prediction_loss_only is not supported",
    "--eval_do_concat_batches False": "--eval_do_concat_batches False is not supported",
    "--bf16_full_eval": "--bf16 evaluates in bfloat16",
    "--fp16_full_eval": "--fp16 evaluates in float16",
    "--label_names foo": "column `label`",
    "--neftune_noise_alpha 5": "embeddings of words",
    "--use_liger_kernel": "language models",
    "--optim_target_modules all": "language models",
    "--train_sampling_strategy group_by_length": "Name random or sequential",
    "--train_sampling_strategy batch_rebalance": "Name random or sequential",
    "--balanced --train_sampling_strategy sequential": "--balanced draws at random",
    "--optim_args momentum=0.5": "Set --momentum",
    "--max_steps 0": "--max_steps is 0; give at least 1, or leave it out for --num_train_epochs",
    "--num_train_epochs 0": "--num_train_epochs is 0.0; give above 0",
    "--num_train_epochs -1": "give above 0",
    "--learning_rate -1": r"--learning_rate is -1.0; give at least 0\.",
    "--learning_rate nan": "--learning_rate is nan",
    "--momentum -1": "--momentum is -1.0",
    "--weight_decay -1": "--weight_decay is -1.0",
    "--max_grad_norm -1": "--max_grad_norm is -1.0",
    "--center_loss_weight -1": "--center_loss_weight is -1.0",
    "--center_loss_margin nan": "--center_loss_margin is nan",
    "--adam_beta1 2": "--adam_beta1 is 2.0; give at least 0 and below 1",
    "--label_smoothing_factor 2": "--label_smoothing_factor is 2.0",
    "--validation_split 1": "--validation_split is 1.0; give at least 0 and below 1",
    "--image_size 0": "--image_size is 0; give at least 1",
    "--per_device_train_batch_size 0": "--per_device_train_batch_size is 0",
    "--per_device_eval_batch_size 0": "--per_device_eval_batch_size is 0",
    "--gradient_accumulation_steps 0": "--gradient_accumulation_steps is 0",
    "--eval_accumulation_steps 0": "--eval_accumulation_steps is 0",
    "--dataloader_num_workers -1": "--dataloader_num_workers is -1",
    "--logging_steps -1": "--logging_steps is -1",
    "--save_strategy steps --save_steps 0": "--save_steps is 0",
    "--eval_strategy steps --eval_steps -1": "--eval_steps is -1",
    "--eval_delay -1": "--eval_delay is -1",
    "--seed -1": "--seed is -1",
    "--ema_decay 1": "--ema_decay is 1.0; give a share from 0",
    "--ema_decay 0.9 --load_best_model_at_end": "--ema_decay saves the average, --load_best_model_at_end a checkpoint",
    # By transformers itself.
    "--logging_steps 0": "non-zero --logging_steps",
    "--warmup_steps -1": "warmup_steps >= 0",
    "--optim nonsense": "nonsense is not a valid OptimizerNames",
    "--lr_scheduler_type nonsense": "nonsense is not a valid SchedulerType",
    "--save_strategy nonsense": "nonsense is not a valid SaveStrategy",
    "--fp16 --bf16": "At most one of fp16 and bf16",
    "--load_best_model_at_end --eval_strategy no": "save and eval strategy to match",
    "--dataloader_prefetch_factor 2": "--dataloader_num_workers > 0",
    "--accelerator_config no.json": "No such file .*no.json",
    '--accelerator_config {"nonsense":true}': "nonsense",
    "--deepspeed no.json": "--deepspeed needs the package deepspeed",
    "--fsdp nonsense": "nonsense",
    "--no_such_flag 1": "unknown arguments: --no_such_flag 1; --help lists all",
}
REFUSED_WITH_DATA_AND_MODEL = {
    "--gradient_checkpointing": "not supported by this network.*--gradient_accumulation_steps",
    "--activation_checkpointing": "not supported by this network",
    "--image_size 1": "--image_size 1 is too small for this network",
    "--dataloader_drop_last --per_device_train_batch_size 64": "drops all 20 training images.*Leave it out, or lower",
    "--dataloader_persistent_workers": "Set --dataloader_num_workers above 0",
    "--metric_for_best_model nonsense --load_best_model_at_end": "names nonsense; the validation gives loss, accuracy",
    "--report_to unknown": "unknown is not supported",
    "--report_to wandb": "wandb to be installed",
    "--fsdp full_shard": "distributed training",
    "--optim galore_adamw": "--optim galore_adamw or .*galore",
    "--lr_scheduler_type cosine_with_min_lr": "lr_scheduler_kwargs",
    "--lr_scheduler_type warmup_stable_decay": "--lr_scheduler_type warmup_stable_decay: .*num_decay_steps",
    '--lr_scheduler_type cosine --lr_scheduler_kwargs {"nonsense":1}': "nonsense",
    "--validation_split 0 --do_train --eval_on_start": "no other split than train, test; put images for .*validation",
    "--validation_split 0 --do_train --eval_strategy epoch": "no other split than train, test",
    "--push_to_hub": "--hub_model_id",
}
# Arguments that are combined as far as each must show what it does.
WORKING = (
    "--dataloader_drop_last --per_device_eval_batch_size 5 --eval_accumulation_steps 1 --include_for_metrics loss "
    "--logging_first_step --skip_memory_metrics False --eval_on_start --label_smoothing_factor 0.1 --ignore_data_skip",
    "--load_best_model_at_end --metric_for_best_model accuracy --optim adafactor --lr_scheduler_type polynomial "
    "--warmup_steps 0.5 --full_determinism --include_num_input_tokens_seen True --average_tokens_across_devices False",
    "--save_strategy best --auto_find_batch_size --lr_scheduler_type reduce_lr_on_plateau --save_only_model --debug "
    "underflow_overflow --data_seed 5 --torch_empty_cache_steps 1 --train_sampling_strategy sequential",
    "--lr_scheduler_type greedy --logging_strategy no --save_strategy no --eval_use_gather_object --use_cpu --bf16 "
    '--enable_jit_checkpoint --accelerator_config {"split_batches":true} --gradient_accumulation_steps 2',
    "--eval_strategy steps --eval_steps 0.5 --fp16 --save_total_limit 0 --run_name x --use_cache --label_names labels "
    "--eval_do_concat_batches True --remove_unused_columns --ddp_find_unused_parameters True --optim rmsprop",
)
# Arguments that say where a run writes, how loud it is or how machines connect, or that other tests try.
ELSEWHERE = {
    *("output_dir", "max_steps", "resume_from_checkpoint", "do_train", "do_eval", "do_predict", "disable_tqdm"),
    *(
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "logging_nan_inf_filter",
        "hub_strategy",
        "project",
        "local_rank",
        "tf32",
    ),
    *("ddp_backend", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_timeout", "fsdp_config"),
    *("hub_token", "hub_private_repo", "hub_model_id", "hub_always_push", "hub_revision", "save_on_each_node"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "parallelism_config", "liger_kernel_config"),
    *("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs", "greater_is_better", "length_column_name"),
    *("torch_compile", "torch_compile_backend", "torch_compile_mode", "adam_beta2", "adam_epsilon"),
    *("dataloader_pin_memory", "dataloader_in_order", "dataloader_multiprocessing_context"),
    "restore_callback_states_from_checkpoint",
}


def test_the_tables_go_through_every_argument_of_the_trainer():
    tried = " ".join([*REFUSED_AT_ONCE, *REFUSED_WITH_DATA_AND_MODEL, *WORKING])
    names = {each.name for each in dataclasses.fields(TrainingArguments)}
    assert {name for name in names if f"--{name}" not in tried} <= ELSEWHERE
    assert ELSEWHERE <= names


@pytest.mark.parametrize("flags, message", REFUSED_AT_ONCE.items())
def test_a_value_that_cannot_work_is_refused_at_once(flags, message):
    with pytest.raises(UserError, match=message) as refusal:
        train.parse_arguments(flags.split())
    assert "\n" not in str(refusal.value)


def test_a_value_of_another_type_is_refused_without_the_list_of_all_arguments(capsys):
    with pytest.raises(SystemExit) as ending:
        train.parse_arguments(["--max_steps", "many"])
    assert ending.value.code == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2
    assert "invalid int value: 'many'" in printed[1]


@pytest.mark.parametrize("flags, message", REFUSED_WITH_DATA_AND_MODEL.items())
def test_what_data_and_model_do_not_allow_is_refused_before_training(data, tiny, tmp_path, flags, message):
    with pytest.raises(UserError, match=message) as refusal:
        train.main([*arguments(data, tiny, tmp_path / "out"), "--report_to", "none", *flags.split()])
    assert "\n" not in str(refusal.value)
    assert not [path for path in tmp_path.glob("out/*") if path.name != ".gitignore"]


@pytest.fixture
def settings_of_torch():
    """Undo --full_determinism afterwards."""
    names = ("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC")
    before = {name: os.environ.get(name) for name in names}
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.mark.usefixtures("settings_of_torch")
@pytest.mark.parametrize("flags", WORKING)
def test_a_run_with_other_arguments_trains_and_evaluates_every_image(data, tiny, tmp_path, flags):
    train.main([*arguments(data, tiny, tmp_path), "--max_steps", "2", "--report_to", "none", *flags.split()])
    assert json.loads((tmp_path / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 2
    for split, count in {"validation": 4, "test": 12}.items():
        with open(tmp_path / f"{split}_predictions.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
        results = json.loads((tmp_path / f"{split}_results.json").read_text(encoding="utf-8"))
        assert results["accuracy"] == pytest.approx(sum(row["label"] == row["prediction"] for row in rows) / count)
    assert (tmp_path / "README.md").is_file()


@pytest.mark.parametrize("size, fits", [(32, False), (33, True), (224, True)])
def test_images_too_small_for_the_papers_network_are_refused(size, fits):
    model = WBCForImageClassification(WBCConfig(image_size=size))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    *_, args = train.parse_arguments(["--do_train"])
    if fits:
        check_model(model, args)
    else:
        with pytest.raises(UserError, match="--image_size 32 is too small for this network"):
            check_model(model, args)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
