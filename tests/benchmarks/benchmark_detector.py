"""The time that the detector takes for a field, on one core.

A field of 640 x 480 holds one cell, as BCCD's photographs do; those of 4,000 x 3,000 hold the same cell enlarged, or
36 such fields. `--photograph` takes a real one in place of a drawn one.

python tests/benchmarks/benchmark_detector.py
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[2]))

from hub.data.synthetic import draw_field
from modeling_wbc import WBCImageProcessor
from tests.benchmarks.tables import print_rows


def measure(small: bool, photograph: str | None = None, repeats: int = 50) -> list[dict]:
    """The rows of the table."""
    repeats = 2 if small else repeats
    torch.set_num_threads(1)
    rows = []
    if photograph:
        with Image.open(photograph) as image:
            field = image.convert("RGB").resize((640, 480))
    else:
        field = draw_field("neutrophil", 3, (640, 480))
    many = Image.new("RGB", (3840, 2880))
    for k in range(36):
        many.paste(field, (k % 6 * 640, k // 6 * 480))
    processor = WBCImageProcessor()
    for title, image in (
        ("640 x 480", field),
        ("4,000 x 3,000, one cell", field.resize((4000, 3000), Image.Resampling.BICUBIC)),
        ("4,000 x 3,000, 36 cells", many.resize((4000, 3000), Image.Resampling.BICUBIC)),
    ):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        seconds = []
        with threadpool_limits(1):
            for _ in range(repeats):
                start = time.perf_counter()
                boxes, _ = processor.find_cells(pixels)
                seconds.append(time.perf_counter() - start)
        median, slow = np.percentile(seconds, (50, 95)) * 1000
        figures = {"Median (ms)": round(median, 1), "95th percentile (ms)": round(slow, 1)}
        rows.append({"Field": title, "Cells found": len(boxes), **figures})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photograph", help="a field of 640 x 480 pixels with one white cell")
    parser.add_argument("--repeats", type=int, default=50)
    args = parser.parse_args()
    print_rows(measure(False, args.photograph, args.repeats))


if __name__ == "__main__":
    main()
