"""The detector on drawn and on real fields."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage.filters import threshold_otsu
from torchvision.ops import box_iou

from hub.data.synthetic import draw_field
from hub.study.detection import find_annotated, recall_and_precision
from modeling_wbc import WBCImageProcessor
from modeling_wbc.detection_wbc import connected_components, split_in_two, without_annotations
from tests.modeling.scenes import ROUND, TWO, grown, scene

BCCD, PBC, LISC = (
    Path(os.environ[name]) if name in os.environ else None for name in ("WBC_BCCD_DIR", "WBC_PBC_DIR", "WBC_LISC_DIR")
)
needs_bccd = pytest.mark.skipif(BCCD is None, reason="WBC_BCCD_DIR names no folder of real images")
needs_lisc = pytest.mark.skipif(LISC is None, reason="WBC_LISC_DIR names no folder of real images")
needs_pbc = pytest.mark.skipif(PBC is None, reason="WBC_PBC_DIR names no folder of real images")


def assert_found(image, nuclei, overlap=0.75):
    """Exactly these cells, in any order; boxes end at the image's border and scores descend."""
    boxes, scores = WBCImageProcessor().find_cells(image)
    assert boxes.dtype == scores.dtype == torch.float32
    assert boxes.shape == (len(nuclei), 4)
    assert scores.shape == (len(nuclei),)
    assert ((scores > 0) & (scores < 1)).all()
    assert (scores.diff() <= 0).all()
    size = torch.tensor([*image.size, *image.size])
    assert (boxes >= 0).all()
    assert (boxes <= size).all()
    expected = grown(nuclei).clamp(torch.zeros(4), size.float())
    found = box_iou(boxes, expected)
    assert (found.amax(0) >= overlap).all(), found
    assert (found.amax(1) >= overlap).all(), found
    return boxes, scores


# Drawn fields


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
def test_finds_cells_under_any_lamp_and_camera(look):
    image, nuclei = scene(TWO)
    pixels = LOOKS[look](np.asarray(image).astype(float))
    assert_found(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), nuclei, overlap=0.7)


@pytest.mark.parametrize("red", [12, 20, 40])
def test_red_cells_of_a_bluish_stain_are_no_white_cells(red):
    """Where they lie over each other, their stain is above half of the nuclei's."""
    assert_found(*scene(TWO, red=red, red_cell=(0.7, 0.66, 0.78)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("background", ["black", "red", "lime", "blue", "yellow", "magenta"])
def test_drawings_on_any_ground_are_read(background):
    drawing = Image.new("RGB", (120, 90), background)
    pen = ImageDraw.Draw(drawing)
    for place, color in enumerate([(0, 0, 255), (0, 255, 0), (255, 0, 0), (90, 60, 160), (1, 1, 1)]):
        pen.ellipse((20 * place, 15 * place, 20 * place + 24, 15 * place + 24), fill=color)
    for corrected in (False, True):
        boxes, scores = WBCImageProcessor(do_correct_illumination=corrected).find_cells(drawing)
        assert boxes.isfinite().all()
        assert scores.isfinite().all()


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
def test_splits_touching_cells(angle, gap):
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
    # But a platelet that fills the image is its subject.
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
    # Nor does the width of red cells depend on them.
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
    """The network then sees the whole image."""
    image = nothing()[name]
    processor = WBCImageProcessor()
    boxes, scores = processor.find_cells(image)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)
    first, whole = (processor(image, do_find_cell=find, return_tensors="pt")["pixel_values"] for find in (True, False))
    assert torch.equal(first, whole)
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


def test_connected_components_equal_scipys():
    rng = np.random.default_rng(0)
    masks = [rng.random((h, w)) < p for h, w, p in ((1, 1, 1), (1, 50, 0.5), (50, 1, 0.5), (9, 9, 0), (9, 9, 1))]
    masks += [rng.random(rng.integers(1, 60, 2)) < p for p in np.linspace(0.1, 0.9, 60)]
    spiral = np.zeros((41, 41), dtype=bool)
    for k in range(0, 20, 2):
        spiral[k, k : 41 - k] = spiral[k : 41 - k, 40 - k] = spiral[40 - k, k : 41 - k] = True
        spiral[k + 2 : 41 - k, k] = True
    for mask in [*masks, spiral]:
        rows, columns, component = connected_components(mask)
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        assert np.array_equal(np.argwhere(mask), np.stack((rows, columns), 1))
        pairs = set(zip(component.tolist(), labels[rows, columns].tolist(), strict=True))
        assert len(pairs) == count == len(set(component.tolist()))


# Annotated fields


def annotated(image, kind, color):
    """A copy of an image with an annotation beside its cells."""
    image = image.copy()
    pen, (width, height) = ImageDraw.Draw(image), image.size
    if kind == "arrow":
        pen.line((0.03 * width, 0.9 * height, 0.15 * width, 0.75 * height), fill=color, width=max(2, width // 100))
    elif kind == "text":
        pen.text((8, 8), "eosinophil, 40x", fill=color, font=ImageFont.load_default(0.05 * width))
    elif kind == "scale bar":
        pen.rectangle((0.7 * width, 0.93 * height, 0.95 * width, 0.96 * height), fill=color)
    elif kind == "circle":
        pen.ellipse(
            (0.02 * width, 0.03 * height, 0.98 * width, 0.97 * height), outline=color, width=max(2, width // 150)
        )
    return image


INKS = ("#0000ff", "#0000dd", "#ff00ff", "#4000ff", "#ff0000", "#00ff00", "#00ffff", "#000000", "#ffff00")


@pytest.mark.parametrize("color", INKS)
@pytest.mark.parametrize("kind", ["arrow", "text", "scale bar", "circle"])
def test_annotations_neither_hide_cells_nor_are_cells(kind, color):
    image, nuclei = scene(TWO)
    assert_found(annotated(image, kind, color), nuclei, overlap=0.7)


def test_annotations_of_a_photograph_saved_as_jpeg_neither_hide_cells_nor_are_cells(tmp_path):
    image, nuclei = scene([(3 * x, 3 * y, 3 * radius, lobes) for x, y, radius, lobes in TWO], (960, 720))
    for kind in ("arrow", "text", "scale bar"):
        annotated(image, kind, "#0000ff").save(tmp_path / "annotated.jpg", quality=95, subsampling=0)
        with Image.open(tmp_path / "annotated.jpg") as photograph:
            assert_found(photograph.convert("RGB"), nuclei, overlap=0.7)


def test_an_image_without_annotations_stays_as_it_is():
    for image in (scene(TWO)[0], *(draw_field(label, 3) for label in ("eosinophil", "lymphocyte"))):
        pixels = np.asarray(image).transpose(2, 0, 1)
        assert without_annotations(pixels, 1) is pixels


# Real fields


@pytest.mark.parametrize("groups", [[(0.1, 0.02, 900), (0.4, 0.05, 100)], [(0.0, 0.3, 500)]])
def test_values_are_split_where_scikit_image_splits_them(groups):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(mean, spread, count) for mean, spread, count in groups]).astype(np.float32)
    bin_width = np.ptp(values) / 64
    assert abs(split_in_two(values) - threshold_otsu(values, nbins=64)) <= bin_width + 1e-6
    assert split_in_two(values[:0]) == 0


@needs_bccd
@needs_pbc
def test_no_real_image_is_taken_for_annotated():
    paths = sorted((BCCD / "Original_Images").glob("*.jpg"))[::2] + sorted(PBC.glob("*/*.jpg"))[::100]
    assert len(paths) > 300
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        assert without_annotations(pixels, 1) is pixels, path


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
        assert figures[kind]["recall"][0] >= 0.98, figures
        assert figures[kind]["precision"][0] >= 0.95, figures


@needs_bccd
@pytest.mark.parametrize("look", [look for look in LOOKS if look != "as drawn"])
def test_finds_the_cells_of_bccd_under_any_lamp_and_camera(look, tmp_path):
    for path in sorted((BCCD / "Original_Images").glob("*.jpg"))[::12]:
        with Image.open(path) as image:
            pixels = LOOKS[look](np.asarray(image.convert("RGB")).astype(float))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / path.name)
    processor = WBCImageProcessor()
    findings = find_annotated(lambda image: processor.find_cells(image)[0], tmp_path, BCCD / "Annotations")
    figures = recall_and_precision(findings)["overlapping"]
    assert len(findings) >= 29
    assert figures["recall"][0] >= 0.95, figures
    assert figures["precision"][0] >= 0.9, figures


@needs_pbc
@pytest.mark.parametrize(
    "label",
    ["basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet"],
)
def test_finds_the_cell_in_the_middle_of_pbcs_images(label):
    processor = WBCImageProcessor()
    paths = sorted((PBC / label).iterdir())[::10]
    near = 0
    for path in paths:
        with Image.open(path) as image:
            boxes, _ = processor.find_cells(image.convert("RGB"))
            middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor(image.size)
        near += bool(len(boxes)) and float((middle[0] - 0.5).norm()) <= 0.2
    assert near >= 0.95 * len(paths)


@needs_lisc
def test_finds_one_cell_in_most_images_of_a_lab_whose_red_cells_are_blue():
    """LISC's images show one white cell and its surroundings."""
    processor = WBCImageProcessor(do_correct_illumination=True)
    paths = sorted(LISC.glob("*/*.jpg"))
    counts = [len(processor.find_cells(str(path))[0]) for path in paths]
    assert min(counts) == 1
    assert counts.count(1) >= 0.85 * len(paths) > 200
