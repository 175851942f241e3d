"""Novelty of an image: an out-of-distribution (OOD) score from the statistics of an early feature map."""

import torch
from torch import Tensor, nn


class SmearNovelty(nn.Module):
    r"""Mahalanobis distance of a feature map to those of training images (Lee et al. 2018, equation 2).

    The statistics s (N, 2C) of a feature map (N, C, H, W) are the mean and the standard deviation of each channel over
    the pixels. With m and S their mean and covariance over training images,

    $$\mathrm{novelty} = \sqrt{(s - m)^T S^{-1} (s - m) / 2C}$$

    which is about 1 for images of the training distribution. One Gaussian serves all classes: the distance compares
    colour and texture, not cell types, so early feature maps work best. Before it is fitted, it is 0 for every image.

    Args:
        num_channels (`int`): C.

    Attributes:
        mean: (2C,) float buffer, m.
        whitening: (2C, 2C) float buffer W with W^T W = S^-1 / 2C.
    """

    def __init__(self, num_channels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * num_channels))
        self.register_buffer("whitening", torch.zeros(2 * num_channels, 2 * num_channels))

    @staticmethod
    def statistics(feature_map: Tensor) -> Tensor:
        """s, (N, 2C) float32, of a feature map (N, C, H, W): first the means, then the standard deviations."""
        var, mean = torch.var_mean(feature_map.float(), dim=(2, 3), correction=0)
        return torch.cat((mean, var.sqrt()), dim=1)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Novelty (N,), float32, at least 0, of a feature map (N, C, H, W)."""
        # Autocast would compute the product in bfloat16.
        with torch.autocast(feature_map.device.type, enabled=False):
            offset = self.statistics(feature_map) - self.mean.float()
            return (offset @ self.whitening.float().T).norm(dim=1)
