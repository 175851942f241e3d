"""The heads for stages and attributes: losses, gradients, loading, and the answers for cells."""

import dataclasses
import json
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from hub.data.synthetic import draw_field
from modeling_wbc import Cell, Field, WBCConfig, WBCForImageClassification, WBCImageProcessor, WBCModel
from modeling_wbc.heads_wbc import LabelLoss
from tests.modeling.builders import images, tiny_config, tiny_model

STAGES = {"neutrophil": ["band", "segmented"], "monocyte": ["promonocyte", "mature", "activated"]}
ATTRIBUTES = {"cell_size": ["big", "small"], "granule_type": ["coarse", "nil", "round"]}
STAGE_IDS = torch.tensor([1, -100, 4, 0])
ATTRIBUTE_IDS = torch.tensor([[0, -100], [1, 2], [-100, -100], [1, 0]])
LABELS = torch.tensor([3, 0, 2, 3])


def model_of_all_heads(**kwargs):
    return tiny_model(stages=STAGES, attributes=ATTRIBUTES, **kwargs)


@pytest.fixture
def model():
    return model_of_all_heads(stage_loss_weight=0.5, attribute_loss_weight=2.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_of_torchs_cross_entropy_over_labels(smoothing):
    torch.manual_seed(0)
    logits = torch.randn(4, 5, requires_grad=True)
    value = LabelLoss([2, 3])(logits, ATTRIBUTE_IDS, smoothing)
    expected = sum(
        F.cross_entropy(part, ids, label_smoothing=smoothing)
        for part, ids in zip(logits.split([2, 3], 1), ATTRIBUTE_IDS.T, strict=True)
    )
    assert value.item() == pytest.approx(expected.item() / 2)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (value, expected / 2)))


def test_the_gradient_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    value = LabelLoss([2, 3])(logits, torch.tensor([[0, 2]]))
    value.backward()
    assert value.item() == pytest.approx((torch.tensor(2.0).log() + torch.tensor(3.0).log()).item() / 2)
    # (softmax - target) / 2 labels.
    assert logits.grad[0].tolist() == pytest.approx([-1 / 4, 1 / 4, 1 / 6, 1 / 6, -1 / 3])


@pytest.mark.parametrize("ids", [None, torch.full((4, 2), -100)])
def test_no_label_adds_exactly_nothing(ids):
    logits = torch.full((4, 5), 1e4).requires_grad_()
    value = LabelLoss([2, 3])(logits, ids)
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(
    "ids", [torch.tensor([[0, 3]]), torch.tensor([[-1, 0]]), torch.tensor([0]), torch.tensor([[0.0, 1.0]])]
)
def test_ids_that_do_not_fit_are_refused(ids):
    with pytest.raises(ValueError, match=r"ids must be .* got"):
        LabelLoss([2, 3])(torch.zeros(1, 5), ids)


def test_the_losses_of_the_heads_are_added_with_their_weights(model):
    output = model.train()(images(), labels=LABELS, stage_ids=STAGE_IDS, attribute_ids=ATTRIBUTE_IDS)
    assert output.stage_logits.shape == (4, 5)
    assert {name: logits.shape for name, logits in output.attribute_logits.items()} == {
        "cell_size": (4, 2),
        "granule_type": (4, 3),
    }
    attribute_losses = [
        F.cross_entropy(logits, ids)
        for logits, ids in zip(output.attribute_logits.values(), ATTRIBUTE_IDS.T, strict=True)
    ]
    expected = (
        F.cross_entropy(output.logits, LABELS)
        + model.config.center_loss_weight * output.center_loss
        + 0.5 * F.cross_entropy(output.stage_logits, STAGE_IDS)
        + 2.0 * torch.stack(attribute_losses).mean()
    )
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    heads_alone = model(images(), stage_ids=STAGE_IDS, attribute_ids=ATTRIBUTE_IDS)
    assert heads_alone.loss.item() == pytest.approx(
        0.5 * heads_alone.stage_loss.item() + 2.0 * heads_alone.attribute_loss.item()
    )


@pytest.mark.parametrize("unknown", [{}, {"stage_ids": torch.full((4,), -100)}])
def test_a_batch_without_labels_of_the_heads_has_the_loss_of_a_model_without_them(model, unknown):
    """And reaches every parameter, as DistributedDataParallel needs."""
    plain = WBCForImageClassification(tiny_config())
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "_head." not in name})
    output = model.train()(images(), labels=LABELS, **unknown)
    assert output.loss.item() == plain.train()(images(), labels=LABELS).loss.item()
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_ids_for_a_head_that_the_model_lacks_are_refused():
    with pytest.raises(ValueError, match=r"stage_ids were given to a model without stages: .*config\.stages"):
        tiny_model()(images(), labels=LABELS, stage_ids=STAGE_IDS)


def test_old_weights_load_without_the_heads_and_new_heads_start_at_random(tmp_path):
    old = tiny_model()
    old.save_pretrained(tmp_path)
    plain = WBCForImageClassification.from_pretrained(tmp_path)
    assert plain.state_dict().keys() == old.state_dict().keys()
    assert plain(images()).stage_logits is plain(images()).attribute_logits is None

    new, info = WBCForImageClassification.from_pretrained(
        tmp_path, stages=STAGES, attributes=ATTRIBUTES, output_loading_info=True
    )
    heads = {f"{head}_head.{name}" for head in ("stage", "attribute") for name in ("weight", "bias")}
    assert info["missing_keys"] == heads
    assert new.stage_head.weight.std() > 0
    torch.testing.assert_close(new(images()).logits, old(images()).logits)
    assert new.config.stages == STAGES
    assert new(images()).attribute_logits["granule_type"].shape == (4, 3)
    loss = new(images(), attribute_ids=ATTRIBUTE_IDS).attribute_loss
    assert loss.item() == pytest.approx(
        sum(
            F.cross_entropy(logits, ids).item()
            for logits, ids in zip(new(images()).attribute_logits.values(), ATTRIBUTE_IDS.T, strict=True)
        )
        / 2
    )


def test_new_heads_are_warned_of(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("modeling_wbc.modeling_wbc.logger.warning", warnings.append)
    tiny_model(stages=STAGES).save_pretrained(tmp_path)
    WBCForImageClassification.from_pretrained(tmp_path)
    assert not warnings
    WBCForImageClassification.from_pretrained(tmp_path, attributes=ATTRIBUTES)
    (warning,) = warnings
    assert "attribute_head starts at random, so train it" in warning


def test_heads_are_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (config["stages"], config["attributes"]) == (STAGES, ATTRIBUTES)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=True)
    expected, output = model(images()), loaded(images())
    torch.testing.assert_close(output.stage_logits, expected.stage_logits)
    torch.testing.assert_close(output.attribute_logits, expected.attribute_logits)
    WBCModel.from_pretrained(tmp_path)
    off = WBCForImageClassification.from_pretrained(tmp_path, stage_loss_weight=0)
    assert off.stage_head is off(images()).stage_logits is None
    torch.testing.assert_close(off(images()).attribute_logits, expected.attribute_logits)


@pytest.mark.parametrize(
    "names",
    [
        {"stages": {"neutrophil": []}},
        {"stages": {"neutrophil": ["band", "band"]}},
        {"stages": {"neutrophil": ["young"], "monocyte": ["young"]}},
        {"attributes": {"cell_size": ["big", "big"]}},
        {"stage_loss_weight": -1.0},
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(names):
    with pytest.raises(ValueError, match=next(iter(names))):
        tiny_config(**names)


def test_the_stock_trainer_gets_the_types_alone(model, tmp_path):
    """And needs no stages or attributes in a batch for its loss and metrics."""
    rows = [{"pixel_values": x, "labels": int(y)} for x, y in zip(images(), LABELS, strict=True)]
    args = TrainingArguments(tmp_path, report_to="none", use_cpu=True, disable_tqdm=True)
    output = Trainer(model, args, eval_dataset=rows).predict(rows)
    assert output.predictions.shape == (4, 4)
    assert output.label_ids.tolist() == LABELS.tolist()
    assert output.metrics["test_loss"] == pytest.approx(model(images(), labels=LABELS).loss.item(), rel=1e-4)


@pytest.fixture(scope="module")
def analysed():
    model = model_of_all_heads(image_size=32, max_novelty=1e6)
    model.image_processor = WBCImageProcessor(size=32)
    fields = [draw_field(label, seed) for seed in range(3) for label in ("eosinophil", "monocyte", "neutrophil")]
    return model, fields, model.analyze(fields)


def test_a_cell_has_a_stage_of_its_type_and_a_value_of_every_attribute(analysed):
    model, pictures, fields = analysed
    seen = set()
    for picture, field in zip(pictures, fields, strict=True):
        cells = model.image_processor.preprocess_cells(picture)
        with torch.no_grad():
            output = model(cells["pixel_values"])
        for number, cell in enumerate(field.cells):
            seen.add(cell.label)
            assert set(cell.stage_probabilities) == set(STAGES.get(cell.label, ()))
            if cell.label in STAGES:
                columns = slice(0, 2) if cell.label == "neutrophil" else slice(2, 5)
                expected = output.stage_logits[number, columns].softmax(-1)
                assert list(cell.stage_probabilities.values()) == pytest.approx(expected.tolist(), rel=1e-3)
                assert cell.stage == STAGES[cell.label][expected.argmax()]
            else:
                assert cell.stage is None
            for name, values in ATTRIBUTES.items():
                expected = output.attribute_logits[name][number].softmax(-1)
                assert list(cell.attribute_probabilities[name]) == values
                assert list(cell.attribute_probabilities[name].values()) == pytest.approx(expected.tolist(), rel=1e-3)
                assert cell.attributes[name] == values[expected.argmax()]
    assert seen & STAGES.keys()
    assert seen - STAGES.keys()
    assert json.loads(json.dumps(dataclasses.asdict(fields[0])))["cells"][0]["attributes"].keys() == ATTRIBUTES.keys()


def test_stages_are_counted_within_their_type():
    def cell(label, stage, known=True):
        box = (0.0, 0.0, 1.0, 1.0)
        return Cell(box, box, 1.0, label, {label: 1.0}, 0.0, 0.0, known, [[0.0]], stage=stage)

    cells = [cell("neutrophil", "band"), cell("neutrophil", "segmented"), cell("neutrophil", "segmented")]
    cells += [cell("eosinophil", None), cell("neutrophil", "band", known=False)]
    field = Field(cells, ("eosinophil", "monocyte", "neutrophil"), stages=STAGES)
    assert field.stage_counts == {
        "neutrophil": {"band": 1, "segmented": 2},
        "monocyte": {"promonocyte": 0, "mature": 0, "activated": 0},
    }
    assert Field(cells, ("eosinophil", "monocyte", "neutrophil")).stage_counts == {}


def test_a_type_that_the_model_lacks_has_no_stages(analysed):
    model, pictures, _ = analysed
    renamed = model_of_all_heads(image_size=32, id2label=dict(enumerate(("a", "b", "c", "neutrophil"))))
    renamed.image_processor = model.image_processor
    assert renamed.analyze(pictures[0]).stages == {"neutrophil": STAGES["neutrophil"]}


def head_and_batch():
    torch.manual_seed(0)
    inputs, ids = torch.randn(8, 3), torch.full((8, 2), -100)
    ids[0], ids[1, 0], ids[7, 1] = torch.tensor([1, 2]), 0, 1  # three of four labels on the first process
    return nn.Linear(3, 5), inputs, ids


def gradients_on_a_rank(rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(minutes=5)
    )
    try:
        head, inputs, ids = head_and_batch()
        parallel, rows = DistributedDataParallel(head), slice(4 * rank, 4 * rank + 4)
        loss = LabelLoss([2, 3])(parallel(inputs[rows]), ids[rows])
        loss.backward()
        torch.save((loss.detach(), head.weight.grad), f"{folder}/rank{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def gradients_on_the_second_rank(_, folder):
    torch.set_num_threads(1)
    gradients_on_a_rank(1, folder)


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes_have_the_gradient_of_the_joined_batch(tmp_path):
    other = mp.spawn(gradients_on_the_second_rank, args=(str(tmp_path),), nprocs=1, join=False)
    gradients_on_a_rank(0, str(tmp_path))
    while not other.join():
        pass
    head, inputs, ids = head_and_batch()
    joined = LabelLoss([2, 3])(head(inputs), ids)
    joined.backward()
    losses = []
    for rank in range(2):
        loss, gradient = torch.load(tmp_path / f"rank{rank}.pt")
        torch.testing.assert_close(gradient, head.weight.grad)
        losses.append(loss.item())
    assert sum(losses) / 2 == pytest.approx(joined.item())


@pytest.mark.parametrize("names", [{"neutrophil": "band"}, {"neutrophil": []}, ["band"]])
def test_stages_that_are_no_lists_of_names_are_refused(names):
    with pytest.raises(ValueError, match="stages must be a dict of lists"):
        WBCConfig(stages=names)
