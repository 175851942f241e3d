"""One reader for training and inference: every format, mode, dtype and layout gives the same 8-bit RGB pixels."""

import base64
import io
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer

import cv2
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageCms, PngImagePlugin, features
from torchvision.transforms.functional import to_tensor
from transformers import pipeline
from transformers.dynamic_module_utils import get_imports

from hub.data.synthetic import draw_field
from hub.training.images import CellImages
from modeling_wbc import WBCImageProcessor, reading_wbc
from modeling_wbc.reading_wbc import ImageReadError, read_image, rgb_pixels, to_eight_bits
from tests.modeling.builders import tiny_model

tifffile = pytest.importorskip("tifffile")


DRAWN = draw_field("eosinophil", 3).resize((80, 60))


@pytest.fixture
def drawn():
    return DRAWN.copy()  # Pillow notes the options of a `save` in the image


def scaled(image, bits):
    """The image with `bits` significant bits in 16: v of 255 becomes v << (bits - 8), and the lower bits are set."""
    pixels = np.asarray(image).astype(np.uint16)
    return pixels << (bits - 8) | pixels >> (16 - bits)


def planes(image, bits=8):
    pixels = np.moveaxis(np.asarray(image), -1, 0) if bits == 8 else np.moveaxis(scaled(image, bits), -1, 0)
    return np.ascontiguousarray(pixels)


def by_pillow(mode=None, **options):
    return lambda image, path: (image.convert(mode) if mode else image).save(path, **options)


def by_opencv(bits, *options):
    return lambda image, path: cv2.imwrite(str(path), scaled(image, bits)[..., ::-1], options)


def by_tifffile(pixels, **options):
    return lambda image, path: tifffile.imwrite(path, pixels(image), **options)


def grey_by_tifffile(pixels, **options):
    return by_tifffile(lambda image: pixels(np.asarray(image.convert("L"))), **options)


def lab(image, path):
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    ImageCms.applyTransform(image, to_lab).save(path)


def turned(image, path):
    exif = Image.Exif()
    exif[0x0112] = 8
    image.transpose(Image.Transpose.ROTATE_270).save(path, exif=exif)


def half_transparent(image, path):
    pixels = np.dstack((np.asarray(image), np.full((60, 80), 255, np.uint8)))
    pixels[:, :40] = (10, 20, 30, 0)
    Image.fromarray(pixels).save(path)


CONTIGUOUS = {"photometric": "rgb"}
SEPARATE = {"photometric": "rgb", "planarconfig": "separate"}
GREYS = {"photometric": "minisblack"}
# Name -> (how it is written, what is read: the image "same", "grey" or "left half white", and the largest difference).
FILES = {
    "rgb.png": (by_pillow(), "same", 0),
    "rgb.tif": (by_pillow(), "same", 0),
    "lzw.tif": (by_pillow(compression="tiff_lzw"), "same", 0),
    "rgb.bmp": (by_pillow(), "same", 0),
    "rgb.ppm": (by_pillow(), "same", 0),
    "rgb.webp": (by_pillow(lossless=True), "same", 0),
    "rgb.jp2": (by_pillow(), "same", 0),
    "rgb.jpg": (by_pillow(quality=95, subsampling=0), "same", 30),
    "cmyk.jpg": (by_pillow("CMYK", quality=95), "same", 60),
    "lab.tif": (lab, "same", 12),
    "rgba.png": (by_pillow("RGBA"), "same", 0),
    "half.png": (half_transparent, "left half white", 0),
    "half.tif": (half_transparent, "left half white", 0),
    "turned.png": (turned, "same", 0),
    "turned.tif": (turned, "same", 0),
    "grey.png": (by_pillow("L"), "grey", 0),
    "grey-alpha.png": (by_pillow("LA"), "grey", 0),
    "grey-16.png": (lambda image, path: Image.fromarray(scaled(image.convert("L"), 16)).save(path), "grey", 0),
    "grey-12.png": (lambda image, path: Image.fromarray(scaled(image.convert("L"), 12)).save(path), "grey", 0),
    "grey-16.tif": (grey_by_tifffile(lambda grey: scaled(grey, 16)), "grey", 0),
    "grey-14.tif": (grey_by_tifffile(lambda grey: scaled(grey, 14)), "grey", 0),
    "grey-10.tif": (grey_by_tifffile(lambda grey: scaled(grey, 10), byteorder=">"), "grey", 0),
    "white-is-zero.tif": (
        grey_by_tifffile(lambda grey: 65535 - scaled(grey, 16), photometric="miniswhite"),
        "grey",
        0,
    ),
    "grey-32.tif": (grey_by_tifffile(lambda grey: scaled(grey, 12).astype(np.int32)), "grey", 0),
    "unit-floats.tif": (grey_by_tifffile(lambda grey: grey.astype(np.float32) / 255), "grey", 0),
    "floats.tif": (grey_by_tifffile(lambda grey: grey.astype(np.float32)), "grey", 0),
    "colours-16.png": (by_opencv(16), "same", 0),
    "colours-12.png": (by_opencv(12), "same", 0),
    "colours-16.tif": (by_opencv(16, cv2.IMWRITE_TIFF_COMPRESSION, 1), "same", 0),
    "colours-12.tif": (by_opencv(12, cv2.IMWRITE_TIFF_COMPRESSION, 1), "same", 0),
    "colours-12-lzw.tif": (by_opencv(12, cv2.IMWRITE_TIFF_COMPRESSION, 5), "same", 0),
    "colours-14-big-endian.tif": (
        by_tifffile(lambda image: scaled(image, 14), byteorder=">", **CONTIGUOUS),
        "same",
        0,
    ),
    "colour-floats.tif": (by_tifffile(lambda image: np.float32(image) / 255, **CONTIGUOUS), "same", 0),
    "planes-8.tif": (by_tifffile(planes, **SEPARATE), "same", 0),
    "planes-16.tif": (by_tifffile(lambda image: planes(image, 16), **SEPARATE), "same", 0),
    "planes-12-zip.tif": (by_tifffile(lambda image: planes(image, 12), compression="zlib", **SEPARATE), "same", 0),
    "grey-planes.tif": (by_tifffile(planes, planarconfig="separate", **GREYS), "same", 0),
    "three-pages.tif": (by_tifffile(planes, **GREYS), "same", 0),
    "three-pages-12.tif": (by_tifffile(lambda image: planes(image, 12), **GREYS), "same", 0),
    "composite.tif": (
        by_tifffile(planes, imagej=True, metadata={"axes": "CYX", "mode": "composite"}),
        "same",
        0,
    ),
    "composite-16.ome.tif": (
        by_tifffile(lambda image: planes(image, 16), metadata={"axes": "CYX"}, **GREYS),
        "same",
        0,
    ),
    "palette.png": (lambda image, path: image.quantize(256).save(path), "same", 60),
    "palette.gif": (lambda image, path: image.quantize(256).save(path), "same", 60),
    "two.png": (by_pillow("1"), "two", 0),
}
if features.check("avif"):
    FILES["rgb.avif"] = (by_pillow(quality=95, subsampling="4:4:4"), "same", 30)


def expected(image, what):
    if what == "left half white":
        pixels = np.array(image)
        pixels[:, :40] = 255
        return pixels
    return np.asarray({"same": image, "grey": image.convert("L"), "two": image.convert("1")}[what].convert("RGB"))


@pytest.mark.parametrize("name", FILES)
def test_training_and_inference_see_the_same_pixels_of_every_file(drawn, tmp_path, name):
    write, what, tolerance = FILES[name]
    path = tmp_path / name
    write(drawn, path)
    pixels = np.asarray(read_image(path))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (60, 80, 3)
    assert np.abs(pixels.astype(int) - expected(drawn, what)).max() <= tolerance

    whole = WBCImageProcessor(do_find_cell=False, do_resize=False, do_rescale=False, do_normalize=False)
    # Pillow itself opens neither of the two.
    with Image.open(path) if name not in ("colour-floats.tif", "grey-planes.tif") else path.open("rb") as opened:
        seen = whole([path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), opened], return_tensors="np")
    for inference in seen["pixel_values"]:
        assert np.array_equal(np.moveaxis(inference, 0, -1), pixels)

    columns = Features({"image": ImageFeature(), "label": Value("int64")})
    for encoded in (str(path), {"bytes": path.read_bytes(), "path": None}):
        rows = Dataset.from_dict({"image": [encoded], "label": [0]}, features=columns)
        training = CellImages(rows, whole, [0])[0]["pixel_values"]
        assert np.array_equal(np.moveaxis(np.asarray(training), 0, -1), pixels)


MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F")
MODES += ("I;16", "I;16B", "I;16L")


@pytest.mark.parametrize("mode", MODES)
def test_a_pil_image_of_any_mode_is_read_as_it_is_displayed(drawn, mode):
    grey = drawn.convert("L")
    if mode.startswith("I;16"):
        values = np.asarray(grey).astype(">u2" if mode == "I;16B" else "<u2") * 257
        image, seen = Image.frombytes(mode, grey.size, values.tobytes()), grey
    elif mode == "LAB":
        image = ImageCms.profileToProfile(
            drawn, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        seen = drawn
    else:
        through = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, mode)
        image = drawn.convert(through).convert(mode)
        seen = {"1": image, "P": image, "PA": image}.get(mode, grey if mode[0] in "LIF" else drawn).convert("RGB")
    tolerance = {"YCbCr": 3, "LAB": 12, "HSV": 12, "F": 1}.get(mode, 0)
    assert image.mode == mode
    difference = np.abs(np.asarray(read_image(image)).astype(int) - np.asarray(seen.convert("RGB")))
    assert difference.max() <= tolerance
    boxes, _ = WBCImageProcessor().find_cells(image)
    assert torch.equal(boxes, WBCImageProcessor().find_cells(read_image(image))[0])


def test_reading_returns_a_new_image():
    image = Image.new("RGB", (4, 4), "white")
    read_image(image).putpixel((0, 0), (0, 0, 0))
    assert image.getpixel((0, 0)) == (255, 255, 255)


def arrays(image):
    """The same photograph as arrays and tensors, by a name."""
    pixels = np.array(image)
    locked = pixels.copy()
    locked.flags.writeable = False
    opaque = np.dstack((pixels, np.full(pixels.shape[:2], 255, np.uint8)))
    return {
        "uint8": pixels,
        "channels first": np.moveaxis(pixels, -1, 0),
        "OpenCV's, reversed": np.ascontiguousarray(pixels[..., ::-1])[..., ::-1],
        "reversed, channels first": np.moveaxis(np.ascontiguousarray(pixels[..., ::-1])[..., ::-1], -1, 0),
        "mirrored twice": np.ascontiguousarray(pixels[::-1, ::-1])[::-1, ::-1],
        "every second pixel": np.repeat(np.repeat(pixels, 2, 0), 2, 1)[::2, ::2],
        "read-only": locked,
        "read-only, channels first": np.moveaxis(locked, -1, 0),
        "opaque": opaque,
        "opaque, 16 bits": opaque.astype(np.uint16) * 257,
        "opaque floats": opaque / 255,
        "12 bits, opaque in 16": np.dstack((scaled(image, 12), np.full(pixels.shape[:2], 65535, np.uint16))),
        "int64": pixels.astype(np.int64),
        **{f"{bits} bits": scaled(image, bits) for bits in (10, 12, 14, 16)},
        "big-endian": scaled(image, 12).astype(">u2"),
        "uint32": scaled(image, 12).astype(np.uint32),
        "int16": scaled(image, 14).astype(np.int16),
        "float64 in [0, 1]": pixels / 255,
        "float32 in [0, 255]": pixels.astype(np.float32),
        "float16 in [0, 1]": (pixels / 255).astype(np.float16),
        "ToTensor": to_tensor(image),
        "ToTensor as float16": to_tensor(image).half(),
        "ToTensor with a gradient": to_tensor(image).requires_grad_(),
        "a bfloat16 tensor in [0, 255]": torch.from_numpy(pixels).bfloat16(),
        "a tensor": torch.from_numpy(pixels),
        "a uint16 tensor": torch.from_numpy(scaled(image, 12)),
        "an int32 tensor": torch.from_numpy(scaled(image, 12).astype(np.int32)),
    }


@pytest.mark.parametrize("form", arrays(Image.new("RGB", (8, 8))))
@pytest.mark.parametrize("arguments", [{}, {"do_find_cell": False}])
def test_arrays_and_tensors_of_any_dtype_give_the_pixel_values_of_the_image(drawn, form, arguments):
    processor = WBCImageProcessor(size=48, **arguments)
    wanted = processor(drawn, return_tensors="pt")["pixel_values"]
    image = arrays(drawn)[form]
    # bfloat16 holds 8 bits of a number's value, and whole numbers up to 256.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"], wanted)
    assert torch.equal(processor.preprocess_cells(image)["pixel_values"][:1], wanted)
    assert np.array_equal(read_image(image), drawn)


def test_batches_are_judged_image_by_image(drawn):
    processor = WBCImageProcessor(size=48)
    dark = drawn.point(lambda value: value // 3)
    wanted = processor([drawn, dark], return_tensors="pt")["pixel_values"]
    unit = torch.stack([to_tensor(drawn), to_tensor(dark)])
    for batch in (unit, [*unit], unit * 255, unit.numpy(), [np.asarray(drawn), to_tensor(dark)], [unit[:1], unit[1:]]):
        assert torch.equal(processor(batch, return_tensors="pt")["pixel_values"], wanted)
    grey = np.asarray(drawn.convert("L"))
    wanted = processor(drawn.convert("L"), return_tensors="pt")["pixel_values"]
    for form in (grey, grey[None], grey[..., None], grey / 255, [grey]):
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values"], wanted)


@pytest.mark.parametrize("arguments", [{}, {"do_find_cell": False}])
def test_floats_that_are_scaled_already_need_no_rescaling(drawn, arguments):
    """`do_rescale=False` with floats in [0, 1] is how transformers' documentation has it."""
    processor = WBCImageProcessor(size=48, **arguments)
    wanted = processor(drawn, return_tensors="pt")["pixel_values"]
    for image in (to_tensor(drawn), np.asarray(drawn) / 255):
        seen = processor(image, do_rescale=False, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(seen, wanted, rtol=0, atol=0.05)  # a resize of uint8 rounds
    kept = processor(np.float32(drawn), do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert kept.max() > 100


def test_the_pipeline_reads_tensors_as_images(drawn):
    classifier = pipeline("image-classification", tiny_model(num_labels=3), image_processor=WBCImageProcessor(size=32))
    assert classifier(to_tensor(drawn)) == classifier(drawn)
    assert classifier(scaled(drawn, 12)) == classifier(drawn)


def test_the_range_of_floats_and_integers_follows_from_their_maximum():
    def read(*values, dtype):
        return to_eight_bits(np.array(values, dtype)).tolist()

    assert read(0, 0.5, 1, dtype=np.float32) == [0, 128, 255]
    assert read(-0.001, 1.001, dtype=np.float32) == [0, 255]
    assert read(0, 3.2, 255.3, dtype=np.float32) == [0, 3, 255]
    assert read(0, 0.01, dtype=np.float32) == [0, 3]  # almost black in [0, 1], not in [0, 255]
    assert read(0, 255, dtype=np.uint16) == [0, 255]
    assert read(4, 256, dtype=np.uint16) == [1, 64]
    assert read(16, 1024, dtype=np.uint16) == [1, 64]
    assert read(64, 4096, dtype=np.uint16) == [1, 64]
    assert read(256, 16384, dtype=np.uint16) == [1, 64]
    assert read(0, 1, dtype=np.uint8) == [0, 1]
    assert read(0, 1, dtype=bool) == [0, 255]


@pytest.mark.parametrize(
    "image, got",
    [
        (np.full((9, 8, 3), np.nan, np.float32), r"float32 \(9, 8, 3\) from nan to nan"),
        (np.array([[[0.5, 0.5, np.inf]]]), r"float64 \(1, 1, 3\) from 0.5 to inf"),
        ((torch.rand(3, 9, 8) - 0.5) / 0.2, r"float32 \(3, 9, 8\) from -.* undo its normalisation"),
        (torch.rand(3, 9, 8) * 0.5 + 1.9, "undo its normalisation"),
        (np.full((9, 8, 3), 300.0), "from 300 to 300"),
        (np.full((9, 8, 3), 70_000), r"int64 \(9, 8, 3\) from 70000 to 70000"),
        (np.full((9, 8, 3), -1, np.int16), "int16"),
        (np.full((9, 8, 3), 1j), "complex128"),
        (np.full((9, 8, 3), "a"), "<U1"),
        (np.zeros((9, 8, 2), np.uint8), r"three channels .* uint8 \(9, 8, 2\)"),
        (np.zeros((2, 9, 8, 3), np.uint8), r"three channels .* \(2, 9, 8, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), "at least one pixel"),
        (torch.zeros(3, 0, 5, dtype=torch.uint8), "at least one pixel"),
    ],
)
def test_anything_else_is_an_error_that_says_what_came_and_what_is_expected(image, got):
    expectation = "integers from 0 to 65535 or floats from 0 to 1 or from 0 to 255"
    with pytest.raises(ValueError, match=got) as error:
        rgb_pixels(image)
    assert expectation in str(error.value) or "one channel (grey), three channels (RGB)" in str(error.value)
    with pytest.raises(ValueError, match=got):
        WBCImageProcessor().find_cells(image)
    with pytest.raises(ImageReadError, match=f"cannot read the image in memory: .*{got}"):
        read_image(image)


def test_the_channels_come_first_where_both_ends_could_be_channels():
    image = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert np.array_equal(rgb_pixels(image), image)
    assert np.array_equal(rgb_pixels(torch.from_numpy(image)), image)
    assert np.array_equal(rgb_pixels(image, channels_first=False), image.transpose(2, 0, 1))
    assert np.array_equal(rgb_pixels(torch.from_numpy(image), channels_first=False), image.transpose(2, 0, 1))
    last = {"do_find_cell": False, "do_resize": False, "do_rescale": False, "do_normalize": False}
    seen = WBCImageProcessor(**last)(image, input_data_format="channels_last")["pixel_values"][0]
    assert np.array_equal(seen, image.transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["frames.gif", "frames.tif", "frames.webp", "frames.png"])
def test_of_several_pages_the_first_is_read_and_their_number_told(drawn, tmp_path, name):
    first = drawn.quantize(32).convert("RGB") if name.endswith("gif") else drawn
    others = [Image.new("RGB", drawn.size, color) for color in ("red", "green", "blue")]
    options = {"lossless": True} if name.endswith("webp") else {}
    path = tmp_path / name
    first.save(path, save_all=True, append_images=others, **options)
    processor = WBCImageProcessor()
    for source in (path, path.read_bytes()):
        image = processor.fetch_images(source)
        assert np.array_equal(image, first)
        assert image.info["pages"] == 4
        assert processor.fetch_images(image).info["pages"] == 4
    with Image.open(path) as opened:
        opened.seek(2)  # the page that the user has chosen
        image = processor.fetch_images(opened)
        assert image.getpixel((5, 5)) == pytest.approx((0, 128, 0), abs=1)
        assert image.info["pages"] == 4


def test_a_field_carries_the_number_of_pages(drawn, tmp_path):
    drawn.save(tmp_path / "pages.tif", save_all=True, append_images=[drawn] * 4)
    drawn.save(tmp_path / "single.png")
    fields = tiny_model(num_labels=3).analyze(
        [tmp_path / "pages.tif", tmp_path / "single.png", np.asarray(drawn)], WBCImageProcessor(size=32)
    )
    assert [field.pages for field in fields] == [5, 1, 1]


def test_a_single_page_has_no_number(drawn, tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("pages", "twelve")
    drawn.save(tmp_path / "text.png", pnginfo=text)
    # Phones add gain maps and previews to a JPEG as further frames.
    drawn.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[drawn.resize((20, 15))])
    with Image.open(tmp_path / "phone.jpg") as opened:
        assert opened.n_frames == 2
    for name in ("text.png", "phone.jpg"):
        assert "pages" not in read_image(tmp_path / name).info


def test_pages_that_are_no_channels_stay_pages(drawn, tmp_path):
    grey = drawn.convert("L")
    for others in ([grey.resize((40, 30))] * 2, [drawn] * 2, [grey] * 3):
        grey.save(tmp_path / "pages.tif", save_all=True, append_images=others)
        image = read_image(tmp_path / "pages.tif")
        assert np.array_equal(image, grey.convert("RGB"))
        assert image.info["pages"] == 1 + len(others)


def test_a_stack_for_tifffile_says_its_pages_too(drawn, tmp_path):
    stack = np.stack([np.float32(drawn) / 255, np.zeros((60, 80, 3), np.float32)])
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="rgb")
    image = read_image(tmp_path / "stack.tif")
    assert np.array_equal(image, drawn)
    assert image.info["pages"] == 2


def heic(path):
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))


def raw_photograph(path):
    """As cameras write NEF and DNG: a small preview is the first page."""
    with tifffile.TiffWriter(path) as file:
        file.write(np.zeros((12, 16, 3), np.uint8), photometric="rgb", subfiletype=1)
        file.write(np.zeros((120, 160), np.uint16))


@pytest.mark.parametrize(
    "missing, write, reason",
    [
        ("pillow_heif", heic, "it is HEIC: install pillow-heif, or save it as JPEG or PNG"),
        (
            "tifffile",
            lambda path: tifffile.imwrite(path, np.zeros((9, 8, 3), np.float32), photometric="rgb"),
            "its layout needs tifffile: install it, or save the image as PNG",
        ),
        (
            "tifffile",
            lambda path: tifffile.imwrite(path, np.zeros((3, 9, 8), np.uint16), **SEPARATE),
            "its layout needs tifffile: install it, or save the image as PNG",
        ),
        ("none", raw_photograph, "its first page is a preview.* export it as TIFF, PNG or JPEG"),
        (
            "none",
            lambda path: tifffile.imwrite(path, np.full((9, 8), np.nan, np.float32)),
            "must have integers .* got float32",
        ),
        ("none", lambda path: tifffile.imwrite(path, np.full((9, 8), -5, np.int16)), "from -5 to -5"),
        ("none", lambda path: path.mkdir(), "directory"),
        ("none", lambda path: None, "there is no such file"),
        ("none", lambda path: path.write_bytes(b"\xff\x0a JPEG XL"), "no image of the formats .*; save it as PNG"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_remedy(monkeypatch, tmp_path, missing, write, reason):
    path = tmp_path / "image"
    write(path)
    monkeypatch.setitem(sys.modules, missing, None)
    for source in (path, str(path), {"bytes": None, "path": str(path)}):
        with pytest.raises(ImageReadError, match=rf"cannot read the image .*/image: .*{reason}"):
            read_image(source)


def test_heic_is_read_upright_by_pillow_heif(drawn, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = drawn.transpose(Image.Transpose.ROTATE_90)
    heif = pillow_heif.from_pillow(turned)
    heif.save(tmp_path / "phone.heic", quality=95, exif=exif.tobytes())
    difference = np.abs(np.asarray(read_image(tmp_path / "phone.heic"), dtype=int) - np.asarray(drawn))
    assert difference.mean() < 3


def test_no_file_reaches_a_program_that_pillow_would_start(monkeypatch, tmp_path):
    """Neither by a path nor encoded in memory: PostScript would run in Ghostscript."""
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "drawing.png").write_bytes(content)
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    encoded = "data:image/png;base64," + base64.b64encode(content).decode()
    for source in (tmp_path / "drawing.png", content, io.BytesIO(content), encoded):
        with pytest.raises(ImageReadError, match="no image of the formats"):
            read_image(source)


def test_a_bomb_is_refused_whichever_library_would_read_it(monkeypatch, drawn, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    drawn.save(tmp_path / "bomb.png")
    tifffile.imwrite(tmp_path / "bomb.tif", np.zeros((60, 80, 3), np.float32), photometric="rgb")
    for name in ("bomb.png", "bomb.tif"):
        with pytest.raises(ImageReadError, match=f"{name}: .*decompression bomb.*cut out a part"):
            read_image(tmp_path / name)


def test_addresses_are_read_as_files_are(drawn, tmp_path):
    """Transformers' own reader of addresses clips 16 bits to white."""
    path = tmp_path / "deep.png"
    Image.fromarray(scaled(drawn.convert("L"), 16)).save(path)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/deep.png" else 404)
            self.end_headers()
            self.wfile.write(path.read_bytes())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        encoded = base64.b64encode(path.read_bytes()).decode()
        for source in (f"{address}/deep.png", encoded, f"data:image/png;base64,{encoded}"):
            assert np.array_equal(read_image(source), drawn.convert("L").convert("RGB"))
        with pytest.raises(ImageReadError, match=rf"{address}/none.png: .*404"):
            read_image(f"{address}/none.png")
    finally:
        server.shutdown()


def test_a_source_that_is_none_says_what_is_expected(tmp_path):
    with pytest.raises(ImageReadError, match=r"it must be a path, .*got .*int"):
        read_image(3)
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with open(tmp_path / "a.txt", encoding="utf-8") as file, pytest.raises(ImageReadError, match="binary mode"):
        read_image(file)


def test_optional_packages_are_not_asked_for_when_the_model_is_loaded():
    assert not {"tifffile", "pillow_heif"} & set(get_imports(reading_wbc.__file__))
