"""`model.adapt`: statistics against hooks, heads against normal equations, what is kept and what is refused."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from modeling_wbc import InstanceBatchNorm2d, WBCForImageClassification, WBCImageProcessor
from modeling_wbc.adapt_wbc import MAX_CROPS, MAX_GROWTH, PRIOR_CROPS
from modeling_wbc.few_shot_wbc import RIDGES, STEPS, fit_head, shrink_centers
from tests.modeling.builders import images, tiny_model
from tests.modeling.scenes import ROUND, TWO, scene


def crops(number=24, seed=0):
    """Crops of another brightness and contrast than those that a tiny model is made for."""
    return 0.4 * images(number, seed=seed) + 1.5


def measured(model, pixel_values):
    """By norm the mean and variance of its input over all crops and pixels, by hooks."""
    found, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):

            def hook(_module, inputs, name=name):
                found[name] = inputs[0].float().var((0, 2, 3), correction=0), inputs[0].float().mean((0, 2, 3))

            handles.append(module.register_forward_pre_hook(hook))
    with torch.no_grad():
        model.eval()(pixel_values.to(model.dtype))
    for handle in handles:
        handle.remove()
    return found


def batch_norms(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


# Norms


@pytest.mark.parametrize("layout", ["bn", "ibn", "ibn-b", "ign"])
def test_the_statistics_are_those_of_what_the_norms_see_shrunk_towards_the_old_ones(layout):
    model = tiny_model(norm_layout=layout, hidden_sizes=[8, 16], depths=[2, 1])
    adapted = model.adapt(crops(), move_norms=True)
    assert adapted.config.adaptation["norms_moved"]
    share = 24 / (24 + PRIOR_CROPS)
    seen, old = measured(adapted, crops()), batch_norms(model)
    assert len(seen) == len(old) >= 5
    for name, norm in batch_norms(adapted).items():
        first = norm.num_features // 2 if isinstance(norm, InstanceBatchNorm2d) else 0
        for running, before, lab in (
            (norm.running_var, old[name].running_var, seen[name][0]),
            (norm.running_mean, old[name].running_mean, seen[name][1]),
        ):
            expected = share * lab + (1 - share) * before
            torch.testing.assert_close(running[first:], expected[first:], rtol=1e-4, atol=1e-5)
            assert torch.equal(running[:first], before[:first])
            assert (running - before)[first:].abs().max() > 0.05
        assert norm.num_batches_tracked == old[name].num_batches_tracked


def test_many_crops_are_seen_in_batches_and_give_nearly_the_same():
    """Of 150 crops in three batches, whose norms see what earlier norms made of their own batch."""
    model = tiny_model()
    adapted = model.adapt(crops(150), move_norms=True)
    share = 150 / (150 + PRIOR_CROPS)
    seen = measured(adapted, crops(150))
    for name, norm in batch_norms(adapted).items():
        old = batch_norms(model)[name]
        first = norm.num_features // 2 if isinstance(norm, InstanceBatchNorm2d) else 0
        expected = share * seen[name][1] + (1 - share) * old.running_mean
        difference = (norm.running_mean - expected)[first:].abs() / norm.running_var[first:].sqrt()
        assert difference.max() < 0.05
    again = model.adapt(crops(150), move_norms=True)
    for name, value in again.state_dict().items():
        assert torch.equal(value, adapted.state_dict()[name]), name


def test_of_very_many_crops_a_sample_is_drawn():
    model = tiny_model()
    adapted = model.adapt(crops(MAX_CROPS + 50))
    assert adapted.config.adaptation["crops"] == MAX_CROPS


def test_norms_move_where_the_shift_is_beyond_the_threshold_and_types_are_mixed():
    model = tiny_model().adapt(images(100, seed=3), move_norms=True)  # at home in these
    model.config.adaptation = None
    near = model.adapt(images(24), move_norms=False).config.adaptation["shift"]
    far = model.adapt(crops(), move_norms=False).config.adaptation["shift"]
    assert 0 <= near < far / 2
    model.config.max_shift = far / 2
    kept = model.adapt(images(24))
    assert not kept.config.adaptation["norms_moved"]
    for name, value in model.state_dict().items():
        assert torch.equal(kept.state_dict()[name], value), name
    moved = model.adapt(crops()).config.adaptation
    shares = model(crops()).logits.softmax(-1).mean(0)
    assert moved["variety"] == pytest.approx((shares**-shares).prod().item(), rel=1e-4)
    assert moved["variety"] > 2
    assert moved["norms_moved"]
    model.classifier[1].bias.data[2] += 1000  # all are of one type
    alike = model.adapt(crops()).config.adaptation
    assert alike["shift"] == pytest.approx(far)
    assert alike["variety"] == pytest.approx(1)
    assert not alike["norms_moved"]


def test_the_shift_is_the_divergence_of_gaussians():
    model = tiny_model(norm_layout="bn")
    found = model.adapt(crops(24), move_norms=False).config.adaptation["shift"]
    *_, last = batch_norms(model)
    norm, inputs = batch_norms(model)[last], []
    norm.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    model(crops(24))
    means = inputs[0].mean((2, 3))
    var = inputs[0].var((0, 2, 3), correction=0)
    noise = means.var(0, correction=0) / 24
    gap = ((means.mean(0) - norm.running_mean) ** 2 - noise).clamp(min=0)
    old, new = (
        torch.distributions.Normal(mean, (values + norm.eps).sqrt())
        for mean, values in ((torch.zeros_like(gap), norm.running_var), (gap.sqrt(), var))
    )
    divergence = (torch.distributions.kl_divergence(old, new) + torch.distributions.kl_divergence(new, old)) / 2
    # Of the six norms of a tiny model, the last one counts.
    assert found == pytest.approx(divergence.median().item(), rel=1e-3)


def test_the_original_and_the_modes_of_its_modules_stay_as_they_are():
    model = tiny_model()
    model.config.max_novelty = 1.0
    model.train()
    model.resnet.embedder.eval()
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    adapted = model.adapt(crops(), [0, 1, 2, 3] * 6, move_norms=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.config.to_dict() == config
    modes = [(name, module.training) for name, module in model.named_modules()]
    assert modes == [(name, module.training) for name, module in adapted.named_modules()]
    assert not any(module._forward_pre_hooks for module in adapted.modules())


def test_weights_of_half_precision_are_measured_in_single():
    model = tiny_model()
    expected = model.adapt(crops(), move_norms=True)
    adapted = copy.deepcopy(model).half().adapt(crops(), move_norms=True)
    for name, norm in batch_norms(adapted).items():
        assert norm.running_var.dtype == torch.float16
        for entry in ("running_mean", "running_var"):
            reference = getattr(batch_norms(expected)[name], entry)
            torch.testing.assert_close(getattr(norm, entry).float(), reference, rtol=0.01, atol=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives():
    model = tiny_model()
    labels = [0, 1, 2, 3] * 6
    expected = model.adapt(crops(), labels, move_norms=True)
    adapted = copy.deepcopy(model).cuda().adapt(crops(), labels, move_norms=True)
    for name, value in adapted.state_dict().items():
        torch.testing.assert_close(value.cpu(), expected.state_dict()[name], rtol=1e-3, atol=1e-3)


# Head, centres and threshold


def test_the_head_is_ridge_regression_of_the_residuals_and_leaves_each_cell_out():
    """By normal equations in the primal, once for all cells and once without each of them."""
    rng = np.random.default_rng(0)
    labels = np.arange(18) % 3
    embeddings = rng.normal(size=(18, 5)) + 0.8 * np.eye(5)[labels]
    weight, bias, temperature = rng.normal(size=(4, 5)), rng.normal(size=4), 0.5
    logits = (embeddings @ weight.T + bias) / temperature
    residuals = np.eye(4)[labels] - np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scale = np.sqrt((embeddings**2).sum(1).mean())
    design = np.concatenate([embeddings / scale, np.ones((18, 1))], axis=1)

    def regression(cells, ridge):
        part = design[cells]
        return np.linalg.solve(part.T @ part + ridge * np.eye(6), part.T @ residuals[cells])

    candidates = []
    for ridge in RIDGES:
        left_out = np.stack([design[cell] @ regression(np.arange(18) != cell, ridge) for cell in range(18)])
        for step in STEPS:
            values = logits + step * left_out
            loss = (np.log(np.exp(values).sum(1)) - values[np.arange(18), labels]).mean()
            candidates.append((loss, ridge, step, int((values.argmax(1) == labels).sum())))
    _, ridge, step, right = min(candidates)
    change = temperature * step * regression(np.arange(18), ridge).T

    tensors = [torch.from_numpy(array) for array in (weight, bias, embeddings, labels)]
    new_weight, new_bias, before, after = fit_head(*tensors, temperature)
    np.testing.assert_allclose(new_weight.numpy(), weight + change[:, :5] / scale, rtol=1e-7)
    np.testing.assert_allclose(new_bias.numpy(), bias + change[:, 5], rtol=1e-7)
    assert (before, after) == (int((logits.argmax(1) == labels).sum()), right)
    assert after > before


def test_centres_are_shrunk_towards_the_old_ones():
    embeddings = torch.tensor([[4.0, 0.0], [8.0, 0.0], [0.0, 6.0]])
    centers = shrink_centers(torch.ones(3, 2), embeddings, torch.tensor([0, 0, 2]))
    # Each old centre counts as one cell.
    expected = [[(4 + 8 + 1) / 3, 1 / 3], [1, 1], [1 / 2, 7 / 2]]
    torch.testing.assert_close(centers, torch.tensor(expected, dtype=torch.float64))


def test_labels_that_the_model_misreads_move_the_head():
    model = tiny_model()
    model.config.temperature = 0.5
    # By brightness, which the network sees and the head does not name.
    labels = torch.arange(40) % 2 + 1
    pixel_values = crops(40) + (labels == 2).float()[:, None, None, None]
    answers = model(pixel_values).logits.argmax(1)
    adapted = model.adapt(pixel_values, labels, move_norms=False)
    record = adapted.config.adaptation
    assert record["labels"] == {"lymphocyte": 20, "monocyte": 20}
    before, after = (record["right_of_labelled"][when] for when in ("before", "after"))
    assert before == int((answers == labels).sum()) <= 20
    assert after >= 38
    assert record["head_moved"]
    head, result = model.classifier[1], adapted(pixel_values)
    weight, bias, *_ = fit_head(head.weight, head.bias, result.embeddings, labels, 0.5)
    logits = (result.embeddings.double() @ weight.T + bias) / 0.5
    torch.testing.assert_close(result.logits.double(), logits, rtol=1e-4, atol=1e-4)
    assert (result.logits.argmax(1) == labels).sum() >= after


@torch.no_grad()
def test_labels_that_the_model_knows_or_of_one_type_leave_the_head():
    model = tiny_model()
    head, embeddings = model.classifier[1], model(crops()).embeddings
    head.bias.copy_(-head.weight @ embeddings.mean(0))  # so that answers differ
    answers = model(crops()).logits.argmax(1)
    assert len(answers.unique()) > 1
    adapted = model.adapt(crops(), answers, move_norms=False)
    assert adapted.config.adaptation["right_of_labelled"]["before"] == 24
    one = model.adapt(crops(), [3] * 24, move_norms=False)
    assert one.config.adaptation["right_of_labelled"] is None
    for copied in (adapted, one):
        assert not copied.config.adaptation["head_moved"]
        for value, old in zip(copied.classifier.parameters(), head.parameters(), strict=True):
            assert torch.equal(value, old)
        assert not torch.equal(copied.center_loss.centers, model.center_loss.centers)


def novel_model():
    """A model whose threshold keeps half of the crops."""
    model = tiny_model()
    model.novelty.whitening.normal_(0, 0.1)
    model.config.max_novelty = float(model(crops(50)).novelty.median())
    return model


def test_the_ood_threshold_grows_to_know_the_crops_and_never_shrinks():
    model = novel_model()
    old, novelty = model.config.max_novelty, model(crops(50)).novelty
    adapted = model.adapt(crops(50), move_norms=False).config
    assert old < adapted.max_novelty <= MAX_GROWTH * old
    known = (novelty <= adapted.max_novelty).double().mean().item()
    # In another order of the batch, the last digit of the crop at the threshold may differ.
    assert known == pytest.approx(adapted.adaptation["known"]["after"], abs=0.021)
    assert adapted.adaptation["known"]["after"] >= 0.98
    assert adapted.adaptation["known"]["before"] == pytest.approx(0.5, abs=0.03)
    assert adapted.adaptation["max_novelty"] == {"before": old, "after": adapted.max_novelty}
    model.config.max_novelty = 100.0
    assert model.adapt(crops(50), move_norms=False).config.max_novelty == 100.0
    model.config.max_novelty = None
    assert model.adapt(crops(50)).config.max_novelty is None


def test_garbage_does_not_make_itself_known():
    model = novel_model()
    model.config.max_novelty = float(model(crops(50)).novelty.max())
    garbage = 40 * images(50, seed=9)
    adapted = model.adapt(garbage, move_norms=False)
    assert adapted.config.max_novelty == pytest.approx(MAX_GROWTH * model.config.max_novelty)
    assert (adapted(garbage).novelty > adapted.config.max_novelty).all()
    assert adapted.config.adaptation["known"] == {"before": 0, "after": 0}


# Images, files and bad input


def test_an_adapted_copy_is_saved_and_loaded(tmp_path):
    model = novel_model()
    model.image_processor = WBCImageProcessor(size=32)
    adapted = model.adapt(crops(), ["monocyte", "NEUTROPHIL", 0, None] * 6, move_norms=True)
    adapted.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["adaptation"]
    assert record == adapted.config.adaptation
    assert record["labels"] == {"eosinophil": 6, "monocyte": 6, "neutrophil": 6}
    loaded = WBCForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.adaptation == record
    assert loaded.config.max_novelty == adapted.config.max_novelty
    result, expected = loaded(crops()), adapted(crops())
    assert torch.equal(result.logits, expected.logits)
    assert torch.equal(result.distance, expected.distance)
    with pytest.raises(ValueError, match="adapt the original"):
        loaded.adapt(crops())


def test_takes_what_analyze_takes_and_labels_the_foremost_cell(tmp_path):
    model = novel_model()
    processor = model.image_processor = WBCImageProcessor(size=32)
    one, two = scene([(120, 90, 24, ROUND)])[0], scene(TWO)[0]
    blank = np.full((60, 80, 3), 250, np.uint8)
    two.save(tmp_path / "two.png")
    adapted = model.adapt((image for image in (one, tmp_path / "two.png", blank)), ["monocyte", 1, None])
    record = adapted.config.adaptation
    assert (record["crops"], record["without_cell"]) == (3, 1)
    assert record["labels"] == {"lymphocyte": 1, "monocyte": 1}
    first, others = (processor.preprocess_cells(image)["pixel_values"] for image in (one, two))
    expected = model.adapt(torch.cat([first, others]), [2, 1, None])
    torch.testing.assert_close(adapted(others).logits, expected(others).logits, rtol=1e-4, atol=1e-5)
    assert model.adapt(one, "monocyte").config.adaptation["labels"] == {"monocyte": 1}
    assert model.adapt(np.asarray(one)).config.adaptation["crops"] == 1


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([], None, "there is no image"),
        (np.full((60, 80, 3), 250, np.uint8), None, "no white cell was found in 1 images"),
        (crops(3), ["blast", None, None], "one of eosinophil, lymphocyte, monocyte, neutrophil, .* got 'blast'"),
        (crops(3), [0, 1, 4], "got 4"),
        (crops(3), [0, 1, -1], "got -1"),
        (crops(3), [0, 1, 1.0], "got 1.0"),
        (crops(3), [0, 1], "one entry for each image"),
        (crops(3), [0, 1, 2, 3], "one entry for each image"),
        ("no such file.png", None, "cannot read the image no such file.png"),
    ],
)
def test_bad_input_is_refused_by_name(images, labels, message):
    model = tiny_model()
    model.image_processor = WBCImageProcessor(size=32)
    with pytest.raises(ValueError, match=message):
        model.adapt(images, labels)
