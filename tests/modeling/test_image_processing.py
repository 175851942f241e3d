"""WBCImageProcessor: reading images, crops, and transformers' own processor without them."""

import io
import json
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessor

from hub.data.synthetic import draw_field
from modeling_wbc import WBCImageProcessor
from tests.modeling.scenes import ROUND, TWO, scene

ROOT = Path(__file__).parents[2]


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


# Crops


def seen(processor, image):
    return processor(image, return_tensors="pt")["pixel_values"]


def test_crop_boxes_are_squares_of_the_requested_size():
    boxes = torch.tensor([[10.0, 20, 75, 59], [100, 100, 139, 204]])  # nuclei of 50 and 80 pixels, and their margins
    squares = WBCImageProcessor(window_size=3.0).crop_boxes(boxes)
    torch.testing.assert_close(squares, torch.tensor([[-32.5, -35.5, 117.5, 114.5], [-0.5, 32, 239.5, 272]]))
    squares = WBCImageProcessor(window_size=96, window_unit="pixel").crop_boxes(boxes)
    torch.testing.assert_close(squares, torch.tensor([[-5.5, -8.5, 90.5, 87.5], [71.5, 104, 167.5, 200]]))


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


def test_the_network_sees_the_crop_of_the_foremost_cell():
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
    # Arguments of a call override the processor's own.
    whole = seen(WBCImageProcessor(size=64, do_find_cell=False), image)
    assert torch.equal(processor(image, do_find_cell=False, return_tensors="pt")["pixel_values"], whole)
    wider = processor(image, window_size=4.0, return_tensors="pt")["pixel_values"]
    assert torch.equal(wider, seen(WBCImageProcessor(size=64, window_size=4.0), image))


@pytest.mark.parametrize("size", [(320, 240), (37, 91), (640, 480)])
def test_without_crops_it_is_the_stock_processor(size):
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
    assert {path.name for path in tmp_path.iterdir()} == {
        "preprocessor_config.json",
        "image_processing_wbc.py",
        "detection_wbc.py",
        "illumination_wbc.py",
        "reading_wbc.py",
    }
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
def test_refuses_a_wrong_crop_size_or_unit(arguments, words):
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
    """As with transformers, torch and Pillow only."""
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


# Reading


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


def test_palettes_grey_levels_and_transparency_are_read_as_displayed(drawn, tmp_path):
    processor = WBCImageProcessor()
    few = drawn.quantize(64)
    for name in ("few.gif", "few.png"):
        assert np.array_equal(processor.fetch_images(saved(few, tmp_path / name)), few.convert("RGB"))
    grey = drawn.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for path in (saved(grey, tmp_path / "grey.png"), saved(deep, tmp_path / "a.png"), saved(deep, tmp_path / "a.tif")):
        assert np.array_equal(processor.fetch_images(path), grey.convert("RGB"))
    # Images that the user has opened, too.
    with Image.open(tmp_path / "a.tif") as opened:
        pixels = processor(opened, do_find_cell=False, do_normalize=False, do_rescale=False, do_resize=False)
        assert np.array_equal(pixels["pixel_values"][0][0], grey)
    hidden = drawn.convert("RGBA")
    hidden.putalpha(0)
    assert np.asarray(processor.fetch_images(saved(hidden, tmp_path / "hidden.png"))).min() == 255
    print_colours = drawn.convert("CMYK")
    seen = processor.fetch_images(saved(print_colours, tmp_path / "cmyk.jpg", quality=100))
    assert np.abs(np.asarray(seen, dtype=int) - np.asarray(drawn)).mean() < 3


def test_reads_the_first_frame_upright_by_its_exif_orientation(drawn, tmp_path):
    other = Image.new("RGB", drawn.size)
    path = saved(drawn, tmp_path / "frames.tif", save_all=True, append_images=[other])
    assert np.array_equal(WBCImageProcessor().fetch_images(path), drawn)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be displayed turned by 90 degrees clockwise
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
        ("floats.tif", "floats", "float32"),
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
        Image.fromarray(np.full((20, 20), 300, dtype=np.float32)).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read the image .*{name}: .*(?:{reason})"):
        WBCImageProcessor().fetch_images(path)
