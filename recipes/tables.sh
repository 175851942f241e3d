#!/usr/bin/env bash
# The tables of docs/experiments.md: the paper's baselines, its ideas one by one, and what the detector finds. The 57
# trainings take about six hours on two CPU cores.
#
#   BCCD=DIR PBC=DIR bash recipes/tables.sh
#
# With a GPU and a network, leave out --budget and add --imagenet: every row then gets ten epochs at the size that its
# network was made for. Run it again after an interruption: `hub ablations` trains only what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

BCCD=${BCCD:?name the raw folder of BCCD}
PBC=${PBC:?name the raw folder of PBC}
DATA=${DATA:-data/blood8}
OUTPUT=${OUTPUT:-outputs}

if [ ! -d "$DATA" ]; then
    python -m hub dataset build blood8 --bccd "$BCCD" --pbc "$PBC" --output "$DATA"
fi
python -m hub ablations --dataset "$DATA" --output "$OUTPUT/baselines" --budget 2 112 --rows baselines
python -m hub ablations --dataset "$DATA" --output "$OUTPUT/ablations" --budget 2 64 --rows ablations search
if [ ! -d "$OUTPUT/detection" ]; then
    python -m hub detection --bccd "$BCCD" --pbc "$PBC" --model hub/checkpoint --output "$OUTPUT/detection"
fi

# The figures that README and docs are rendered from.
mkdir -p results/baselines results/ablations results/detection
cp "$OUTPUT/baselines/results.json" results/baselines/
cp "$OUTPUT/ablations/results.json" "$OUTPUT"/ablations/*.png results/ablations/
cp "$OUTPUT/detection/results.json" results/detection/
python -m hub docs
