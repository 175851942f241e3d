"""HardMinedCenterLoss on two processes against one process with the joined batch."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.modeling.test_loss import brute_force, module

WORLD_SIZE = 2
# Kind of batch, mining, seed.
CASES = [
    (kind, mining, seed)
    for kind in ("random", "anchor-right", "class-per-rank", "one-class")
    for mining in ("batch", "class")
    for seed in range(4)
]


def joined_batch(kind, seed):
    """Inputs (8, 3), labels and centres of the joined batch of two processes of four samples."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (8,), generator=generator)
    if (
        kind == "anchor-right"
    ):  # the farthest sample on the second process, the only samples of other classes on the first
        labels = torch.tensor([0, 2, 0, 1, 1, 1, 1, 1])
        inputs[6] *= 20
    elif kind == "class-per-rank":
        labels = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2])
    elif kind == "one-class":
        labels = torch.full((8,), 1)
    return inputs, labels, torch.randn(3, 5, generator=generator, dtype=torch.float64)


def linear(seed):
    torch.manual_seed(seed)
    return nn.Linear(3, 5).double()


def loss_of_case(mining, centers):
    return module(centers, margin=2.0, alpha=0.3, mining=mining).train()


def train_on_a_rank(rank, folder):
    """Two training steps on this process's half of every batch; saves the results."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=timedelta(minutes=5),  # so that an error in one process does not leave the other waiting
    )
    try:
        results = []
        for kind, mining, seed in CASES:
            inputs, labels, centers = joined_batch(kind, seed)
            rows = slice(4 * rank, 4 * rank + 4)
            model, loss_fn = DistributedDataParallel(linear(seed)), loss_of_case(mining, centers)
            steps = []
            for _ in range(2):
                model.zero_grad()
                loss = loss_fn(model(inputs[rows]), labels[rows])
                loss.backward()
                grads = [parameter.grad.clone() for parameter in model.parameters()]
                steps.append((loss.detach(), grads, loss_fn.centers.clone(), loss_fn.active_fraction.clone()))
            results.append(steps)
        alone = None
        if rank == 0:  # eval mode does not communicate: the other process does not take part
            inputs, labels, centers = joined_batch("random", 0)
            alone = loss_of_case("batch", centers).eval()(linear(0)(inputs[:4]).detach(), labels[:4])
        dist.barrier()
        torch.save((results, alone), f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def train_on_the_second_rank(_, folder):
    torch.set_num_threads(1)
    train_on_a_rank(1, folder)


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes_equal_one_with_the_joined_batch(tmp_path):
    """Loss, gradients as DistributedDataParallel averages them, and centres, after each of two steps."""
    # This process is one of the two: starting another costs the imports of torch and transformers.
    other = mp.spawn(train_on_the_second_rank, args=(str(tmp_path),), nprocs=1, join=False)
    train_on_a_rank(0, str(tmp_path))
    while not other.join():
        pass
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(WORLD_SIZE)]

    apart = {"batch": 0, "class": 0}
    for index, (kind, mining, seed) in enumerate(CASES):
        inputs, labels, centers = joined_batch(kind, seed)
        model, loss_fn = linear(seed), loss_of_case(mining, centers)
        for number in range(2):
            model.zero_grad()
            features = model(inputs)
            value, _, moved, active, pairs = brute_force(features.detach(), labels, loss_fn.centers, 2.0, 0.3, mining)
            loss = loss_fn(features, labels)
            loss.backward()
            grads = [parameter.grad for parameter in model.parameters()]
            assert loss.item() == pytest.approx(value)
            apart[mining] += value > 0 and any(i // 4 != j // 4 for i, j in pairs)
            for rank in range(WORLD_SIZE):
                result = ranks[rank][0][index][number]
                expected = (loss.detach(), grads, torch.tensor(moved), torch.tensor(active, dtype=torch.float64))
                torch.testing.assert_close(
                    result,
                    expected,
                    rtol=1e-9,
                    atol=1e-9,
                    msg=lambda text, case=(kind, mining, seed, rank): f"{case}: {text}",
                )
    assert min(apart.values()) >= 4  # pairs that lie on two processes were met

    inputs, labels, centers = joined_batch("random", 0)
    expected = loss_of_case("batch", centers).eval()(linear(0)(inputs[:4]).detach(), labels[:4])
    torch.testing.assert_close(ranks[0][1], expected)
