#!/usr/bin/env bash
# Trainings from the start of Goyal et al. 2017 (every residual branch switched off), with five ways to end them, each
# compared with the checkpoint on validation: the table "From another start" of docs/checkpoint.md. About three hours
# on two CPU cores that multiply bf16.
#
#   bash recipes/new_start.sh        # after recipes/checkpoint.sh, which builds the data set and evaluates the checkpoint
#
# Run it again after an interruption: it skips what is finished and resumes the training that is not.
set -euo pipefail
cd "$(dirname "$0")/.."

DATA=${DATA:-data/blood8}
OUTPUT=${OUTPUT:-outputs}

recipe=(
    --dataset_name "$DATA" --center_loss_weight 0.0001 --do_train --do_eval --bf16
    --per_device_train_batch_size 64 --label_smoothing_factor 0.1 --lr_scheduler_type cosine --weight_decay 5e-4
)

train() { # NAME ARGUMENTS...
    local folder="$OUTPUT/$1"
    shift
    if [ ! -f "$folder/test_results.json" ]; then
        accelerate launch train.py "${recipe[@]}" "$@" --output_dir "$folder" --resume_from_checkpoint
    fi
}

train new-96 --augment strong --model_name_or_path none --find_cell --image_size 96 \
    --num_train_epochs 6 --learning_rate 0.08 --warmup_steps 200
train new-144 --augment strong --model_name_or_path "$OUTPUT/new-96" --image_size 144 \
    --num_train_epochs 4 --learning_rate 0.03 --warmup_steps 50

last=(--model_name_or_path "$OUTPUT/new-144" --image_size 144)
short=(--num_train_epochs 1 --learning_rate 0.01 --warmup_steps 20)
train new-144-mild "${last[@]}" --augment paper "${short[@]}"
train new-144-balanced "${last[@]}" --augment paper "${short[@]}" --balanced
train new-144-long "${last[@]}" --augment paper --num_train_epochs 4 --learning_rate 0.02 --warmup_steps 50
train new-144-strong "${last[@]}" --augment strong --num_train_epochs 3 --learning_rate 0.02 --warmup_steps 50

for run in 144 144-mild 144-balanced 144-long 144-strong; do
    python -m hub compare --first "$OUTPUT/new-$run" --second "$OUTPUT/checkpoint"
done
