"""What the page's script gets of each answer: pictures of the cells, the scale of the image, its stain."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from space.bench import page_field
from space.pictures import ATLAS_COLUMNS, TILE, atlas, background_color, data_url
from space.scale import micrometres_per_pixel


def test_a_field_for_the_page_is_small_and_says_what_the_answer_says(classifier, known):
    path, answer = known
    ((answer, preview),) = classifier.answers([(path.name, str(path))], 4096)
    field = page_field(answer, preview, path, data_url)
    (cell,) = field["cells"]
    assert (field["file"], field["width"], field["height"]) == (path.name, answer["width"], answer["height"])
    assert cell["label"] == answer["label"]
    assert cell["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-4)
    assert cell["box"] == pytest.approx(answer["cells"][0]["box"], abs=0.1)
    highest = np.array(answer["cells"][0]["activation_map"])
    assert np.array(cell["map"]) == pytest.approx(np.maximum(0, 100 * highest / highest.max()), abs=0.5)
    picture = Image.open(io.BytesIO(base64.b64decode(field["preview"].partition(",")[2])))
    assert picture.size == preview.size


def test_tiles_show_each_crop_in_its_place_and_the_background_beyond_the_image():
    image = Image.new("RGB", (200, 100), (230, 220, 210))
    image.paste((200, 0, 0), (0, 0, 50, 50))
    image.paste((0, 0, 200), (100, 50, 150, 100))
    crops = [[100, 50, 150, 100]] * ATLAS_COLUMNS + [[-50, -50, 50, 50]]
    tiles = atlas(image.resize((100, 50), Image.Resampling.NEAREST), crops, 200)
    assert tiles.size == (ATLAS_COLUMNS * TILE, 2 * TILE)
    assert tiles.getpixel((TILE // 2, TILE // 2)) == (0, 0, 200)
    assert tiles.getpixel((3 * TILE // 4, TILE + 3 * TILE // 4)) == (200, 0, 0)
    assert tiles.getpixel((TILE // 4, TILE + TILE // 4)) == background_color(image) == (230, 220, 210)
    assert atlas(image, [], 200) is None


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({282: 100_000.0, 296: 3}, 0.1),  # pixels per centimetre
        ({282: 254_000.0, 296: 2}, 0.1),  # pixels per inch
        ({282: 72.0, 296: 2}, None),  # what programs write that know no scale
        ({282: 8.0, 296: 1, 270: "ImageJ=1.54\nunit=micron\n"}, 0.125),
        ({270: '<OME><Pixels PhysicalSizeX="0.22" PhysicalSizeXUnit="\u00b5m"/></OME>'}, 0.22),
        ({270: '<OME><Pixels PhysicalSizeX="220" PhysicalSizeXUnit="nm"/></OME>'}, 0.22),
        ({}, None),
    ],
)
def test_reads_the_scale_that_an_image_states(tmp_path, tags, expected):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value.encode() if isinstance(value, str) else value
        if isinstance(value, str):
            info.tagtype[tag] = 2
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif", tiffinfo=info)
    scale = pytest.approx(expected) if expected else None
    assert micrometres_per_pixel(tmp_path / "a.tif") == scale
    content = io.BytesIO((tmp_path / "a.tif").read_bytes())
    content.seek(3)
    assert micrometres_per_pixel(content) == scale
    assert content.tell() == 3


def test_no_scale_of_what_is_no_image(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"no image")
    assert micrometres_per_pixel(tmp_path / "a.tif") is None
