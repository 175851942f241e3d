"""HardMinedCenterLoss against equations 8-11 of Ma et al. 2020 as plain loops."""

import numpy as np
import pytest
import torch

from modeling_wbc import HardMinedCenterLoss


def squared_distance(f, c):
    return sum((float(a) - float(b)) ** 2 for a, b in zip(f, c, strict=True))


def brute_force(features, labels, centers, margin, alpha, mining):
    """Loss, gradient, moved centres, share of active pairs, and the mined (anchor, negative) pairs: plain loops."""
    features, centers = (np.asarray(values, dtype=np.float64) for values in (features, centers))
    labels = [int(label) for label in labels]
    pairs = hardest_pairs(features, labels, centers, mining)

    loss, active, grad = 0.0, 0, np.zeros_like(features)
    for i, j in pairs:
        center = centers[labels[i]]
        hinge = squared_distance(features[i], center) + margin - squared_distance(features[j], center)
        if hinge > 0:
            loss += hinge / len(pairs)
            active += 1
            grad[i] += (features[i] - center) / len(pairs)
            grad[j] += (center - features[j]) / len(pairs)

    moved = centers.copy()
    for k in set(labels):
        members = [features[i] for i in range(len(labels)) if labels[i] == k]
        moved[k] = centers[k] + alpha * sum(f - centers[k] for f in members) / len(members)
    return loss, grad, moved, active / max(len(pairs), 1), pairs


def hardest_pairs(features, labels, centers, mining):
    """The mined (anchor, negative) pairs, equations 8 and 9: plain loops."""

    def farthest(candidates):
        best = None
        for i in candidates:
            distance = squared_distance(features[i], centers[labels[i]])
            if best is None or distance > best[0]:
                best = (distance, i)
        return best[1]

    anchors = []
    if mining == "batch":
        anchors.append(farthest(range(len(labels))))
    else:
        for k in sorted(set(labels)):
            anchors.append(farthest([i for i in range(len(labels)) if labels[i] == k]))

    pairs = []
    for i in anchors:
        center = centers[labels[i]]
        nearest = None
        for j in range(len(labels)):
            if labels[j] == labels[i]:
                continue
            distance = squared_distance(features[j], center)
            if nearest is None or distance < nearest[0]:
                nearest = (distance, j)
        if nearest is not None:
            pairs.append((i, nearest[1]))
    return pairs


def module(centers, **kwargs):
    centers = torch.as_tensor(centers)
    loss_fn = HardMinedCenterLoss(*centers.shape, **kwargs).to(centers.dtype)
    loss_fn.centers.copy_(centers)
    return loss_fn


def random_batch(seed, integers=False):
    """Features, labels and centres; with integers, many distances are equal."""
    rng = np.random.default_rng(seed)
    num_labels, size, n = int(rng.integers(2, 6)), int(rng.integers(1, 6)), int(rng.integers(1, 40))
    labels = rng.integers(0, num_labels, n)
    if integers:
        return rng.integers(-1, 2, (n, size)).astype(float), labels, rng.integers(-1, 2, (num_labels, size)) * 1.0
    centers = rng.normal(size=(num_labels, size)) * 2
    return centers[labels] + rng.normal(size=(n, size)) * rng.choice([0.3, 1, 3]), labels, centers


def check(features, labels, centers, margin, alpha, mining):
    """Compares a training step with the loops; returns what the loops say."""
    expected = brute_force(features, labels, centers, margin, alpha, mining)
    loss_fn = module(centers, margin=margin, alpha=alpha, mining=mining).train()
    leaf = torch.tensor(features, requires_grad=True)
    loss = loss_fn(leaf, torch.tensor(labels))
    loss.backward()
    tolerance = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(loss.item(), expected[0], **tolerance)
    torch.testing.assert_close(leaf.grad.numpy(), expected[1], **tolerance)
    torch.testing.assert_close(loss_fn.centers.numpy(), expected[2], **tolerance)
    torch.testing.assert_close(loss_fn.active_fraction.item(), expected[3], **tolerance)
    return expected


@pytest.mark.parametrize("mining", ["batch", "class"])
@pytest.mark.parametrize("integers", [False, True], ids=["random", "ties"])
def test_equals_the_equations(mining, integers):
    losses = []
    for seed in range(60):
        batch = random_batch(seed, integers)
        expected = check(*batch, margin=(0.0, 1.0, 7.5)[seed % 3], alpha=(0.5, 0.0, 1.0, 0.1)[seed % 4], mining=mining)
        losses.append(expected[0])
    assert min(losses) == 0 < max(losses)  # both sides of the hinge were met


@pytest.mark.parametrize("classes", [5, 1])
def test_without_mining_every_sample_is_drawn_to_its_centre(classes):
    rng = np.random.default_rng(classes)
    features, labels, centers = rng.normal(size=(30, 6)), rng.integers(0, classes, 30), rng.normal(size=(5, 6))
    loss_fn = module(centers, margin=7.0, alpha=0.3, mining="none").train()
    leaf = torch.tensor(features, requires_grad=True)
    loss = loss_fn(leaf, torch.tensor(labels))
    loss.backward()
    residuals = features - centers[labels]
    assert loss.item() == pytest.approx((residuals**2).sum() / 30)
    np.testing.assert_allclose(leaf.grad, residuals / 30)
    for index in range(5):
        moved = 0.3 * residuals[labels == index].mean(0) if (labels == index).any() else 0
        np.testing.assert_allclose(loss_fn.centers[index], centers[index] + moved)
    assert loss_fn.active_fraction == 1


def test_minings_differ():
    features, labels, centers = random_batch(3)
    values = [
        module(centers, mining=mining)(torch.tensor(features), torch.tensor(labels)) for mining in ("batch", "class")
    ]
    assert abs(values[0] - values[1]) > 1e-3


def test_a_large_batch_with_ties_takes_the_first_sample():
    """Sizes at which reductions are vectorised: every sample twice, the second half a copy of the first."""
    rng = np.random.default_rng(0)
    half, labels = rng.integers(-2, 3, (256, 8)).astype(float), rng.integers(0, 4, 256)
    features, labels = np.concatenate([half, half]), np.concatenate([labels, labels])
    for mining in ("batch", "class"):
        *_, pairs = check(features, labels, rng.integers(-1, 2, (4, 8)) * 1.0, 200.0, 0.5, mining)
        assert all(i < 256 and j < 256 for i, j in pairs)


def test_a_tie_by_hand():
    """Samples 0 and 1 are as far from their centre, 2 and 3 as near to it: 0 and 2 are taken."""
    features = torch.tensor([[3.0, 0], [0, 3], [1, 0], [0, 1]], requires_grad=True)
    loss = module(torch.tensor([[0.0, 0], [1, 1]]), margin=1.0)(features, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == 9 + 1 - 1
    assert features.grad.tolist() == [[3, 0], [0, 0], [-1, 0], [0, 0]]


@pytest.mark.parametrize("mining", ["batch", "class"])
def test_gradient_is_the_difference_without_the_factor_two(mining):
    features = torch.tensor([[5.0, 1], [2, 2]], requires_grad=True)
    centers = torch.tensor(
        [[1.0, 1], [2, 2]]
    )  # the second sample lies on its own centre: only the first pair is active
    loss = module(centers, margin=0.0, mining=mining)(features, torch.tensor([0, 1]))
    loss.backward()
    share = 1.0 if mining == "batch" else 0.5
    assert loss.item() == share * (16 - 2)
    assert features.grad.tolist() == [[share * 4, 0], [share * -1, share * -1]]


@pytest.mark.parametrize("mining", ["batch", "class"])
def test_one_class_has_no_pair_and_moves_its_centre(mining):
    features = torch.tensor([[1.0, 2], [3, 4], [8, 0]], requires_grad=True)
    loss_fn = module(torch.tensor([[9.0, 9], [0, 0], [7, 7]]), alpha=0.5, mining=mining)
    loss = loss_fn(features, torch.tensor([1, 1, 1]))
    loss.backward()
    assert loss.item() == 0
    assert features.grad.tolist() == [[0, 0]] * 3
    assert loss_fn.active_fraction.item() == 0
    torch.testing.assert_close(loss_fn.centers, torch.tensor([[9.0, 9], [2, 1], [7, 7]]))


@pytest.mark.parametrize("mining", ["batch", "class"])
def test_a_margin_that_holds_gives_no_gradient(mining):
    centers = torch.tensor([[0.0, 0], [10, 10]])
    labels = torch.tensor([0, 1, 0])
    features = (centers[labels] + 0.1).requires_grad_()
    loss_fn = module(centers, margin=5.0, mining=mining)
    loss = loss_fn(features, labels)
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()
    assert loss_fn.active_fraction.item() == 0


def test_two_samples_carry_the_gradient_of_the_batch():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        features = torch.tensor(rng.normal(size=(16, 3)), requires_grad=True)
        labels = torch.tensor([*range(4)] * 4)
        module(torch.zeros(4, 3, dtype=torch.float64), margin=1.0)(features, labels).backward()
        assert features.grad.any(dim=1).sum().item() == 2


def test_active_fraction_counts_pairs():
    """Class 0 violates its margin, class 1 keeps it; class 2 is absent."""
    centers = torch.tensor([[0.0], [10], [20]])
    loss_fn = module(centers, margin=1.0, mining="class")
    loss_fn(torch.tensor([[11.0], [10]]), torch.tensor([0, 1]))
    assert loss_fn.active_fraction.item() == pytest.approx(0.5)
    loss_fn = module(centers, margin=1.0, mining="batch")
    loss_fn(torch.tensor([[11.0], [10]]), torch.tensor([0, 1]))
    assert loss_fn.active_fraction.item() == 1


def test_the_loss_sees_the_centres_before_they_move():
    features, labels, centers = random_batch(5)
    loss_fn = module(centers, margin=3.0)
    leaf = torch.tensor(features, requires_grad=True)
    for _ in range(3):  # a row of steps, the gradient taken after the centres have moved
        expected = brute_force(features, labels, loss_fn.centers.numpy(), 3.0, 0.5, "batch")
        loss = loss_fn(leaf, torch.tensor(labels))
        (grad,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(loss.item(), expected[0])
        torch.testing.assert_close(grad.numpy(), expected[1])


def test_eval_takes_the_same_loss_and_leaves_the_centres():
    for mining in ("batch", "class"):
        features, labels, centers = random_batch(5)
        loss_fn = module(centers, margin=3.0, mining=mining).eval()
        loss = loss_fn(torch.tensor(features), torch.tensor(labels))
        assert loss.item() == pytest.approx(brute_force(features, labels, centers, 3.0, 0.5, mining)[0])
        assert torch.equal(loss_fn.centers, torch.tensor(centers))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mining", ["batch", "class"])
def test_low_precision_features_are_computed_in_float32(dtype, mining):
    """Distances of these features overflow float16 and differ by less than a bfloat16 digit."""
    rng = np.random.default_rng(0)
    features = torch.tensor(300 + rng.normal(size=(12, 16))).to(dtype).requires_grad_()
    labels = torch.tensor([0, 1, 2] * 4)
    centers = torch.tensor(rng.normal(size=(3, 16)), dtype=torch.float32)
    loss_fn = module(centers, margin=1e4, mining=mining)
    loss = loss_fn(features, labels)
    loss.backward()
    expected = brute_force(features.detach().float(), labels, centers, 1e4, 0.5, mining)
    assert loss.dtype == loss_fn.centers.dtype == torch.float32
    assert features.grad.dtype == dtype
    assert loss.item() == pytest.approx(expected[0], rel=1e-4)
    torch.testing.assert_close(features.grad.float().numpy(), expected[1].astype("float32"), rtol=2**-8, atol=1e-3)
    torch.testing.assert_close(loss_fn.centers.numpy(), expected[2].astype("float32"), rtol=1e-6, atol=1e-5)


def test_autocast_changes_nothing():
    features, labels, centers = random_batch(8)
    results = []
    for enabled in (False, True):
        loss_fn = module(torch.tensor(centers, dtype=torch.float32), margin=3.0, mining="class")
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = loss_fn(torch.tensor(features, dtype=torch.float32), torch.tensor(labels))
        results.append((loss, loss_fn.centers))
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (4, 6), (4,), (4, 5, 1), (0, 5)], ids=str)
def test_refuses_features_of_a_wrong_shape(shape):
    loss_fn = HardMinedCenterLoss(3, 5)
    with pytest.raises(ValueError) as error:
        loss_fn(torch.randn(shape), torch.zeros(shape[0], dtype=torch.long))
    assert "features" in str(error.value)
    assert "(N, 5)" in str(error.value)
    assert str(tuple(shape)) in str(error.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 1, -1, 2]), ["[0, 2]", "-1"]),
        (torch.tensor([0, 1, 3, 2]), ["[0, 2]", "3"]),
        (torch.tensor([0.0, 1, 1, 2]), ["integers", "float32"]),
        (torch.tensor([0, 1, 2]), ["(4,)", "(3,)"]),
        (torch.tensor([[0], [1], [2], [1]]), ["(4,)", "(4, 1)"]),
    ],
    ids=["negative", "too-large", "float", "too-few", "2d"],
)
def test_refuses_labels_that_do_not_fit(labels, words):
    loss_fn = HardMinedCenterLoss(3, 5)
    with pytest.raises(ValueError) as error:
        loss_fn(torch.randn(4, 5), labels)
    for word in ["labels", *words]:
        assert word in str(error.value)
    assert not loss_fn.centers.any()


@pytest.mark.parametrize(
    ("name", "value"),
    [("margin", -0.5), ("alpha", -0.1), ("alpha", 1.5), ("mining", "hard"), ("mining", None)],
)
def test_refuses_a_wrong_argument(name, value):
    with pytest.raises(ValueError) as error:
        HardMinedCenterLoss(3, 5, **{name: value})
    assert name in str(error.value)
    assert str(value) in str(error.value)


def test_centres_are_saved_and_the_active_fraction_is_not():
    loss_fn = HardMinedCenterLoss(3, 5)
    loss_fn(torch.randn(6, 5), torch.tensor([0, 1, 2] * 2))
    assert [*loss_fn.state_dict()] == ["centers"]
    assert loss_fn.centers.shape == (3, 5)
    assert [*loss_fn.parameters()] == []
    other = HardMinedCenterLoss(3, 5)
    assert not other.centers.any()  # zeros at the start
    other.load_state_dict(loss_fn.state_dict(), strict=True)
    assert loss_fn.centers.any()
    assert torch.equal(other.centers, loss_fn.centers)
