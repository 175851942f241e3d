"""The published ONNX model in transformers.js, which fetches it from the Hub by its id.

Needs Node.js, and `npm install --ignore-scripts --prefix tests/publish/transformers_js`.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_wbc import WBCForImageClassification
from tests.publish.clients import CHECKPOINT, MODEL, environment

FOLDER = Path(__file__).parent / "transformers_js"


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js")
@pytest.mark.skipif(
    not (FOLDER / "node_modules" / "@huggingface" / "transformers").is_dir(),
    reason="transformers.js is not installed: npm install --ignore-scripts --prefix tests/publish/transformers_js",
)
def test_gives_the_answers_of_pytorch(hub, published, images, tmp_path):
    model = WBCForImageClassification.from_pretrained(CHECKPOINT).eval()
    processor = model.image_processor
    pixel_values = processor(images[:3], return_tensors="pt")["pixel_values"]
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    crops = ((pixel_values * std + mean) * 255).round().to(torch.uint8)
    paths = [tmp_path / f"{index}.png" for index in range(len(crops))]
    for path, crop in zip(paths, crops, strict=True):
        Image.fromarray(crop.permute(1, 2, 0).numpy()).save(path)
    with torch.no_grad():
        expected = model((crops / 255 - mean) / std)
    done = subprocess.run(
        ["node", FOLDER / "classify.mjs", hub.endpoint, MODEL, tmp_path / "cache", *paths],
        env=environment(hub, tmp_path, token=None),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(found["pixel_values"], ((crops / 255 - mean) / std).flatten(), atol=1e-6)
    for name in ("logits", "distance", "novelty", "embeddings"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4, rtol=0)
    for answers, logits in zip(found["answers"], expected.logits, strict=True):
        scores = {answer["label"]: answer["score"] for answer in answers}
        probabilities = {model.config.id2label[index]: p for index, p in enumerate(logits.softmax(0).tolist())}
        assert scores == pytest.approx(probabilities, abs=1e-5)
