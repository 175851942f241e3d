"""Focus of crops, and cells that are unknown because they are out of focus."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFilter

from hub.data.synthetic import draw_field
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor
from modeling_wbc.field_wbc import remark_on
from modeling_wbc.focus_wbc import measure_focus
from tests.modeling.builders import tiny_model

PBC = Path(os.environ["WBC_PBC_DIR"]) if "WBC_PBC_DIR" in os.environ else None
LABELS = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")


def crops(images, size=128):
    processor = WBCImageProcessor(size=size)
    return torch.cat([processor.preprocess_cells(image)["pixel_values"][:1] for image in images])


@pytest.fixture(scope="module")
def fields():
    return [draw_field(label, seed) for label in LABELS for seed in range(3)]


def blurred(images, radius):
    return [image.filter(ImageFilter.GaussianBlur(radius)) for image in images]


def test_focus_falls_with_blur(fields):
    focus = torch.stack([measure_focus(crops(blurred(fields, radius))) for radius in (0, 1, 2, 4)])
    assert (focus.diff(dim=0) < 0).all()
    assert focus[0].min() > focus[3].max()
    assert focus.shape == (4, len(fields))
    assert focus.dtype == torch.float32


@pytest.mark.parametrize("scale", [0.5, 2])
def test_one_threshold_tells_blurred_from_sharp_cells_at_any_scale(fields, scale):
    """A blur is measured in units of the cell, not of the pixel."""

    def scaled(images):
        return [
            image.resize([round(scale * side) for side in image.size], Image.Resampling.BICUBIC) for image in images
        ]

    sharp, soft = (
        torch.cat([measure_focus(crops(f(fields))) for f in (list, scaled)]) for fields in (fields, blurred(fields, 3))
    )
    assert sharp.min() > soft.max()


def test_focus_depends_neither_on_contrast_nor_on_the_networks_input_size(fields):
    pixel_values = crops(fields[:4])
    focus = measure_focus(pixel_values)
    torch.testing.assert_close(measure_focus(0.2 * pixel_values - 3), focus, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(measure_focus(pixel_values.half()), focus, rtol=1e-2, atol=1e-2)
    larger = measure_focus(crops(fields[:4], size=224))
    torch.testing.assert_close(larger, focus, rtol=0.15, atol=0)
    assert measure_focus(pixel_values[:, :1]).shape == (4,)


def test_the_step_at_the_border_of_the_image_is_no_detail(fields):
    """A crop that reaches beyond the image is padded, and the padding's edge is sharp however the cell is."""
    pixel_values = crops(blurred(fields[:4], 4))
    padded = pixel_values.clone()
    padded[:, :, :, 80:] = 3.0
    padded[:, :, :30] = 3.0
    assert (measure_focus(padded) < 1.3 * measure_focus(pixel_values)).all()


def test_nothing_has_no_focus():
    assert measure_focus(torch.ones(2, 3, 128, 128)).tolist() == [0, 0]
    assert measure_focus(torch.zeros(0, 3, 64, 64)).shape == (0,)


def test_cells_out_of_focus_are_unknown(fields):
    model = tiny_model(image_size=128)
    processor = WBCImageProcessor(size=128)
    images = [fields[0], blurred(fields, 4)[0]]
    assert all(
        cell.known and cell.remark is None for field in model.analyze(images, processor) for cell in field.cells
    )
    sharp, soft = (field.cells[0] for field in model.analyze(images, processor))
    model.config.min_focus = (sharp.focus + soft.focus) / 2
    fields = model.analyze(images, processor)
    assert [field.cells[0].known for field in fields] == [True, False]
    assert [field.cells[0].remark for field in fields] == [None, "out of focus"]
    assert [field.unknown for field in fields] == [0, 1]
    assert sum(fields[1].counts.values()) == 0


def test_the_remark_names_each_reason():
    config = WBCConfig(max_novelty=1.5, min_focus=0.7)
    assert remark_on(1.0, 1.0, config) is None
    assert remark_on(1.6, 1.0, config) == "no smear"
    assert remark_on(1.0, 0.6, config) == "out of focus"
    assert remark_on(1.6, 0.6, config) == "out of focus or no smear"
    assert remark_on(9.0, 0.0, WBCConfig()) is None


def test_between_two_thresholds_of_novelty_the_stain_is_unfamiliar():
    config = WBCConfig(max_novelty=1.5, max_smear_novelty=2.0, min_focus=0.7)
    assert remark_on(1.5, 1.0, config) is None
    assert remark_on(1.6, 1.0, config) == "unfamiliar stain"
    assert remark_on(2.0, 1.0, config) == "unfamiliar stain"
    assert remark_on(2.1, 1.0, config) == "no smear"
    assert remark_on(1.6, 0.6, config) == "out of focus or unfamiliar stain"
    assert remark_on(2.1, 0.6, config) == "out of focus or no smear"
    assert remark_on(1.6, 1.0, WBCConfig(max_smear_novelty=2.0)) is None


def test_the_threshold_is_saved_and_checked(tmp_path):
    tiny_model(min_focus=0.7).save_pretrained(tmp_path)
    assert WBCForImageClassification.from_pretrained(tmp_path).config.min_focus == 0.7
    with pytest.raises(ValueError, match="min_focus must be above 0"):
        WBCConfig(min_focus=0)


@pytest.mark.skipif(PBC is None, reason="WBC_PBC_DIR names no folder of real images")
def test_the_published_model_is_not_sure_and_wrong_of_blurred_cells():
    model = WBCForImageClassification.from_pretrained(Path(__file__).parents[2] / "hub" / "checkpoint")
    known, sure_and_wrong, kept = 0, 0, 0
    for label in model.config.label2id:
        for path in sorted((PBC / label).iterdir())[5:400:100]:
            with Image.open(path) as image:
                sharp = image.convert("RGB")
            field, soft = model.analyze([sharp, sharp.filter(ImageFilter.GaussianBlur(3))])
            kept += field.cells[0].focus >= model.config.min_focus
            cells = [cell for cell in soft.cells[:1] if cell.known]
            known += len(cells)
            sure_and_wrong += sum(cell.label != label and cell.probabilities[cell.label] > 0.8 for cell in cells)
    assert kept == 32
    assert known <= 2
    assert sure_and_wrong == 0
