"""Norm, loss and network against references, in the precisions and memory formats of a training."""

import copy

import numpy as np
import pytest
import torch

from modeling_wbc import WBCConfig, WBCForImageClassification
from tests.modeling.builders import RESNET_34, tiny_config
from tests.modeling.test_loss import brute_force, module, random_batch
from tests.modeling.test_norm import feature_map, pair

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def shape_for(on_gpu):
    return (32, 64, 56, 56) if on_gpu else (3, 6, 5, 4)


@pytest.fixture(scope="module", autouse=True)
def exact():
    """Convolutions and products in float32, without TensorFloat-32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_norm_is_instance_norm_and_batch_norm(device, on_gpu, dtype, memory_format, compiled):
    """Outputs, gradients and running statistics of training steps, against float64."""
    torch.compiler.reset()
    shape = shape_for(on_gpu)
    norm, reference = (part.to(device) for part in pair(shape[1]))
    reference.double()
    # On a CPU, inductor would compile C++ for seconds.
    step = torch.compile(norm, backend="inductor" if on_gpu else "aot_eager", fullgraph=True) if compiled else norm
    grads = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(device)
    for seed in range(2):
        given = feature_map(*shape, seed=seed).to(device, dtype).contiguous(memory_format=FORMATS[memory_format])
        x, exact_x = given.clone(memory_format=torch.preserve_format).requires_grad_(), given.double().requires_grad_()
        norm.zero_grad(), reference.zero_grad()
        output, expected = step(x), reference(exact_x)
        output.backward(grads.to(dtype)), expected.backward(grads.to(dtype).double())
        assert output.dtype == x.grad.dtype == dtype
        if not compiled:
            assert output.is_contiguous(memory_format=FORMATS[memory_format])
        # One rounding of the result in bfloat16, the order of the sums in float32.
        rtol = {torch.float32: 1e-4, torch.bfloat16: 2**-7}[dtype]
        pairs = [(output, expected), (x.grad, exact_x.grad)]
        pairs += [(getattr(norm, name).grad, reference.joined(name, grad=True)) for name in ("weight", "bias")]
        for found, wanted in pairs:
            assert (found.double() - wanted).norm() < rtol * wanted.norm()
    half = reference.half
    torch.testing.assert_close(norm.running_mean[half:].double(), reference.batch.running_mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_var[half:].double(), reference.batch.running_var, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mining", ["batch", "class"])
def test_the_loss_is_that_of_the_equations(device, mining):
    for seed in range(5):
        features, labels, centers = random_batch(seed)
        loss_fn = module(centers, mining=mining).to(device)
        given = torch.as_tensor(features).to(device).requires_grad_()
        loss = loss_fn(given, torch.as_tensor(labels).to(device))
        loss.backward()
        expected, grad, moved, active, _ = brute_force(
            features, labels, centers, loss_fn.margin, loss_fn.alpha, mining
        )
        assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert loss_fn.active_fraction.item() == pytest.approx(active)
        np.testing.assert_allclose(given.grad.cpu(), grad, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(loss_fn.centers.cpu(), moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_network_learns_as_in_float64(device, on_gpu, memory_format, record):
    """A training step and the answers after it, in float32 and under autocast to bfloat16."""
    torch.manual_seed(0)
    config = WBCConfig(image_size=128, **RESNET_34) if on_gpu else tiny_config(image_size=32)
    model = WBCForImageClassification(config).train()
    size = 64 if on_gpu else 8
    images = torch.randn(size, 3, config.image_size, config.image_size)
    labels = torch.arange(size) % 4

    def learn(model, images, bf16):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        losses = []
        for _ in range(3):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
                loss = model(images, labels.to(images.device)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    wanted = learn(copy.deepcopy(model).double().to(device), images.double().to(device), False)
    for bf16, tolerance in ((False, 1e-3), (True, 0.05)):
        mine = copy.deepcopy(model).to(device, memory_format=FORMATS[memory_format])
        found = learn(mine, images.to(device).contiguous(memory_format=FORMATS[memory_format]), bf16)
        record(**{f"losses_{'bfloat16' if bf16 else 'float32'}": found, "losses_float64": wanted})
        assert found == pytest.approx(wanted, rel=tolerance)
        assert found[-1] < found[0]
