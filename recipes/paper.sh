#!/usr/bin/env bash
# The paper's recipe in full, 224 x 224 pixels and ten epochs of BCCD, without a download: it starts from weights of
# PBC's cells in place of ImageNet's. About one hour on two CPU cores that multiply bf16.
#
#   BCCD=DIR PBC=DIR bash recipes/paper.sh
#
# With ImageNet's weights, as the paper has it, the second training is `train.py --dataset_name data/bccd` alone.
# Run it again after an interruption: it skips what is finished and resumes the training that is not.
set -euo pipefail
cd "$(dirname "$0")/.."

BCCD=${BCCD:?name the raw folder of BCCD}
PBC=${PBC:?name the raw folder of PBC}
DATA=${DATA:-data}
OUTPUT=${OUTPUT:-outputs}

train() { # NAME ARGUMENTS...
    local folder="$OUTPUT/$1"
    shift
    if [ ! -f "$folder/test_results.json" ]; then
        accelerate launch train.py "$@" --bf16 --output_dir "$folder" --resume_from_checkpoint
    fi
}

if [ ! -d "$DATA/blood8" ]; then
    python -m hub dataset build blood8 --bccd "$BCCD" --pbc "$PBC" --output "$DATA/blood8"
fi
if [ ! -d "$DATA/bccd" ]; then
    python -m hub dataset build bccd --source "$BCCD" --output "$DATA/bccd"
fi

train paper-start --dataset_name "$DATA/blood8" --train_on pbc --model_name_or_path none --image_size 112 \
    --num_train_epochs 4 --learning_rate 0.08 --lr_scheduler_type cosine --warmup_steps 100 --weight_decay 5e-4 \
    --per_device_train_batch_size 64 --label_smoothing_factor 0.1
train paper --dataset_name "$DATA/bccd" --model_name_or_path "$OUTPUT/paper-start" --image_size 224
