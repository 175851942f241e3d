#!/usr/bin/env bash
# The checkpoint in hub/checkpoint, from raw images and random weights: data set, three trainings with growing images,
# export, evaluation, OOD test, test of travel and card. About three hours on two CPU cores that multiply bf16.
#
#   BCCD=DIR PBC=DIR LABS="data/chula data/lisc" bash recipes/checkpoint.sh
#
# LABS are data sets of labs that the training does not see. Run it again after an interruption: it skips what is
# finished and resumes the training that is not.
set -euo pipefail
cd "$(dirname "$0")/.."

BCCD=${BCCD:?name the raw folder of BCCD}
PBC=${PBC:?name the raw folder of PBC}
DATA=${DATA:-data/blood8}
OUTPUT=${OUTPUT:-outputs}
CHECKPOINT=${CHECKPOINT:-hub/checkpoint}

recipe=(
    --dataset_name "$DATA" --augment strong --center_loss_weight 0.0001 --do_train --do_eval
    --per_device_train_batch_size 64 --label_smoothing_factor 0.1 --lr_scheduler_type cosine --weight_decay 5e-4
)

train() { # NAME ARGUMENTS...
    local folder="$OUTPUT/$1"
    shift
    if [ ! -f "$folder/test_results.json" ]; then
        accelerate launch train.py "${recipe[@]}" "$@" --output_dir "$folder" --resume_from_checkpoint
    fi
}

if [ ! -d "$DATA" ]; then
    python -m hub dataset build blood8 --bccd "$BCCD" --pbc "$PBC" --output "$DATA"
fi

train shipped-64 --model_name_or_path none --find_cell --image_size 64 \
    --num_train_epochs 4 --learning_rate 0.08 --warmup_steps 200
train shipped-96 --model_name_or_path "$OUTPUT/shipped-64" --image_size 96 \
    --num_train_epochs 3 --learning_rate 0.04 --warmup_steps 50
# The last training started from the weights rounded to float16.
python -m hub model export "$OUTPUT/shipped-96" --output "$OUTPUT/shipped-96-half"
train shipped-128 --model_name_or_path "$OUTPUT/shipped-96-half" --image_size 128 --bf16 \
    --num_train_epochs 5 --learning_rate 0.04 --warmup_steps 50

python -m hub model export "$OUTPUT/shipped-128" --output "$CHECKPOINT"
accelerate launch train.py --do_eval --model_name_or_path "$CHECKPOINT" --dataset_name "$DATA" \
    --output_dir "$OUTPUT/checkpoint"
if [ ! -d "$OUTPUT/ood" ]; then
    python -m hub ood --model "$CHECKPOINT" --dataset_name "$DATA" --bccd "$BCCD" --output "$OUTPUT/ood"
fi
if [ ! -d "$OUTPUT/labs" ]; then
    labs=(--dataset "$DATA")
    for lab in ${LABS:-}; do
        labs+=(--dataset "$lab")
    done
    python -m hub labs --model "$CHECKPOINT" "${labs[@]}" --split test train+validation --output "$OUTPUT/labs"
fi
python -m hub model report "$CHECKPOINT" --evaluation "$OUTPUT/checkpoint" --ood "$OUTPUT/ood" \
    --training "$OUTPUT/shipped-64" "$OUTPUT/shipped-96" "$OUTPUT/shipped-128"
