"""Novelty of an image: an out-of-distribution (OOD) score from the statistics of early feature maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_wbc import WBCConfig


class SmearNovelty(nn.Module):
    r"""Mahalanobis distance of feature maps to those of training images, and to what is no cell.

    The statistics s (N, D) of feature maps (N, C, H, W) are the mean and the standard deviation of each channel over
    the pixels, map by map, with D twice the number of all channels. With m and S their mean and covariance over
    training images (Lee et al. 2018, equation 2), W a root of the inverse of S, W^T W = S^-1 / D, and z = W (s - m),

    $$\mathrm{novelty} = \|z\| + \max(0, v \cdot z + b)$$

    The first term is about 1 for images of the training distribution. One Gaussian serves all classes: the distance
    compares colour and texture, not cell types, so that maps before the last stage work best. The second term is how
    much the log-odds of a logistic regression that tells crops beside the cells of training images (red cells,
    platelets, background), and drawings of no smear, from the cells are above those of the cells. Before both are
    fitted, novelty is 0 for every image.

    Args:
        num_channels (`int`): number of channels of all feature maps, D / 2.
        has_direction (`bool`, defaults to `False`): whether there is the second term.

    Attributes:
        mean: (D,) float buffer, m.
        whitening: (D, D) float buffer, W.
        direction: (D,) float buffer, v; None without the second term.
        offset: () float buffer, b; None without the second term.
    """

    def __init__(self, num_channels: int, has_direction: bool = False):
        super().__init__()
        size = 2 * num_channels
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitening", torch.zeros(size, size))
        self.register_buffer("direction", torch.zeros(size) if has_direction else None)
        self.register_buffer("offset", torch.zeros(()) if has_direction else None)

    @classmethod
    def of(cls, config: WBCConfig) -> "SmearNovelty":
        """The unfitted score of a model with this configuration: that of `config.novelty_stages`."""
        stages = config.novelty_stages
        channels = sum(config.hidden_sizes[stage - 1] for stage in stages or (1,))
        return cls(channels, has_direction=stages is not None)

    @staticmethod
    def statistics(*feature_maps: Tensor) -> Tensor:
        """s, (N, D) float32, of feature maps (N, C, H, W): of each first the means, then the standard deviations."""
        parts = []
        for feature_map in feature_maps:
            var, mean = torch.var_mean(feature_map.float(), dim=(2, 3), correction=0)
            parts += [mean, var.sqrt()]
        return torch.cat(parts, dim=1)

    def forward(self, *feature_maps: Tensor) -> Tensor:
        """Novelty (N,), float32, at least 0, of feature maps (N, C, H, W)."""
        # Autocast would compute the products in bfloat16.
        with torch.autocast(feature_maps[0].device.type, enabled=False):
            offset = self.statistics(*feature_maps) - self.mean.float()
            whitened = offset @ self.whitening.float().T
            novelty = whitened.norm(dim=1)
            if self.direction is not None:
                novelty = novelty + F.relu(whitened @ self.direction.float() + self.offset.float())
            return novelty
