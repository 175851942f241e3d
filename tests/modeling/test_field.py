"""WBCForImageClassification.analyze and its results: cells, counts and the picture of them."""

import dataclasses
import json
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from hub.data.synthetic import draw_field
from modeling_wbc import Cell, Field, WBCConfig, WBCForImageClassification, WBCImageProcessor, fonts_wbc
from modeling_wbc.fonts_wbc import has_letters, legible
from tests.made_font import make_font
from tests.modeling.builders import assert_same_cells

EIGHT = ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = WBCConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], image_size=48)
    model = WBCForImageClassification(config).eval()
    model.center_loss.centers.normal_()
    model.novelty.whitening.normal_()
    with torch.no_grad():
        model.classifier[1].weight.mul_(30)  # so that not every cell gets a quarter of each type
    model.image_processor = WBCImageProcessor(size=48)
    return model


@pytest.fixture(scope="module")
def mosaic():
    """A field of six cells."""
    image = Image.new("RGB", (960, 480))
    labels = ("eosinophil", "lymphocyte", "monocyte", "neutrophil", "lymphocyte", "neutrophil")
    for k, label in enumerate(labels):
        image.paste(draw_field(label, k + 30), (k % 3 * 320, k // 3 * 240))
    return image


def test_each_cell_is_classified_by_its_crop(model, mosaic):
    field = model.analyze(mosaic)
    processor = WBCImageProcessor(size=48)
    cells = processor.preprocess_cells(mosaic)
    assert len(field.cells) == len(cells["boxes"]) == 6
    with torch.no_grad():
        output = model(cells["pixel_values"])
    probabilities = output.logits.softmax(1)
    distances = torch.cdist(output.embeddings, model.center_loss.centers).amin(1)
    for k, cell in enumerate(field.cells):
        assert cell.box == pytest.approx(cells["boxes"][k].tolist())
        assert cell.score == pytest.approx(float(cells["scores"][k]))
        assert list(cell.probabilities) == list(model.config.id2label.values())
        assert list(cell.probabilities.values()) == pytest.approx(probabilities[k].tolist(), abs=1e-5)
        assert cell.label == model.config.id2label[int(probabilities[k].argmax())]
        assert cell.distance == pytest.approx(float(distances[k]), rel=1e-4)
        assert cell.novelty == pytest.approx(float(output.novelty[k]), rel=1e-4)
        assert cell.known
    assert sum(field.counts.values()) == 6
    assert sum(field.differential.values()) == pytest.approx(1)
    assert json.loads(json.dumps(dataclasses.asdict(field)))["cells"][0]["label"] == field.cells[0].label


def test_each_cell_has_its_crop_box_and_the_activation_map_of_its_type(model, mosaic):
    processor = WBCImageProcessor(size=48)
    cells = processor.preprocess_cells(mosaic)
    maps = model.class_activation_maps(cells["pixel_values"])
    for k, cell in enumerate(model.analyze(mosaic).cells):
        assert cell.crop_box == pytest.approx(processor.crop_boxes(cells["boxes"])[k].tolist())
        expected = maps[k, model.config.label2id[cell.label]]
        torch.testing.assert_close(torch.tensor(cell.activation_map), expected.detach(), rtol=1e-3, atol=1e-4)


def test_images_of_an_iterator_are_taken_one_at_a_time(model, mosaic):
    alive = []

    def images():
        for _ in range(3):
            assert sum(reference() is not None for reference in alive) == 0
            image = mosaic.copy()
            alive.append(weakref.ref(image))
            yield image
            del image

    fields = model.analyze(images(), batch_size=100)
    boxes = [[cell.box for cell in field.cells] for field in fields]
    assert boxes == [[cell.box for cell in model.analyze(mosaic).cells]] * 3


def test_images_come_in_any_form_and_number_and_the_batch_does_not_matter(model, mosaic, tmp_path):
    mosaic.save(tmp_path / "field.png")
    blank = Image.new("RGB", (64, 64), "white")
    forms = [mosaic, tmp_path / "field.png", str(tmp_path / "field.png"), np.array(mosaic), blank, mosaic]
    forms.insert(2, torch.from_numpy(np.array(mosaic)).permute(2, 0, 1))
    expected = model.analyze(mosaic)
    for batch_size in (1, 4, 32):
        fields = model.analyze(forms, batch_size=batch_size)
        assert [len(field.cells) for field in fields] == [6, 6, 6, 6, 6, 0, 6]
        for field in fields:
            for cell, same in zip(field.cells, expected.cells, strict=bool(field.cells)):
                assert (cell.box, cell.label) == (same.box, same.label)
                assert cell.distance == pytest.approx(same.distance, rel=1e-3)
    assert model.analyze([]) == []
    assert fields[5] == Field([], tuple(model.config.id2label.values()))
    assert set(fields[5].differential.values()) == {0}


def test_the_model_stays_as_it_was(model, mosaic):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    try:
        model.analyze(mosaic)
        assert model.training
        assert model.resnet.training
    finally:
        model.eval()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_works_in_bfloat16(model, mosaic):
    half = WBCForImageClassification(model.config).eval()
    half.load_state_dict(model.state_dict())
    half.image_processor = model.image_processor
    for cell, same in zip(half.bfloat16().analyze(mosaic).cells, model.analyze(mosaic).cells, strict=True):
        assert cell.probabilities[same.label] == pytest.approx(same.probabilities[same.label], abs=0.1)


def test_uses_the_image_processor_saved_with_the_weights(model, mosaic, tmp_path):
    unprocessed = WBCForImageClassification(model.config)
    unprocessed.load_state_dict(model.state_dict())
    unprocessed.save_pretrained(tmp_path / "whole")
    WBCImageProcessor(size=48, window_size=4.0).save_pretrained(tmp_path / "wide")
    unprocessed.save_pretrained(tmp_path / "wide")
    whole, wide = (WBCForImageClassification.from_pretrained(tmp_path / name) for name in ("whole", "wide"))
    (cell,) = whole.analyze(mosaic).cells
    assert cell.box == (0, 0, 960, 480)
    assert cell.score == 1
    expected = model.analyze(mosaic, image_processor=WBCImageProcessor(size=48, window_size=4.0))
    assert_same_cells(wide.analyze(mosaic), expected)
    assert expected != model.analyze(mosaic)


def test_a_photograph_is_analysed_upright_by_its_exif_orientation(model, tmp_path):
    image = draw_field("monocyte", 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be displayed turned by 90 degrees clockwise
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    field = model.analyze(tmp_path / "turned.jpg")
    assert field.cells[0].box == pytest.approx(model.analyze(upright).cells[0].box, abs=3)
    assert field.draw(Image.open(tmp_path / "turned.jpg")).size == upright.size


@pytest.mark.parametrize("content", [None, b"", b"no image", b"\xff\xd8\xff\xe0 cut off"])
def test_names_a_file_that_is_no_image(model, mosaic, tmp_path, content):
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read the image .*broken\.jpg"):
        model.analyze([mosaic, path])


def cells(*labels):
    sure = {label: {name: float(name == label) for name in EIGHT} for label in labels}
    box = (0, 0, 1, 1)
    return [Cell(box, box, 0.5, label, sure[label], 1.0, 1.0, known=True, activation_map=[[1.0]]) for label in labels]


def test_erythroblasts_and_platelets_are_not_in_the_differential_count():
    field = Field(cells("neutrophil", "platelet", "neutrophil", "erythroblast", "lymphocyte", "ig"), EIGHT)
    assert field.counts == dict.fromkeys(EIGHT, 0) | {
        "neutrophil": 2,
        "platelet": 1,
        "erythroblast": 1,
        "lymphocyte": 1,
        "ig": 1,
    }
    white = [label for label in EIGHT if label not in ("erythroblast", "platelet")]
    assert field.differential == dict.fromkeys(white, 0.0) | {"neutrophil": 0.5, "lymphocyte": 0.25, "ig": 0.25}
    assert set(Field(cells("platelet"), EIGHT).differential.values()) == {0}


def test_cells_beyond_the_ood_threshold_are_unknown(model, mosaic, tmp_path):
    novelties = sorted(cell.novelty for cell in model.analyze(mosaic).cells)
    model.save_pretrained(tmp_path)
    threshold = (novelties[3] + novelties[4]) / 2
    limited = WBCForImageClassification.from_pretrained(tmp_path, max_novelty=threshold)
    field = limited.analyze(mosaic, image_processor=WBCImageProcessor(size=48))
    assert [cell.known for cell in field.cells] == [cell.novelty <= threshold for cell in field.cells]
    assert (field.unknown, sum(field.counts.values())) == (2, 4)
    assert sum(field.differential.values()) == pytest.approx(1)
    assert model.analyze(mosaic).unknown == 0

    plain = np.asarray(Image.new("RGB", (320, 240), "white"))
    (cell,) = cells("neutrophil")
    pictures = []
    for known in (True, False):
        shown = dataclasses.replace(cell, box=(100, 80, 220, 200), known=known)
        drawn = np.asarray(Field([shown], EIGHT).draw(Image.fromarray(plain)))
        pictures.append({tuple(color) for color in np.unique(drawn[199, 102:218], axis=0).tolist()})
    assert len(pictures[0]) == len(pictures[1]) == 1
    assert pictures[0] != pictures[1]
    ((red, green, blue),) = pictures[1]
    assert red == green == blue  # grey, as no type is


def test_the_type_of_a_cell_of_an_unfamiliar_stain_is_drawn_in_grey():
    (cell,) = cells("neutrophil")
    shown = dataclasses.replace(cell, box=(100, 80, 220, 200), known=False)
    white = Image.new("RGB", (320, 240), "white")
    known, unknown, guess = (
        np.asarray(Field([dataclasses.replace(shown, **changed)], EIGHT).draw(white))
        for changed in ({"known": True}, {"remark": "no smear"}, {"remark": "unfamiliar stain"})
    )
    assert np.array_equal(guess[199, 102:218], unknown[199, 102:218])

    def width(picture):
        return (picture[65:78] != 255).any(-1).any(0).sum()

    assert width(guess) > width(known) > width(unknown)  # "neutrophil? 100%", "neutrophil 100%", "unknown"


def test_draws_boxes_and_labels_into_a_copy():
    image = Image.new("RGBA", (640, 480), (228, 224, 216, 255))
    before = image.tobytes()
    field = Field(cells("neutrophil", "lymphocyte", "monocyte"), EIGHT)
    boxes = [(200, 150, 400, 330), (500, 0, 640, 100), (0, 380, 90, 480)]
    field.cells = [dataclasses.replace(cell, box=box) for cell, box in zip(field.cells, boxes, strict=True)]
    drawn = field.draw(image)
    assert image.tobytes() == before
    assert (drawn.size, drawn.mode) == ((640, 480), "RGB")
    pixels = np.asarray(drawn)
    changed = (pixels != (228, 224, 216)).any(-1)
    colors = set()
    for left, top, right, bottom in boxes:
        # The lower edges of the boxes, where no label lies.
        edge = pixels[bottom - 1, left + 30 : right - 1]
        assert (edge == edge[0]).all()
        assert changed[bottom - 1, left + 30]
        colors.add(tuple(edge[0].tolist()))
        assert not changed[top + 60 : bottom - 10, left + 10 : right - 10].any()
    assert len(colors) == 3
    # Labels are bands above the boxes, or in them at the image's upper side, in their colours, with text on them.
    for (left, *_), rows in zip(boxes, ((125, 145), (3, 20), (356, 375)), strict=True):
        band = pixels[slice(*rows), max(0, min(left, 640 - 140)) + 8 : max(0, min(left, 640 - 140)) + 110]
        assert len(np.unique(band.reshape(-1, 3), axis=0)) > 5
        assert tuple(np.median(band.reshape(-1, 3), axis=0).astype(int).tolist()) in colors
    # Small images too, with a box larger than they are.
    tiny = Field([dataclasses.replace(field.cells[0], box=(0, 0, 20, 20))], EIGHT)
    assert tiny.draw(Image.new("RGB", (20, 20))).size == (20, 20)


def test_draws_on_an_image_of_16_bits():
    grey = draw_field("monocyte", 2).convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert np.array_equal(Field([], EIGHT).draw(deep), grey.convert("RGB"))


def test_fields_and_cells_print_in_a_readable_line():
    field = Field(cells("neutrophil", "neutrophil", "monocyte"), EIGHT)
    field.cells[2] = dataclasses.replace(field.cells[2], known=False, remark="out of focus", focus=0.5)
    field.cells[0] = dataclasses.replace(field.cells[0], activation_map=[[0.123456] * 7] * 7, box=(1.4, 2, 3, 4.6))
    assert str(field) == repr(field) == "<Field: 3 cells: 2 neutrophil, 1 unknown>"
    assert repr(Field([], EIGHT)) == "<Field: 0 cells>"
    assert repr(field.cells[0]) == "<Cell: neutrophil 100%, box (1, 2, 3, 5), novelty 1.00>"
    first = "<Cell: unknown (out of focus), monocyte 100%, box (0, 0, 1, 1), novelty 1.00, focus 0.50>"
    assert str(field.cells[2]) == first
    assert "\n" not in repr([field, *field.cells])


def drawn_label(name, labels=None):
    """The picture of a cell's label and box on a white image."""
    labels = labels or (name, "other")
    cell = Cell(
        (60, 100, 600, 200),
        (0, 0, 1, 1),
        0.5,
        name,
        {label: float(label == name) for label in labels},
        1,
        1,
        True,
        [[1]],
    )
    return np.asarray(Field([cell], labels).draw(Image.new("RGB", (640, 240), "white")))


@pytest.mark.parametrize("name", ["нейтрофил", "ηωσινόφιλο", "العربية", "Zelle mit ß und Ø", "嗜酸性粒细胞", "ܐܒܓܕ"])
def test_a_class_name_in_any_script_is_no_row_of_boxes(name):
    text, font = legible(name, 24, "class 0")
    assert text in (name, "class 0")
    assert has_letters(font, text)
    if text == "class 0":
        # As if that were the name: "class 0" is drawn in its place.
        assert np.array_equal(drawn_label(name), drawn_label("class 0", ("class 0", "other")))


def test_a_font_of_the_list_is_taken_for_letters_that_pillows_own_lacks(tmp_path, monkeypatch):
    make_font(tmp_path / "made.ttf", "嗜酸性粒细胞")
    monkeypatch.setattr(fonts_wbc, "_FONTS", (str(tmp_path / "missing.ttf"), str(tmp_path / "made.ttf")))
    text, font = legible("嗜酸性粒细胞", 24, "class 0")
    assert (text, font.getname()[0]) == ("嗜酸性粒细胞", "Made")
    assert not has_letters(font, "中")
    assert legible("嗜中", 24, "class 0")[0] == "class 0"
    assert not np.array_equal(drawn_label("嗜酸性粒细胞"), drawn_label("class 0"))


def test_encoded_bytes_and_rows_are_one_image(model, tmp_path):
    draw_field("monocyte", 3).save(tmp_path / "cell.png")
    content = (tmp_path / "cell.png").read_bytes()
    expected = model.analyze(tmp_path / "cell.png")
    for image in (content, bytearray(content), {"bytes": content, "path": None}):
        assert model.analyze(image) == expected
