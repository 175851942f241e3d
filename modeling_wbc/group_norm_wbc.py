"""Instance-group normalisation: a control for the batch half of instance-batch normalisation."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Wu & He 2018, table 3: sixteen channels a group are as good as 32 groups, and suit halves of any width.
_CHANNELS_PER_GROUP = 16


class InstanceGroupNorm2d(nn.Module):
    """Instance norm on the first half of the channels, group norm (Wu & He 2018) on the second.

    A control, not the paper's: [`InstanceBatchNorm2d`] whose batch half takes its statistics from the sample too, so
    that nothing of it depends on the lab of the training. The second half has groups of sixteen channels, or of the
    most that divide it evenly.

    Parameters and buffers are those of `nn.BatchNorm2d(C)`, so that weights of the other layouts load unchanged. The
    running statistics are kept for them, and neither used nor updated.

    Args:
        num_features (`int`): number of channels C of the input (N, C, H, W).
        eps (`float`): added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.num_groups = (half := num_features - num_features // 2) // math.gcd(half, _CHANNELS_PER_GROUP)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise a feature map (N, C, H, W); the result has its shape and dtype."""
        half = self.num_features // 2
        instance = F.instance_norm(
            hidden_states[:, :half], weight=self.weight[:half], bias=self.bias[:half], eps=self.eps
        )
        group = F.group_norm(hidden_states[:, half:], self.num_groups, self.weight[half:], self.bias[half:], self.eps)
        return torch.cat((instance.to(hidden_states.dtype), group.to(hidden_states.dtype)), dim=1)

    def extra_repr(self) -> str:
        """Arguments, as `repr` shows them."""
        return f"{self.num_features}, num_groups={self.num_groups}, eps={self.eps}"


__all__ = ["InstanceGroupNorm2d"]
