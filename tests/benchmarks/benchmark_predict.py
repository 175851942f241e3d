"""Images a second of `python -m hub predict`, beside its two halves alone: reading and detection, and the network.

```bash
python -m tests.benchmarks predict
```

All in one run on drawn fields of 640 x 480 pixels in JPEG. Reading and detection have the cores that they have in the
whole, and so has the network; the goal is 0.9 of the slower half.
"""

import tempfile
import time
from pathlib import Path

import torch

from hub.data.synthetic import draw_field
from hub.inference.inputs import Files
from hub.inference.pipeline import CellReader, analyze_inputs, load_cells
from hub.inference.predict import load_classifier
from hub.inference.threads import Share, share_cores

CHECKPOINT = Path(__file__).parents[2] / "hub" / "checkpoint"
BATCH = 32


def measure(small: bool) -> list[dict]:
    """The rows of the table."""
    classifier = load_classifier(CHECKPOINT, torch.device("cpu"))
    count = 16 if small else 400
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            draw_field(("neutrophil", "lymphocyte")[number % 2], number % 20, (640, 480)).save(
                f"{folder}/{number}.jpg"
            )
        files = Files([Path(folder)])
        workers, threads = share_cores(Share(), files.total, None, True)
        torch.set_num_threads(threads)

        begun = time.perf_counter()
        reader = CellReader(classifier.image_processor_or_default().to_dict(), keep_images=False)
        cells = sum(len(found["scores"]) for _, _, found, _ in load_cells(reader, enumerate(files), workers, BATCH))
        reading = count / (time.perf_counter() - begun)

        size = classifier.config.image_size
        crops = torch.randn(BATCH, 3, size, size)
        begun = time.perf_counter()
        with torch.inference_mode():
            for start in range(0, cells, BATCH):
                classifier(crops[: cells - start], output_hidden_states=True)
        network = count / (time.perf_counter() - begun)

        begun = time.perf_counter()
        for _ in analyze_inputs(classifier, enumerate(files), workers, BATCH):
            pass
        both = count / (time.perf_counter() - begun)
    figures = {"reading and detection alone": reading, "network alone": network, "both": both}
    for part, rate in figures.items():
        share = round(rate / min(reading, network), 2)
        rows.append({"Part": part, "Images/s": round(rate, 1), "of the slower half": share})
    return [row | {"Workers": workers, "Threads": threads} for row in rows]
