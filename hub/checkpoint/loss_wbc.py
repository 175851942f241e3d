"""The hard-mined centre loss of Ma et al. 2020, equations 8-11."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class HardMinedCenterLoss(nn.Module):
    r"""Pulls the worst sample of a class to the class's centre and pushes the nearest stranger away from it.

    With d the squared Euclidean distance and c_k the centre of class k, and over the samples of the batch,

    $$L_f = \left(d(f_{i^*}, c_{y^*}) + m - d(f_{j^*}, c_{y^*})\right)_+$$

    where i* is the sample farthest from its own centre, y* its class, and j* the sample of another class that is
    nearest to c_{y*} (equations 9 and 10). Ties go to the first sample. Only f_{i*} and f_{j*} receive a gradient,
    that of equation 11: f_{i*} - c_{y*} and c_{y*} - f_{j*}, without the factor 2 of the derivative. Where no other
    class is in the batch there is no pair, and L_f is 0.

    The centres are a buffer, not parameters: in training, after the loss of a batch is taken, every class in it
    moves its centre by `alpha` times the mean residual f_i - c_k of its samples. (Wen et al. 2016 divide the sum of
    residuals by n + 1 where the mean divides by n.) In eval mode the centres stay.

    When `torch.distributed` is initialised, a training step mines over the joined batch of all processes, which must
    bring equally many samples each, as accelerate's data loaders do. Loss and centres are then the same on every
    process, and the gradient, once averaged over the processes as `DistributedDataParallel` does, is that of one
    process with the joined batch.

    Args:
        num_labels (`int`): number of classes K.
        feature_size (`int`): length D of a feature vector.
        margin (`float`): m of equation 10, at least 0, in units of squared distance.
        alpha (`float`): rate of the centres, in [0, 1].
        mining (`str`): `"batch"` takes the one pair above; `"class"` takes the hardest pair of every class in the
            batch and averages their hinges; `"none"` takes, for comparison, the plain centre loss (Wen et al. 2016),
            which the paper starts from: the mean of d(f_i, c_{y_i}) over the batch.

    Attributes:
        centers: (K, D) float buffer, zeros at the start, saved with the module.
        active_fraction: scalar buffer, not saved: the share of the last batch's pairs, in [0, 1], that violate the
            margin; 1 without mining.

    Raises:
        ValueError: if an argument is outside the values above, or if features and labels do not fit together.
    """

    def __init__(
        self, num_labels: int, feature_size: int, margin: float = 1.0, alpha: float = 0.5, mining: str = "batch"
    ):
        super().__init__()
        if margin < 0:
            raise ValueError(f"margin must be at least 0, got {margin}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if mining not in ("batch", "class", "none"):
            raise ValueError(f"mining must be 'batch', 'class' or 'none', got {mining!r}")
        self.margin = margin
        self.alpha = alpha
        self.mining = mining
        self.register_buffer("centers", torch.zeros(num_labels, feature_size))
        self.register_buffer("active_fraction", torch.zeros(()), persistent=False)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Returns L_f, a scalar of at least float32, for features (N, D) and integer labels (N,) in [0, K)."""
        num_labels, feature_size = self.centers.shape
        if features.ndim != 2 or features.shape[0] == 0 or features.shape[1] != feature_size:
            raise ValueError(f"features must have shape (N, {feature_size}), N > 0, got {tuple(features.shape)}")
        check_labels(labels, features.shape[0], num_labels)

        # Squared distances overflow float16 and are too coarse in bfloat16.
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        if self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            features, labels = _gather(features), _gather(labels)
        centers = self.centers.to(features.dtype)

        own = labels[:, None] == torch.arange(num_labels, device=labels.device)  # (N, K)
        if self.mining == "none":
            loss, active = _squared_distance(features, centers[labels]).mean(), torch.ones_like(self.active_fraction)
        else:
            loss, active = self._of_hardest_pairs(features, labels, centers, own)

        with torch.no_grad():
            self.active_fraction.copy_(active)
            if self.training:
                # No matrix product, which autocast would take in bfloat16.
                residual = ((features[:, None] - centers) * own[:, :, None]).sum(0)  # (K, D)
                residual = residual / own.sum(0).clamp(min=1)[:, None]
                self.centers.copy_(centers + self.alpha * residual)
        return loss

    def _of_hardest_pairs(
        self, features: Tensor, labels: Tensor, centers: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """L_f, and the share of its pairs that violate the margin."""
        with torch.no_grad():
            distance = (features[:, None] - centers).square().sum(-1)  # (N, K)
            to_own = distance.masked_fill(~own, -torch.inf)
            anchor = to_own.argmax(0)  # (K,), of every class its farthest sample
            negative = distance.masked_fill(own, torch.inf).argmin(0)  # (K,), the nearest sample of another class
            has_pair = own.any(0) & ~own.all(0)
            if self.mining == "batch":
                classes = labels[to_own.amax(1).argmax()].view(1)
            else:
                classes = torch.arange(len(centers), device=labels.device)
            share = has_pair[classes].to(features.dtype)
            share = share / share.sum().clamp(min=1)

        to_anchor = _squared_distance(features[anchor[classes]], centers[classes])
        to_negative = _squared_distance(features[negative[classes]], centers[classes])
        hinge = (to_anchor + self.margin - to_negative).relu()
        return (share * hinge).sum(), (share * (hinge > 0)).sum()

    def extra_repr(self) -> str:
        num_labels, feature_size = self.centers.shape
        return f"{num_labels}, {feature_size}, margin={self.margin}, alpha={self.alpha}, mining={self.mining!r}"


def check_labels(labels: Tensor, batch_size: int, num_labels: int) -> None:
    """Raises ValueError unless labels are `batch_size` integers in [0, `num_labels`)."""
    if labels.shape != (batch_size,) or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers of shape ({batch_size},), one for each image, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    # A look at the values would break the graph of torch.compile.
    if batch_size and not torch.compiler.is_compiling():
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= num_labels:
            raise ValueError(f"labels must be in [0, {num_labels - 1}], got values from {low} to {high}")


def _squared_distance(features: Tensor, centers: Tensor) -> Tensor:
    """d(f, c) of each row, (N,), whose gradient in f is f - c: equation 11 drops the factor 2."""
    distance = (features - centers).square().sum(-1)
    return distance.detach() + 0.5 * (distance - distance.detach())


def _gather(local: Tensor) -> Tensor:
    """The tensors of all processes, joined along the first dimension, in the order of the ranks.

    The gradient flows to this process's rows, times the number of processes: the mean that DistributedDataParallel
    takes of the processes' gradients is then their sum.
    """
    world_size, rank = dist.get_world_size(), dist.get_rank()
    parts = [torch.empty_like(local) for _ in range(world_size)]
    dist.all_gather(parts, local.detach().contiguous())
    if local.requires_grad:
        parts[rank] = local.detach() + world_size * (local - local.detach())
    return torch.cat(parts)
