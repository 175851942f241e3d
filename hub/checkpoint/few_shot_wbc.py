"""A classifier's head and class centres, moved by a few labelled cells of a lab."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

# Ridges, in units of the mean squared length of the embeddings, and steps, of which the labelled cells choose.
RIDGES, STEPS = (0.1, 0.3, 1.0, 3.0), (5.0, 10.0)
# The old centre of a type counts as much as this number of cells.
PRIOR_CELLS = 1


def fit_head(
    weight: Tensor, bias: Tensor, embeddings: Tensor, labels: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor, int, int]:
    r"""Move a linear head towards labelled embeddings, by ridge regression of what it gets wrong.

    With z = (W e + b) / T the old logits of a cell with embedding e, and R the residuals of the labelled cells, their
    one-hot labels less softmax(z), the change of the logits is a step s times the ridge regression of R on e,

    $$\Delta z(e) = s \sum_i k(e, e_i) \alpha_i, \qquad \alpha = (K + \lambda I)^{-1} R, \qquad
    k(e, e') = \frac{e \cdot e'}{\frac1N \sum_i |e_i|^2} + 1$$

    which is linear in e, and 0 where the old head is sure and right: regularised towards the old weights (Evgeniou &
    Pontil 2004). Unlike logistic regression, it has leave-one-out predictions in closed form, in which the residual
    of a cell is regressed on the others, R_i - alpha_i / ((K + lambda I)^-1)_ii. The lambda of `RIDGES` and the s of
    `STEPS` with the least cross entropy of these are taken.

    Args:
        weight: (C, D), W of the old head.
        bias: (C,), b of the old head.
        embeddings: (N, D), of N > 0 labelled cells.
        labels: (N,) integers in [0, C), their types.
        temperature: T, above 0.

    Returns:
        Weight and bias of the new head, float64 on the CPU, in units of the old one (before the division by T), and
        the number of labelled cells that the old head names right, and that the new one does in leave-one-out.
    """
    weight, bias, embeddings = (tensor.detach().double().cpu() for tensor in (weight, bias, embeddings))
    labels = labels.cpu()
    logits = (embeddings @ weight.T + bias) / temperature
    residuals = torch.eye(len(bias), dtype=torch.float64)[labels] - logits.softmax(1)
    scale = embeddings.square().sum(1).mean().clamp_min(torch.finfo(torch.float64).tiny)
    kernel = embeddings @ embeddings.T / scale + 1
    candidates: list[tuple[float, int, Tensor, Tensor]] = []
    for ridge, step in itertools.product(RIDGES, STEPS):
        inverse = torch.linalg.inv(kernel + ridge * torch.eye(len(labels), dtype=torch.float64))
        dual = inverse @ residuals
        left_out = logits + step * (residuals - dual / inverse.diagonal()[:, None])
        candidates.append((F.cross_entropy(left_out, labels).item(), len(candidates), step * dual, left_out))
    _, _, dual, left_out = min(candidates)
    before, after = (int((values.argmax(1) == labels).sum()) for values in (logits, left_out))
    new_weight = weight + temperature * dual.T @ embeddings / scale
    return new_weight, bias + temperature * dual.sum(0), before, after


def shrink_centers(centers: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Move class centres to labelled embeddings, shrunk towards the old ones, which count as `PRIOR_CELLS` cells.

    Args:
        centers: (C, D), the old centres.
        embeddings: (N, D), of labelled cells.
        labels: (N,) integers in [0, C).

    Returns:
        (C, D) float64, on the CPU: (n mean + PRIOR_CELLS old) / (n + PRIOR_CELLS) of a type with n labelled cells.
    """
    own = torch.eye(len(centers), dtype=torch.float64)[labels.cpu()]  # (N, C)
    sums, counts = own.T @ embeddings.detach().double().cpu(), own.sum(0)[:, None]
    return (sums + PRIOR_CELLS * centers.detach().double().cpu()) / (counts + PRIOR_CELLS)


__all__ = ["fit_head", "shrink_centers"]
