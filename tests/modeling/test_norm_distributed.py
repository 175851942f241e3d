"""A converted InstanceBatchNorm2d on two processes against the definition on the joined batch."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F

from modeling_wbc import InstanceBatchNorm2d

WORLD_SIZE = 2
# Shapes of the two processes' feature maps.
CASES = [
    [(3, 5, 4, 4), (3, 5, 4, 4)],
    [(3, 6, 4, 5), (1, 6, 4, 5)],
    [(2, 6, 3, 4), (3, 6, 5, 2)],
    [(2, 4, 3, 3), (0, 4, 3, 3)],
]


def feature_maps(case):
    """The two feature maps, which differ in mean and deviation, and the gradients of the two outputs, float64."""
    generator = torch.Generator().manual_seed(case)
    shapes = CASES[case]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) * (1 + r) + r for r, s in enumerate(shapes)]
    return inputs, [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def norm_of(case):
    torch.manual_seed(case)
    norm = InstanceBatchNorm2d(CASES[case][0][1]).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def run_on_a_rank(rank, folder):
    """Two training steps of every case on this process's feature map; saves the results."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=timedelta(minutes=5),  # so that an error in one process does not leave the other waiting
    )
    try:
        results = []
        for case in range(len(CASES)):
            inputs, grads = feature_maps(case)
            norm = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(norm_of(case)), dist.group.WORLD)
            steps = []
            for _ in range(2):
                norm.zero_grad()
                x = inputs[rank].clone().requires_grad_()
                output = norm(x)
                output.backward(grads[rank])
                tensors = (output.detach(), x.grad, norm[0].weight.grad, norm[0].bias.grad)
                steps.append([tensor.clone() for tensor in (*tensors, norm[0].running_mean, norm[0].running_var)])
            results.append(steps)
        alone = None
        if rank == 0:  # eval mode does not communicate: the other process does not take part
            alone = nn.SyncBatchNorm.convert_sync_batchnorm(norm_of(0)).eval()(feature_maps(0)[0][0]).detach()
        dist.barrier()
        torch.save((results, alone), f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_on_the_second_rank(_, folder):
    torch.set_num_threads(1)
    run_on_a_rank(1, folder)


def joined(inputs, norm):
    """Outputs of the norm's definition on all feature maps at once, and mean and unbiased variance of all values."""
    half = norm.num_features // 2
    values = torch.cat([x.transpose(0, 1).flatten(1) for x in inputs], dim=1)
    mean, var = values.mean(1), values.var(1, correction=0)
    outputs = []
    for x in inputs:
        batch = (x - mean[:, None, None]) / (var + norm.eps).sqrt()[:, None, None]
        instance = F.instance_norm(x[:, :half], eps=norm.eps) if len(x) else x[:, :half]
        normalized = torch.cat((instance, batch[:, half:]), dim=1)
        outputs.append(normalized * norm.weight[:, None, None] + norm.bias[:, None, None])
    return outputs, mean, values.var(1)


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes_equal_one_with_the_joined_batch(tmp_path):
    """Outputs, gradients and running statistics; the processes may have different numbers and sizes of images."""
    # This process is one of the two: starting another costs the imports of torch and transformers.
    other = mp.spawn(run_on_the_second_rank, args=(str(tmp_path),), nprocs=1, join=False)
    run_on_a_rank(0, str(tmp_path))
    while not other.join():
        pass
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(WORLD_SIZE)]

    for case in range(len(CASES)):
        inputs, grads = feature_maps(case)
        norm = norm_of(case)
        leaves = [x.requires_grad_() for x in inputs]
        outputs, mean, var = joined(leaves, norm)
        input_grads = torch.autograd.grad(outputs, leaves, grads, retain_graph=True)
        running_mean, running_var = norm.running_mean, norm.running_var
        for number in range(2):
            running_mean, running_var = (
                0.9 * old + 0.1 * new for old, new in ((running_mean, mean), (running_var, var))
            )
            for rank in range(WORLD_SIZE):
                # Of this process's samples, as DistributedDataParallel averages them.
                own = torch.autograd.grad(outputs[rank], [norm.weight, norm.bias], grads[rank], retain_graph=True)
                torch.testing.assert_close(
                    ranks[rank][0][case][number],
                    [outputs[rank].detach(), input_grads[rank], *own, running_mean.detach(), running_var.detach()],
                    rtol=1e-9,
                    atol=1e-9,
                    msg=lambda text, where=(case, number, rank): f"{where}: {text}",
                )
    torch.testing.assert_close(ranks[0][1], norm_of(0).eval()(feature_maps(0)[0][0]).detach())
