#!/usr/bin/env bash
# Measures every path on a GPU in at most four minutes, and writes DIR/report.json, after each test anew:
#     tests/gpu/run.sh --output DIR [TEST ...]
# Without a GPU it runs the same tests on the CPU, at their small sizes.
set -euo pipefail
if [ "${1:-}" != --output ] || [ $# -lt 2 ]; then
    echo "usage: tests/gpu/run.sh --output DIR [TEST ...]" >&2
    exit 2
fi
mkdir -p "$2"
WBC_GPU_OUTPUT="$(realpath "$2")"
export WBC_GPU_OUTPUT
shift 2
cd "$(dirname "$0")/../.."

device="$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')"
echo "device: $device"
timeout 240 python -m pytest -q -k "$device" "${@:-tests/gpu}"
echo "report: $WBC_GPU_OUTPUT/report.json"
