"""WBCImageProcessor: the finder on drawn and on real fields, windows, and the stock processor without them."""

import io
import json
import math
import os
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from torchvision.ops import box_iou
from transformers import AutoImageProcessor, ViTImageProcessor

from hub.data.synthetic import draw_field
from hub.study.detection import find_annotated, recall_and_precision
from modeling_wbc import WBCImageProcessor
from modeling_wbc.detection_wbc import _components

ROOT = Path(__file__).parents[2]
BCCD, PBC = (Path(os.environ[name]) if name in os.environ else None for name in ("WBC_BCCD_DIR", "WBC_PBC_DIR"))
needs_bccd = pytest.mark.skipif(BCCD is None, reason="WBC_BCCD_DIR names no folder of real images")
needs_pbc = pytest.mark.skipif(PBC is None, reason="WBC_PBC_DIR names no folder of real images")

# What each thing lets through of the background's red, green and blue.
RED_CELL, CYTOPLASM, NUCLEUS, PLATELET = (0.88, 0.66, 0.64), (0.86, 0.8, 0.88), (0.42, 0.28, 0.64), (0.62, 0.44, 0.78)
ROUND = [(0.0, 0.0, 1.0)]


def disc(field, x, y, radius, color):
    """Multiplies a disc, with a soft edge of about a pixel, into a field (H, W, 3) of transmitted light."""
    left, top = (max(0, int(middle - radius) - 2) for middle in (x, y))
    part = field[top : int(y + radius) + 3, left : int(x + radius) + 3]
    rows, columns = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]] + 0.5
    inside = np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0, 1)[..., None]
    part *= 1 - inside + inside * np.array(color)


def scene(cells, size=(320, 240), background=(228, 224, 216), platelets=(), red=40, seed=0):
    """A field with white cells (x, y, radius of the nucleus, its lobes), and the boxes of their nuclei.

    Lobes are discs (x, y, radius) in units of the nucleus's radius. Red cells keep away from white ones, or else what
    is to be found would depend on chance.
    """
    width, height = size
    rng = np.random.default_rng(seed)
    field = np.ones((height, width, 3))
    unit = max((radius for *_, radius, _ in cells), default=height / 10)
    for _ in range(red):
        x, y = rng.uniform((0, 0), size)
        if all(math.hypot(x - cell[0], y - cell[1]) > 2.6 * cell[2] + unit for cell in cells):
            disc(field, x, y, 0.9 * unit, RED_CELL)
            disc(field, x, y, 0.35 * unit, (1.06, 1.2, 1.2))
    for x, y, radius in platelets:
        disc(field, x, y, radius, PLATELET)
    boxes = []
    for x, y, radius, lobes in cells:
        disc(field, x, y, 1.35 * radius, CYTOPLASM)
        parts = [(x + radius * a, y + radius * b, radius * c) for a, b, c in lobes]
        left, top = max(0, int(x - 2 * radius)), max(0, int(y - 2 * radius))
        around = field[top : int(y + 2 * radius), left : int(x + 2 * radius)]
        nucleus = np.ones_like(around)
        for a, b, c in parts:
            disc(nucleus, a - left, b - top, c, (0, 0, 0))
        around *= nucleus + (1 - nucleus) * np.array(NUCLEUS) / CYTOPLASM
        low = np.min([(a - c, b - c) for a, b, c in parts], axis=0)
        high = np.max([(a + c, b + c) for a, b, c in parts], axis=0)
        boxes.append(np.concatenate((np.maximum(low, 0), np.minimum(high, size))))
    field = field * np.array(background) + rng.normal(0, 2, field.shape)
    return Image.fromarray(field.clip(0, 255).astype(np.uint8)), torch.tensor(np.array(boxes), dtype=torch.float32)


def grown(nuclei):
    """The boxes of cells, a margin of 15 % around the boxes of their nuclei."""
    margin = 0.15 * (nuclei[:, 2:] - nuclei[:, :2]).prod(1, keepdim=True).sqrt()
    return torch.cat((nuclei[:, :2] - margin, nuclei[:, 2:] + margin), 1)


def assert_found(image, nuclei, overlap=0.75):
    """Exactly these cells, in any order; boxes end at the image's border and scores descend."""
    boxes, scores = WBCImageProcessor().find_cells(image)
    assert boxes.dtype == scores.dtype == torch.float32
    assert boxes.shape == (len(nuclei), 4)
    assert scores.shape == (len(nuclei),)
    assert ((scores > 0) & (scores < 1)).all()
    assert (scores.diff() <= 0).all()
    limit = torch.tensor([*image.size, *image.size])
    assert (boxes >= 0).all()
    assert (boxes <= limit).all()
    expected = grown(nuclei).clamp(torch.zeros(4), limit.float())
    found = box_iou(boxes, expected)
    assert (found.amax(0) >= overlap).all() and (found.amax(1) >= overlap).all(), found
    return boxes, scores


# The finder on drawn fields

TWO = [(90, 80, 26, ROUND), (230, 150, 20, [(-0.55, -0.2, 0.5), (0.5, -0.3, 0.5), (0.1, 0.5, 0.5)])]


def light(red, green, blue):
    return lambda pixels: pixels * np.array([red, green, blue])


LOOKS = {
    "as drawn": lambda pixels: pixels,
    "dark": light(0.4, 0.4, 0.4),
    "overexposed": light(1.15, 1.15, 1.15),
    "yellow light": light(1, 0.9, 0.6),
    "blue light": light(0.8, 0.95, 1.15),
    "white background": light(255 / 228, 255 / 224, 255 / 216),
    "pale": lambda pixels: 80 + 0.65 * pixels,
    "gamma 0.6": lambda pixels: 255 * (pixels / 255) ** 0.6,
    "gamma 1.6": lambda pixels: 255 * (pixels / 255) ** 1.6,
    "noise": lambda pixels: pixels + np.random.default_rng(1).normal(0, 12, pixels.shape),
    "uneven light": lambda pixels: pixels * np.linspace(0.75, 1, pixels.shape[1])[:, None],
}


@pytest.mark.parametrize("look", LOOKS)
def test_finds_cells_whatever_the_lamp_and_the_camera(look):
    image, nuclei = scene(TWO)
    pixels = LOOKS[look](np.asarray(image).astype(float))
    assert_found(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), nuclei, overlap=0.7)


@pytest.mark.parametrize("width", [120, 200, 479, 480, 640, 1600, 4000])
def test_finds_cells_at_any_size(width):
    image, nuclei = scene(TWO)
    larger = image.resize((width, width * 3 // 4), Image.Resampling.BICUBIC if width > 320 else Image.Resampling.BOX)
    assert_found(larger, nuclei * width / 320, overlap=0.7)


def test_finds_few_small_cells_in_a_large_field_and_many():
    few = [(300, 250, 14, ROUND), (1400, 1000, 12, ROUND)]
    assert_found(*scene(few, (1600, 1200), red=300), overlap=0.65)
    many = [(60 + 110 * x, 60 + 120 * y, 18 + (x * y) % 9, ROUND) for x in range(14) for y in range(10)]
    assert_found(*scene(many, (1600, 1200), red=0))


@pytest.mark.parametrize("x, y", [(4, 100), (316, 100), (150, 4), (150, 236), (2, 2), (318, 238)])
def test_finds_a_cell_that_the_border_cuts_and_ranks_it_behind_a_whole_one(x, y):
    image, nuclei = scene([(x, y, 30, ROUND), (160, 120, 26, ROUND)])
    boxes, _ = assert_found(image, nuclei, overlap=0.65)
    assert box_iou(boxes[:1], grown(nuclei[1:])) > 0.75
    assert_found(*scene([(x, y, 30, ROUND)]), overlap=0.65)


@pytest.mark.parametrize("angle", range(0, 180, 15))
@pytest.mark.parametrize("gap", [-0.08, 0.0, 0.3])
def test_tells_touching_cells_apart(angle, gap):
    """Their cytoplasm overlaps or touches, and one is smaller than the other."""
    first, second = 24, 19
    reach = 1.35 * (first + second) * (1 + gap)
    x, y = reach * math.cos(math.radians(angle)) / 2, reach * math.sin(math.radians(angle)) / 2
    image, nuclei = scene([(160 - x, 120 - y, first, ROUND), (160 + x, 120 + y, second, ROUND)])
    assert_found(image, nuclei, overlap=0.6)


@pytest.mark.parametrize(
    "lobes",
    [
        [(-0.55, 0, 0.45), (0.55, 0, 0.45)],
        [(0, -0.6, 0.4), (0.5, 0.4, 0.4), (-0.5, 0.4, 0.4)],
        [(0.6 * math.cos(a), 0.6 * math.sin(a), 0.4) for a in np.linspace(0, 1.5 * math.pi, 9)],
    ],
    ids=["two", "three", "horseshoe"],
)
def test_lobes_of_one_nucleus_are_one_cell(lobes):
    assert_found(*scene([(160, 120, 30, lobes)]))


PLATELETS = [(60, 60, 7), (250, 60, 9), (205, 150, 8), (70, 180, 6)]


def test_platelets_beside_a_cell_are_no_cells():
    assert_found(*scene([(160, 120, 28, ROUND)], platelets=PLATELETS))


def test_platelets_of_a_field_without_a_cell_are_no_cells():
    image, _ = scene([], platelets=PLATELETS)
    assert len(WBCImageProcessor().find_cells(image)[0]) == 0
    # But one that fills an image is what that image is of.
    left, top, right, bottom = 225, 35, 275, 85
    boxes, _ = WBCImageProcessor().find_cells(image.crop((left, top, right, bottom)))
    assert len(boxes) == 1
    assert box_iou(boxes, grown(torch.tensor([[16.0, 16, 34, 34]]))) > 0.6


def test_black_borders_of_a_rotation_are_no_cells():
    image, nuclei = scene([(160, 120, 28, ROUND)])
    assert_found(image.rotate(30, Image.Resampling.BILINEAR), nuclei)
    framed = Image.new("RGB", (480, 400))
    framed.paste(image, (80, 80))
    assert_found(framed, nuclei + 80)
    # Nor do they tell how large red cells are.
    few, nuclei = scene([(500, 450, 24, ROUND), (1100, 700, 22, ROUND)], (1600, 1200), red=300)
    through_an_eyepiece = Image.new("L", few.size)
    ImageDraw.Draw(through_an_eyepiece).ellipse((250, 50, 1350, 1150), fill=255)
    assert_found(Image.composite(few, Image.new("RGB", few.size), through_an_eyepiece), nuclei, overlap=0.65)


@pytest.mark.parametrize("label", ["eosinophil", "lymphocyte", "monocyte", "neutrophil"])
def test_finds_the_one_cell_of_a_drawn_field(label):
    found = [len(WBCImageProcessor().find_cells(draw_field(label, seed))[0]) for seed in range(25)]
    # Of 100, one has two lobes far apart and no stain between them.
    assert found.count(1) >= (24 if label == "eosinophil" else 25)


def nothing():
    grey = np.random.default_rng(0).integers(0, 256, (240, 320, 1), dtype=np.uint8).repeat(3, axis=2)
    return {
        "white": Image.new("RGB", (320, 240), "white"),
        "black": Image.new("RGB", (320, 240)),
        "one pixel": Image.new("RGB", (1, 1), "white"),
        "one row": Image.new("RGB", (300, 1), "pink"),
        "one long column": Image.new("RGB", (1, 5000), "pink"),
        "grey noise": Image.fromarray(grey),
        "red cells": scene([])[0],
    }


@pytest.mark.parametrize("name", nothing())
def test_finds_nothing_where_there_is_nothing(name):
    """The whole image is then what the network sees."""
    image = nothing()[name]
    processor = WBCImageProcessor()
    boxes, scores = processor.find_cells(image)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)
    assert torch.equal(seen(processor, image), seen(WBCImageProcessor(do_find_cell=False), image))
    assert processor.preprocess_cells(image)["pixel_values"].shape == (0, 3, 224, 224)


def test_an_image_is_the_same_in_every_form():
    image, _ = scene(TWO)
    pixels = np.array(image)
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    processor = WBCImageProcessor()
    boxes, scores = processor.find_cells(image)
    assert len(boxes) == 2
    for form in (pixels, channels_first, pixels.astype(np.uint16) * 257, image.convert("RGBA")):
        for found, expected in zip(processor.find_cells(form), (boxes, scores), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    for found, expected in zip(processor.find_cells(channels_first / 255), (boxes, scores), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_components_are_scipys():
    rng = np.random.default_rng(0)
    masks = [rng.random((h, w)) < p for h, w, p in ((1, 1, 1), (1, 50, 0.5), (50, 1, 0.5), (9, 9, 0), (9, 9, 1))]
    masks += [rng.random(rng.integers(1, 60, 2)) < p for p in np.linspace(0.1, 0.9, 60)]
    spiral = np.zeros((41, 41), dtype=bool)
    for k in range(0, 20, 2):
        spiral[k, k : 41 - k] = spiral[k : 41 - k, 40 - k] = spiral[40 - k, k : 41 - k] = True
        spiral[k + 2 : 41 - k, k] = True
    for mask in [*masks, spiral]:
        rows, columns, component = _components(mask)
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        assert np.array_equal(np.argwhere(mask), np.stack((rows, columns), 1))
        pairs = set(zip(component.tolist(), labels[rows, columns].tolist(), strict=True))
        assert len(pairs) == count == len(set(component.tolist()))


# The finder on real fields


@needs_bccd
def test_finds_the_annotated_cells_of_bccd():
    processor = WBCImageProcessor()
    findings = find_annotated(
        lambda image: processor.find_cells(image)[0], BCCD / "Original_Images", BCCD / "Annotations"
    )
    figures = recall_and_precision(findings)
    assert figures["photographs"] == 364
    assert figures["annotated"] == 372
    for kind in ("overlapping", "centred"):
        assert figures[kind]["recall"][0] >= 0.98 and figures[kind]["precision"][0] >= 0.95, figures


@needs_bccd
@pytest.mark.parametrize("look", [look for look in LOOKS if look != "as drawn"])
def test_finds_the_cells_of_bccd_whatever_the_lamp_and_the_camera(look, tmp_path):
    for path in sorted((BCCD / "Original_Images").glob("*.jpg"))[::12]:
        with Image.open(path) as image:
            pixels = LOOKS[look](np.asarray(image.convert("RGB")).astype(float))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / path.name)
    processor = WBCImageProcessor()
    findings = find_annotated(lambda image: processor.find_cells(image)[0], tmp_path, BCCD / "Annotations")
    figures = recall_and_precision(findings)["overlapping"]
    assert len(findings) >= 29 and figures["recall"][0] >= 0.95 and figures["precision"][0] >= 0.9, figures


@needs_pbc
@pytest.mark.parametrize(
    "label",
    ["basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet"],
)
def test_finds_the_cell_in_the_middle_of_pbcs_images(label):
    processor = WBCImageProcessor()
    paths = sorted((PBC / label).iterdir())[::15][:80]
    near = 0
    for path in paths:
        with Image.open(path) as image:
            boxes, _ = processor.find_cells(image.convert("RGB"))
            middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor(image.size)
        near += bool(len(boxes)) and float((middle[0] - 0.5).norm()) <= 0.2
    assert near >= 0.95 * len(paths)


# Windows


def seen(processor, image):
    return processor(image, return_tensors="pt")["pixel_values"]


def test_windows_are_squares_of_the_size_asked_for():
    boxes = torch.tensor([[10.0, 20, 75, 59], [100, 100, 139, 204]])  # nuclei of 50 and 80 pixels, and their margins
    windows = WBCImageProcessor(window_size=3.0).windows(boxes)
    torch.testing.assert_close(windows, torch.tensor([[-32.5, -35.5, 117.5, 114.5], [-0.5, 32, 239.5, 272]]))
    windows = WBCImageProcessor(window_size=96, window_unit="pixel").windows(boxes)
    torch.testing.assert_close(windows, torch.tensor([[-5.5, -8.5, 90.5, 87.5], [71.5, 104, 167.5, 200]]))


def test_a_crop_holds_the_image_and_beyond_it_the_background():
    image = np.full((40, 60, 3), (200, 190, 180), dtype=np.uint8)
    image[10:20, 5:15] = (90, 40, 140)
    left, beyond, inside = WBCImageProcessor().crop(
        image, torch.tensor([[-10.0, 0, 20, 30], [70, 50, 90, 70], [5, 10, 15, 20]])
    )
    assert left.dtype == torch.uint8
    assert left.shape == (3, 30, 30)
    expected = np.full((30, 30, 3), (200, 190, 180), dtype=np.uint8)
    expected[10:20, 15:25] = (90, 40, 140)
    assert np.array_equal(left.permute(1, 2, 0), expected)
    assert np.array_equal(beyond.permute(1, 2, 0), np.full((20, 20, 3), (200, 190, 180)))
    assert np.array_equal(inside.permute(1, 2, 0), np.full((10, 10, 3), (90, 40, 140)))


def test_the_network_sees_the_window_of_the_foremost_cell():
    image, _nuclei = scene([(60, 70, 20, ROUND), (240, 150, 28, ROUND)])
    processor = WBCImageProcessor(size=64)
    boxes, scores = processor.find_cells(image)
    x, y, side = 240, 150, 2 * 56
    by_hand = image.crop((x - side // 2, y - side // 2, x + side // 2, y + side // 2))
    expected = seen(WBCImageProcessor(size=64, do_find_cell=False), by_hand)
    assert (seen(processor, image) - expected).abs().mean() < 0.1
    # A batch of images of different sizes, and each cell of one.
    batch = seen(processor, [image, image.resize((640, 480))])
    assert batch.shape == (2, 3, 64, 64)
    assert torch.equal(batch[:1], seen(processor, image))
    cells = processor.preprocess_cells(image)
    assert torch.equal(cells["boxes"], boxes)
    assert torch.equal(cells["scores"], scores)
    assert cells["pixel_values"].shape == (2, 3, 64, 64)
    assert torch.equal(cells["pixel_values"][:1], seen(processor, image))
    # A call may ask for something else than the processor's own.
    whole = seen(WBCImageProcessor(size=64, do_find_cell=False), image)
    assert torch.equal(processor(image, do_find_cell=False, return_tensors="pt")["pixel_values"], whole)
    wider = processor(image, window_size=4.0, return_tensors="pt")["pixel_values"]
    assert torch.equal(wider, seen(WBCImageProcessor(size=64, window_size=4.0), image))


@pytest.mark.parametrize("size", [(320, 240), (37, 91), (640, 480)])
def test_without_windows_it_is_the_stock_processor(size):
    arguments = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    image = draw_field("monocyte", 1).resize(size)
    stock, ours = ViTImageProcessor(size=96, **arguments), WBCImageProcessor(size=96, do_find_cell=False)
    pixels = np.array(image)
    for form in (image, pixels, torch.from_numpy(pixels).permute(2, 0, 1), [image, image.rotate(90)]):
        assert torch.equal(seen(ours, form), seen(stock, form))
    cells = ours.preprocess_cells(image)
    assert torch.equal(cells["pixel_values"], seen(stock, image))
    assert cells["boxes"].tolist() == [[0, 0, *size]]
    assert cells["scores"].tolist() == [1]


def test_survives_saving(tmp_path):
    saved = WBCImageProcessor(size=48, window_size=90, window_unit="pixel", do_find_cell=False)
    saved.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"preprocessor_config.json", "image_processing_wbc.py"}
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert written["auto_map"] == {"AutoImageProcessor": "image_processing_wbc.WBCImageProcessor"}
    for loaded in (
        WBCImageProcessor.from_pretrained(tmp_path),
        AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=True),
    ):
        assert (loaded.do_find_cell, loaded.window_size, loaded.window_unit) == (False, 90, "pixel")
        assert (loaded.size.height, loaded.size.width) == (48, 48)
    assert WBCImageProcessor.from_pretrained(tmp_path, do_find_cell=True).do_find_cell


def test_the_file_of_another_processor_means_whole_images(tmp_path):
    ViTImageProcessor(size=48).save_pretrained(tmp_path)
    assert not WBCImageProcessor.from_pretrained(tmp_path).do_find_cell
    assert WBCImageProcessor.from_pretrained(tmp_path, do_find_cell=True).do_find_cell


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"window_size": 0}, "window_size must be above 0, got 0"),
        ({"window_size": -1.5}, "window_size must be above 0, got -1.5"),
        ({"window_unit": "cell"}, "window_unit must be 'nucleus' or 'pixel', got 'cell'"),
    ],
)
def test_refuses_a_wrong_window(arguments, words):
    with pytest.raises(ValueError, match=words):
        WBCImageProcessor(**arguments)
    with pytest.raises(ValueError, match=words):
        WBCImageProcessor()(draw_field("monocyte", 1), **arguments)


def test_refuses_what_is_no_image_of_three_channels():
    with pytest.raises(ValueError, match="three channels"):
        WBCImageProcessor().find_cells(torch.zeros(3, 0, 5))


WITHOUT_TORCHVISION = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "torchvision" else find_spec(name, *rest)
sys.modules["torchvision"] = None
import torch
from PIL import Image
from transformers.utils import is_torchvision_available
from modeling_wbc import WBCImageProcessor
assert not is_torchvision_available()
processor = WBCImageProcessor(size=64)
assert processor.backend == "pil"
image = Image.open(sys.argv[1])
cells = processor.preprocess_cells(image)
torch.save([processor(image, return_tensors="pt")["pixel_values"], dict(cells)], sys.argv[2])
"""


def test_works_without_torchvision(tmp_path):
    """As for somebody who has installed transformers, torch and Pillow only."""
    image, _ = scene(TWO)
    image.save(tmp_path / "field.png")
    command = [sys.executable, "-c", WITHOUT_TORCHVISION, str(tmp_path / "field.png"), str(tmp_path / "seen.pt")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    pixel_values, cells = torch.load(tmp_path / "seen.pt")
    expected = WBCImageProcessor(size=64).preprocess_cells(image)
    assert torch.equal(cells["boxes"], expected["boxes"])
    # Pillow rounds after each of the two axes of a resize, torchvision once.
    torch.testing.assert_close(cells["pixel_values"], expected["pixel_values"], rtol=0, atol=0.05)
    assert torch.equal(pixel_values, cells["pixel_values"][:1])


@pytest.fixture(scope="module")
def drawn():
    return draw_field("eosinophil", 3)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def sixteen_bits(image, path, *options):
    """Written by OpenCV, since Pillow writes no colours of 16 bits; 257 v of 65535 is v of 255."""
    pixels = np.asarray(image)[..., ::-1].astype(np.uint16) * 257
    assert cv2.imwrite(str(path), pixels, options)
    return path


@pytest.mark.parametrize(
    "write",
    [
        lambda image, folder: saved(image, folder / "a.png"),
        lambda image, folder: saved(image, folder / "a.tif"),
        lambda image, folder: saved(image, folder / "a.tif", compression="tiff_lzw"),
        lambda image, folder: saved(image, folder / "a.bmp"),
        lambda image, folder: saved(image, folder / "a.webp", lossless=True),
        lambda image, folder: saved(image, folder / "a.ppm"),
        lambda image, folder: saved(image.convert("RGBA"), folder / "a.png"),
        lambda image, folder: saved(image.convert("RGBA"), folder / "a.tif"),
        lambda image, folder: sixteen_bits(image, folder / "a.png"),
        lambda image, folder: sixteen_bits(image, folder / "a.tif", cv2.IMWRITE_TIFF_COMPRESSION, 1),
        lambda image, folder: sixteen_bits(image, folder / "a.tif", cv2.IMWRITE_TIFF_COMPRESSION, 5),
    ],
)
def test_the_same_pixels_are_read_from_any_format(drawn, tmp_path, write):
    path = write(drawn, tmp_path)
    for source in (path, str(path), io.BytesIO(path.read_bytes())):
        image = WBCImageProcessor().fetch_images(source)
        assert image.mode == "RGB"
        assert np.array_equal(image, drawn)


def test_palettes_grey_levels_and_transparency_are_read_as_they_look(drawn, tmp_path):
    processor = WBCImageProcessor()
    few = drawn.quantize(64)
    for name in ("few.gif", "few.png"):
        assert np.array_equal(processor.fetch_images(saved(few, tmp_path / name)), few.convert("RGB"))
    grey = drawn.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for path in (saved(grey, tmp_path / "grey.png"), saved(deep, tmp_path / "a.png"), saved(deep, tmp_path / "a.tif")):
        assert np.array_equal(processor.fetch_images(path), grey.convert("RGB"))
    # Opened by the user's own hand too.
    with Image.open(tmp_path / "a.tif") as opened:
        pixels = processor(opened, do_find_cell=False, do_normalize=False, do_rescale=False, do_resize=False)
        assert np.array_equal(pixels["pixel_values"][0][0], grey)
    hidden = drawn.convert("RGBA")
    hidden.putalpha(0)
    assert np.asarray(processor.fetch_images(saved(hidden, tmp_path / "hidden.png"))).min() == 255
    print_colours = drawn.convert("CMYK")
    seen = processor.fetch_images(saved(print_colours, tmp_path / "cmyk.jpg", quality=100))
    assert np.abs(np.asarray(seen, dtype=int) - np.asarray(drawn)).mean() < 3


def test_the_first_frame_counts_and_a_photograph_lies_as_its_exif_says(drawn, tmp_path):
    other = Image.new("RGB", drawn.size)
    path = saved(drawn, tmp_path / "frames.tif", save_all=True, append_images=[other])
    assert np.array_equal(WBCImageProcessor().fetch_images(path), drawn)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise, for the eye
    path = saved(drawn, tmp_path / "turned.png", exif=exif)
    upright = drawn.transpose(Image.Transpose.ROTATE_270)
    with Image.open(path) as opened:
        for image in WBCImageProcessor().fetch_images([path, opened]):
            assert np.array_equal(image, upright)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "no image"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image"),
        ("paper.jpg", b"%PDF-1.7 and so on", "no image"),
        ("ghost.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        ("cut.png", None, "truncated|Truncated"),
        ("bomb.png", "bomb", "decompression bomb"),
        ("floats.tif", "floats", "32 bits"),
    ],
)
def test_says_which_file_cannot_be_read_and_why(drawn, tmp_path, name, content, reason):
    path = tmp_path / name
    if content is None:
        path.write_bytes(saved(drawn, path).read_bytes()[:2000])
    elif content == "bomb":  # 20,000 x 20,000 pixels, says its header
        chunks = (b"IHDR" + (20_000).to_bytes(4) * 2 + bytes((8, 2, 0, 0, 0)), b"IDAT" + zlib.compress(b"\0"))
        parts = [(len(chunk) - 4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) for chunk in chunks]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    elif content == "floats":
        Image.fromarray(np.zeros((20, 20), dtype=np.float32)).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read the image .*{name}: .*(?:{reason})"):
        WBCImageProcessor().fetch_images(path)
