"""The hard-mined centre loss of Ma et al. 2020 (equations 8-11)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .configuration_wbc import MINING


class HardMinedCenterLoss(nn.Module):
    r"""Pull the farthest sample of a class to the class's centre and push the nearest of another class away from it.

    With d the squared Euclidean distance and c_k the centre of class k, and over the samples of the batch,

    $$L_f = \left(d(f_{i^*}, c_{y^*}) + m - d(f_{j^*}, c_{y^*})\right)_+$$

    where i* is the sample farthest from its own centre, y* its class, and j* the sample of another class that is
    nearest to c_{y*} (equations 9 and 10). Ties go to the first sample. Only f_{i*} and f_{j*} receive a gradient,
    that of equation 11: f_{i*} - c_{y*} and c_{y*} - f_{j*}, without the factor 2 of the derivative. A batch of a
    single class has no pair, and its L_f is 0.

    The centres are a buffer, not parameters: in training mode, after the loss of a batch is computed, the centre of
    every class in the batch moves by `alpha` times the mean residual f_i - c_k of its samples. (Wen et al. 2016 divide
    the sum of the n residuals by n + 1 instead of n.) In eval mode the centres stay.

    When `torch.distributed` is initialised, a training step mines over the joined batch of all processes. Each process
    must have the same number of samples, as with accelerate's data loaders. Loss and centres are then the same on
    every process, and the gradient, averaged over the processes by `DistributedDataParallel`, is that of one process
    with the joined batch.

    Args:
        num_labels (`int`): number of classes K.
        feature_size (`int`): length D of a feature vector.
        margin (`float`): m of equation 10, at least 0, in units of squared distance.
        alpha (`float`): rate of the centres, in [0, 1].
        mining (`str`): `"batch"`: the one pair above. `"class"`: the mean hinge of the hardest pairs of all classes in
            the batch. `"none"`: the plain centre loss (Wen et al. 2016), for comparison: the mean of d(f_i, c_{y_i})
            over the batch.

    Attributes:
        centers: (K, D) float buffer, zeros at the start, saved with the module.
        active_fraction: scalar buffer, not saved: the share, in [0, 1], of the last batch's pairs that violate the
            margin; 1 without mining.

    Raises:
        ValueError: if an argument is outside the values above, or if features and labels do not match.
    """

    def __init__(
        self, num_labels: int, feature_size: int, margin: float = 1.0, alpha: float = 0.5, mining: str = "batch"
    ):
        super().__init__()
        if margin < 0:
            raise ValueError(f"margin must be at least 0, got {margin}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if mining not in MINING:
            raise ValueError(f"mining must be one of {', '.join(MINING)}, got {mining!r}")
        self.margin = margin
        self.alpha = alpha
        self.mining = mining
        self.register_buffer("centers", torch.zeros(num_labels, feature_size))
        self.register_buffer("active_fraction", torch.zeros(()), persistent=False)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """L_f, a scalar of at least float32, of features (N, D) and integer labels (N,) in [0, K)."""
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
            loss, active = self._hardest_pair_loss(features, labels, centers, own)

        with torch.no_grad():
            self.active_fraction.copy_(active)
            if self.training:
                # No matrix product: autocast would compute it in bfloat16.
                residual = ((features[:, None] - centers) * own[:, :, None]).sum(0)  # (K, D)
                residual = residual / own.sum(0).clamp(min=1)[:, None]
                self.centers.copy_(centers + self.alpha * residual)
        return loss

    def _hardest_pair_loss(
        self, features: Tensor, labels: Tensor, centers: Tensor, own: Tensor
    ) -> tuple[Tensor, Tensor]:
        """L_f and the share of its pairs that violate the margin; `own` (N, K) is true at each sample's class."""
        with torch.no_grad():
            distance = (features[:, None] - centers).square().sum(-1)  # (N, K)
            to_own = distance.masked_fill(~own, -torch.inf)
            anchor = to_own.argmax(0)  # (K,), the farthest sample of every class
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
        """Arguments, as `repr` shows them."""
        num_labels, feature_size = self.centers.shape
        return f"{num_labels}, {feature_size}, margin={self.margin}, alpha={self.alpha}, mining={self.mining!r}"


def check_labels(labels: Tensor, batch_size: int, num_labels: int) -> None:
    """Raise ValueError unless labels are `batch_size` integers in [0, `num_labels`)."""
    if labels.shape != (batch_size,) or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers of shape ({batch_size},), one for each image, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    # Reading the values would break the graph of torch.compile.
    if batch_size and not torch.compiler.is_compiling():
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= num_labels:
            raise ValueError(f"labels must be in [0, {num_labels - 1}], got values from {low} to {high}")


def _squared_distance(features: Tensor, centers: Tensor) -> Tensor:
    """d(f, c) of each row, (N,), with gradient f - c: equation 11 drops the factor 2."""
    distance = (features - centers).square().sum(-1)
    return distance.detach() + 0.5 * (distance - distance.detach())


def _gather(local: Tensor) -> Tensor:
    """Join the tensors of all processes along the first dimension, in the order of the ranks.

    Only this process's rows receive a gradient, multiplied by the number of processes: the mean over the processes
    that DistributedDataParallel computes is then their sum.
    """
    world_size, rank = dist.get_world_size(), dist.get_rank()
    parts = [torch.empty_like(local) for _ in range(world_size)]
    dist.all_gather(parts, local.detach().contiguous())
    if local.requires_grad:
        parts[rank] = local.detach() + world_size * (local - local.detach())
    return torch.cat(parts)
