"""InstanceBatchNorm2d against torch's own instance norm and batch norm, on split channels."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modeling_wbc import InstanceBatchNorm2d, SyncInstanceBatchNorm2d


class SplitNorm(nn.Module):
    """The reference: instance norm and batch norm on the two halves of the channels, split and joined."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.half = num_features // 2
        self.instance = nn.InstanceNorm2d(self.half, eps=eps, affine=True) if self.half else None
        self.batch = nn.BatchNorm2d(num_features - self.half, eps=eps, momentum=momentum)

    def forward(self, x):
        parts = [self.batch(x[:, self.half :])]
        if self.half:
            parts.insert(0, self.instance(x[:, : self.half]))
        return torch.cat(parts, dim=1)

    def joined(self, entry, grad=False):
        tensors = [getattr(norm, entry) for norm in (self.instance, self.batch) if norm is not None]
        return torch.cat([tensor.grad if grad else tensor.detach() for tensor in tensors])


def pair(num_features, seed=0, **kwargs):
    """An InstanceBatchNorm2d with random weights and running statistics, and the reference with the same."""
    generator = torch.Generator().manual_seed(seed)
    norm, reference = InstanceBatchNorm2d(num_features, **kwargs), SplitNorm(num_features, **kwargs)
    half = num_features // 2
    with torch.no_grad():
        norm.weight.uniform_(-1.5, 1.5, generator=generator)
        norm.bias.normal_(generator=generator)
        norm.running_mean.normal_(generator=generator)
        norm.running_var.uniform_(0.2, 3, generator=generator)
        for entry in ("weight", "bias"):
            if half:
                getattr(reference.instance, entry).copy_(getattr(norm, entry)[:half])
            getattr(reference.batch, entry).copy_(getattr(norm, entry)[half:])
        for entry in ("running_mean", "running_var"):
            getattr(reference.batch, entry).copy_(getattr(norm, entry)[half:])
    return norm, reference


def feature_map(*shape, seed=0, dtype=torch.float32):
    """Samples and channels that differ in mean and deviation."""
    generator = torch.Generator().manual_seed(seed)
    n, c = shape[:2]
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x * (0.3 + torch.rand(n, c, 1, 1, generator=generator)) + 2 * torch.randn(n, c, 1, 1, generator=generator)
    return x.to(dtype)


def step(norm, x, seed=1):
    """Output and gradient of the input of one forward and backward pass; parameters collect theirs."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    norm.zero_grad()
    output = norm(x)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    output.backward(weights.to(output))
    return output.detach(), x.grad


def assert_same_state(norm, reference, **tolerance):
    half = reference.half
    torch.testing.assert_close(norm.running_mean[half:], reference.batch.running_mean, **tolerance)
    torch.testing.assert_close(norm.running_var[half:], reference.batch.running_var, **tolerance)
    assert norm.num_batches_tracked.item() == reference.batch.num_batches_tracked.item()


SHAPES = [(3, 8, 5, 6), (4, 7, 3, 4), (2, 1, 4, 4), (1, 6, 5, 3), (1, 1, 2, 1), (5, 2, 1, 2), (2, 33, 9, 7)]
# Maps that go through batch norm's kernels on a CPU.
SHAPES += [(3, 7, 15, 14), (1, 4, 28, 7)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_instance_norm_and_batch_norm(shape, training, memory_format):
    """Outputs, gradients and running statistics over several steps."""
    norm, reference = (module.train(training) for module in pair(shape[1]))
    before = copy.deepcopy(norm.state_dict())
    for seed in range(4):
        x = feature_map(*shape, seed=seed).to(memory_format=memory_format)
        output, grad = step(norm, x)
        expected, expected_grad = step(reference, x)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=5e-5)
        for entry in ("weight", "bias"):
            torch.testing.assert_close(
                getattr(norm, entry).grad, reference.joined(entry, grad=True), rtol=1e-4, atol=1e-4
            )
        assert output.is_contiguous(memory_format=memory_format)
        assert grad.is_contiguous(memory_format=memory_format)
    assert_same_state(norm, reference, rtol=1e-5, atol=1e-6)
    if training:
        assert norm.num_batches_tracked.item() == 4
    else:
        for key, value in norm.state_dict().items():
            assert torch.equal(value, before[key]), f"{key} changed in eval mode"


def test_keeps_the_running_statistics_of_all_channels_as_batch_norm_does():
    norm, _ = pair(6)
    plain = nn.BatchNorm2d(6)
    plain.load_state_dict(norm.state_dict())
    for seed in range(3):
        x = feature_map(4, 6, 5, 5, seed=seed)
        norm(x)
        plain(x)
    torch.testing.assert_close(norm.running_mean, plain.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var, plain.running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_takes_eps_and_momentum(training):
    norm, reference = (module.train(training) for module in pair(6, eps=0.1, momentum=0.37))
    for seed in range(2):
        x = feature_map(3, 6, 4, 4, seed=seed)
        for result, expected in zip(step(norm, x), step(reference, x), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=2e-5)
    assert_same_state(norm, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_bfloat16_autocast_after_a_convolution(training):
    norm, reference = (module.train(training) for module in pair(9))
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 9, 3)
    images = torch.randn(4, 3, 12, 12)

    def run(norm):
        conv.zero_grad()
        norm.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = norm(conv(images))
        weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        (output.float() * weights).sum().backward()
        return output, conv.weight.grad.clone()

    (output, grad), (expected, expected_grad) = run(norm), run(reference)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected.float(), rtol=2e-2, atol=2e-2)
    assert (grad - expected_grad).norm() < 2e-2 * expected_grad.norm()
    for entry in ("weight", "bias"):
        ours, theirs = getattr(norm, entry).grad, reference.joined(entry, grad=True)
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 1e-2 * theirs.norm()
    assert_same_state(norm, reference, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("offset", [0, 30], ids=["centred", "offset"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_bfloat16_input_has_float32_statistics(training, offset):
    """Against float32 on the same values: one bfloat16 rounding (2^-8 of the value), of the result."""
    norm, reference = (module.train(training) for module in pair(8))
    x = (feature_map(3, 8, 40, 41) + offset).bfloat16()
    output, grad = step(norm, x)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).bfloat16()
    leaf = x.float().requires_grad_()
    expected = reference(leaf)
    (expected_grad,) = torch.autograd.grad(expected, leaf, weights.float())
    assert output.dtype == grad.dtype == torch.bfloat16
    atol = 2e-4 if offset else 2e-5
    torch.testing.assert_close(output.float(), expected.detach(), rtol=2**-8, atol=atol)
    if training:
        torch.testing.assert_close(grad.float(), expected_grad, rtol=2**-8, atol=atol)
    else:  # plain autograd, which rounds each of the terms it adds
        assert (grad.float() - expected_grad).norm() < 2**-7 * expected_grad.norm()
    assert_same_state(norm, reference, rtol=1e-5, atol=1e-5)


def test_large_offset_against_float64():
    """E[x^2] - E[x]^2 in float32 would be off by about a tenth here."""
    norm, reference = pair(6)
    reference.double()
    x = feature_map(4, 6, 16, 16) * 0 + 1000 + torch.randn(4, 6, 16, 16, generator=torch.Generator().manual_seed(3))
    output, grad = step(norm, x)
    expected, expected_grad = step(reference, x.double())
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=0, atol=1e-3)
    torch.testing.assert_close(norm.weight.grad.double(), reference.joined("weight", grad=True), rtol=1e-3, atol=2e-2)
    torch.testing.assert_close(norm.running_var[3:].double(), reference.batch.running_var, rtol=1e-4, atol=0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(3, 5, 3, 2), (1, 4, 2, 3), (2, 1, 2, 2), (2, 2, 14, 14)], ids=str)
def test_gradient_in_float64(shape, training):
    norm = pair(shape[1])[0].double().train(training)
    x = feature_map(*shape, dtype=torch.float64).requires_grad_()
    weight, bias = (getattr(norm, entry).detach().clone().requires_grad_() for entry in ("weight", "bias"))

    def run(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert run(x, weight, bias).dtype == torch.float64
    assert torch.autograd.gradcheck(run, (x, weight, bias), fast_mode=x.numel() > 100)


def test_compiles():
    """A training step with its gradients and running statistics, and eval."""
    torch.compiler.reset()
    norm, reference = pair(7)
    compiled = torch.compile(norm, backend="aot_eager", fullgraph=True)
    for seed in range(2):
        x = feature_map(3, 7, 5, 4, seed=seed)
        for result, expected in zip(step(compiled, x), step(reference, x), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=5e-5)
        for entry in ("weight", "bias"):
            torch.testing.assert_close(
                getattr(norm, entry).grad, reference.joined(entry, grad=True), rtol=1e-4, atol=1e-4
            )
    assert_same_state(norm, reference, rtol=1e-5, atol=1e-5)
    norm.eval(), reference.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), reference(x), rtol=1e-5, atol=2e-5)


def test_exports_with_a_dynamic_batch():
    torch.manual_seed(0)
    norm, reference = pair(6)
    conv = nn.Conv2d(3, 6, 3)
    model, expected = nn.Sequential(conv, norm, nn.ReLU()).eval(), nn.Sequential(conv, reference, nn.ReLU()).eval()
    program = torch.export.export(
        model, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},)
    )
    for batch_size in (2, 5):
        images = torch.randn(batch_size, 3, 8, 8)
        torch.testing.assert_close(program.module()(images), expected(images), rtol=1e-5, atol=2e-5)


def test_a_deep_copy_trains_alone():
    norm, reference = pair(6)
    step(norm, feature_map(3, 6, 4, 4))
    step(reference, feature_map(3, 6, 4, 4))
    before = copy.deepcopy(norm.state_dict())
    twin = copy.deepcopy(norm)
    x = feature_map(3, 6, 4, 4, seed=5)
    optimizer = torch.optim.SGD([*twin.parameters()], lr=0.1)
    expected_optimizer = torch.optim.SGD([*reference.parameters()], lr=0.1)
    step(twin, x), step(reference, x)
    optimizer.step(), expected_optimizer.step()
    torch.testing.assert_close(twin(x), reference(x), rtol=1e-4, atol=5e-5)
    assert_same_state(twin, reference, rtol=1e-5, atol=1e-5)
    for key, value in norm.state_dict().items():
        assert torch.equal(value, before[key]), f"training the copy changed {key}"


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_half_precision_weights(training):
    """Large values too: their squares overflow float16."""
    norm, reference = (module.train(training) for module in pair(6))
    norm.half()
    x = (feature_map(3, 6, 9, 9) * torch.tensor([1, 1, 200, 1, 1, 20]).view(6, 1, 1)).half()
    output, expected = norm(x), reference(x.float())
    assert output.dtype == torch.float16
    torch.testing.assert_close(output.float(), expected, rtol=5e-3, atol=5e-3)
    assert all(value.isfinite().all() for value in norm.state_dict().values())


def test_state_dict_is_that_of_batch_norm():
    norm, plain = InstanceBatchNorm2d(6), nn.BatchNorm2d(6)
    for seed in range(2):
        plain(feature_map(3, 6, 4, 4, seed=seed))
    nn.init.normal_(plain.weight)
    expected = plain.state_dict()
    assert {k: (v.shape, v.dtype) for k, v in norm.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in expected.items()
    }
    norm.load_state_dict(expected, strict=True)
    for key, value in norm.state_dict().items():
        assert torch.equal(value, expected[key]), key
    x = feature_map(3, 6, 4, 4, seed=7)
    torch.testing.assert_close(norm.eval()(x)[:, 3:], plain.eval()(x)[:, 3:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(norm(x)[:, :3], plain(x)[:, :3], atol=1e-2)
    assert isinstance(norm, nn.BatchNorm2d)  # so that code which looks for batch norms finds it


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((2, 5, 4, 4), "(2, 5, 4, 4)", "(N, 6, H, W)"),
        ((6, 4, 4), "(6, 4, 4)", "(N, 6, H, W)"),
        ((2, 6), "(2, 6)", "(N, 6, H, W)"),
        ((2, 6, 4, 4, 4), "(2, 6, 4, 4, 4)", "(N, 6, H, W)"),
        ((2, 6, 1, 1), "(2, 6, 1, 1)", "single pixel"),
    ],
    ids=["channels", "3d", "2d", "5d", "one-pixel"],
)
def test_refuses_a_wrong_shape(shape, given, expected, training):
    norm = InstanceBatchNorm2d(6).train(training)
    with pytest.raises(ValueError) as error:
        norm(torch.randn(shape))
    assert given in str(error.value)
    assert expected in str(error.value)
    assert norm.num_batches_tracked.item() == 0


class Recorder(TorchDispatchMode):
    """Notes every operator that splits or joins tensors as large as `numel`, or a half of it."""

    WORDS = (
        "cat",
        "stack",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "narrow",
        "slice",
        "select",
        "unsafe_split",
    )

    def __init__(self, numel):
        super().__init__()
        self.numel = numel
        self.found, self.seen = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.seen.add(name)
        sizes = [leaf.numel() for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if name in self.WORDS and max(sizes) >= self.numel // 2:
            self.found.append(name)
        return result


def test_a_training_step_neither_splits_nor_joins_the_feature_map():
    norm, reference = pair(6)
    x = feature_map(4, 6, 10, 10)
    with Recorder(x.numel()) as recorder:
        step(norm, x)
    assert recorder.found == []
    assert {"addcmul", "addcmul_"} <= recorder.seen  # forward and backward were watched
    with Recorder(x.numel()) as recorder:
        step(reference, x)
    assert {"cat", "slice"} <= set(recorder.found)


def test_a_training_step_keeps_one_feature_map_for_the_backward_pass():
    norm, _ = pair(6)
    x = feature_map(4, 6, 10, 10).requires_grad_()
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        norm(x)
    large = [tensor for tensor in kept if tensor.numel() >= x.numel()]
    assert len(large) == 1
    assert large[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_without_momentum_the_running_statistics_are_the_mean_over_all_batches(compiled):
    torch.compiler.reset()
    norm, reference = pair(6, momentum=None)
    norm.reset_running_stats(), reference.batch.reset_running_stats()
    run = torch.compile(norm, backend="aot_eager", fullgraph=True) if compiled else norm
    batches = [feature_map(2 + seed, 6, 5, 4, seed=seed) for seed in range(3)]
    for x in batches:
        torch.testing.assert_close(run(x), reference(x), rtol=1e-4, atol=5e-5)
    assert_same_state(norm, reference, rtol=1e-5, atol=1e-6)
    values = [x.transpose(0, 1).flatten(1) for x in batches]
    torch.testing.assert_close(norm.running_mean, sum(value.mean(1) for value in values) / 3, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var, sum(value.var(1) for value in values) / 3, rtol=1e-5, atol=1e-6)


def test_update_bn_gives_averaged_weights_the_statistics_of_the_data():
    """As after stochastic weight averaging, for which running statistics of the training mean nothing."""
    norm, reference = pair(6)
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, 3)
    averaged = torch.optim.swa_utils.AveragedModel(nn.Sequential(conv, norm)).eval()
    expected = torch.optim.swa_utils.AveragedModel(nn.Sequential(conv, reference)).eval()
    data = [feature_map(n, 3, 9, 9, seed=n) for n in (4, 2, 5)]
    for model in (averaged, expected):
        torch.optim.swa_utils.update_bn(data, model)
        assert not model.training
    assert_same_state(averaged.module[1], expected.module[1], rtol=1e-5, atol=1e-6)
    assert averaged.module[1].momentum == 0.1
    torch.testing.assert_close(averaged(data[0]), expected(data[0]), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_without_running_statistics_those_of_the_batch_are_taken(training):
    norm, reference = (torch.func.replace_all_batch_norm_modules_(module).train(training) for module in pair(6))
    assert norm.running_mean is reference.batch.running_mean is None
    x = feature_map(3, 6, 4, 5)
    for result, expected in zip(step(norm, x), step(reference, x), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=5e-5)


def test_running_statistics_that_are_not_tracked_stay():
    norm, _ = pair(6)
    norm.track_running_stats = False
    before = copy.deepcopy(norm.state_dict())
    norm(feature_map(3, 6, 4, 5))
    for key, value in norm.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_convert_sync_batchnorm_keeps_the_instance_half():
    """With the same parameters and buffers, wherever the norm stands; other norms are converted as before."""
    norm, reference = pair(6, eps=0.1, momentum=0.37)
    model = nn.Sequential(nn.Sequential(norm.eval()), nn.BatchNorm2d(6))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(converted[1]) is nn.SyncBatchNorm
    ((synchronized,), alone) = converted[0], nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    for module in (synchronized, alone, nn.SyncBatchNorm.convert_sync_batchnorm(alone)):
        assert type(module) is SyncInstanceBatchNorm2d
        assert not module.training
        assert (module.eps, module.momentum) == (0.1, 0.37)
        assert module.weight is norm.weight
        assert module.running_var is norm.running_var
        assert module.state_dict().keys() == norm.state_dict().keys()
    # On a single process it is the plain norm.
    x = feature_map(3, 6, 4, 5)
    for training in (False, True):
        for result, expected in zip(step(alone.train(training), x), step(reference.train(training), x), strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=5e-5)
    assert_same_state(alone, reference, rtol=1e-5, atol=1e-6)
    copied = copy.deepcopy(alone)
    torch.testing.assert_close(copied(x), reference(x), rtol=1e-4, atol=5e-5)
