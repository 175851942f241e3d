"""Instance-batch normalisation (IBN) in one pass over the feature map."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class InstanceBatchNorm2d(nn.BatchNorm2d):
    """Instance norm on the first half of the channels, batch norm on the second, in one pass over the feature map.

    The first floor(C / 2) channels are normalised by the mean and variance of each sample (equations 4-6 of Ma et al.
    2020), the others by those of the batch, or in eval mode by the running ones (equations 1-3). Parameters and
    buffers are those of `nn.BatchNorm2d(C)`, so weights of a plain ResNet load unchanged. The running statistics of
    the instance half are updated, but not used.

    Both kinds of statistics follow from the mean and variance of each (sample, channel). The feature map is neither
    split nor joined: one scale and one shift for each (sample, channel) normalise it. Statistics are computed in
    float32 (float64 for float64 input); the output has the input's dtype and memory format.

    Args:
        num_features (`int`): number of channels C of the input (N, C, H, W).
        eps (`float`): added to the variance.
        momentum (`float`): weight of the newest batch in the running statistics.

    Raises:
        ValueError: if the input is not (N, C, H, W), or has a single pixel per channel, which has no variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__(num_features, eps=eps, momentum=momentum)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise a feature map (N, C, H, W); the result has its shape, dtype and memory format."""
        if hidden_states.ndim != 4 or hidden_states.shape[1] != self.num_features:
            raise ValueError(
                f"expected a feature map of shape (N, {self.num_features}, H, W), got {tuple(hidden_states.shape)}"
            )
        if not torch.compiler.is_compiling() and hidden_states.shape[2] * hidden_states.shape[3] == 1:
            raise ValueError(
                f"cannot normalise a sample over a single pixel: got a feature map of shape "
                f"{tuple(hidden_states.shape)}. Use larger images"
            )
        num_instance = self.num_features // 2
        if not self.training:
            # Only the instance half needs statistics of the input.
            mean, var = _moments(hidden_states[:, :num_instance])
            mean = _join(mean, self.running_mean[num_instance:])
            var = _join(var, self.running_var[num_instance:])
            return _scale_and_shift(hidden_states, self.weight, self.bias, mean, (var + self.eps).rsqrt())

        if torch.compiler.is_compiling():
            # The compiler fuses the plain formula and derives its gradient.
            mean, inv_std, batch_mean, batch_var = _statistics(hidden_states, num_instance, self.eps)
            output = _scale_and_shift(hidden_states, self.weight, self.bias, mean, inv_std)
        else:
            output, batch_mean, batch_var = _InstanceBatchNorm.apply(
                hidden_states, self.weight, self.bias, num_instance, self.eps
            )
        self._update_running_statistics(batch_mean, batch_var, hidden_states.numel() // self.num_features)
        return output

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics towards a batch's mean and biased variance (C,) over `count` values each."""
        self.num_batches_tracked.add_(1)
        unbiased = var * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each (sample, channel) of x (N, C, H, W): two (N, C) tensors, float32 or wider."""
    mean = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
    # Two passes: E[x^2] - E[x]^2 cancels where the mean is large compared with the standard deviation.
    return mean, (x - mean[:, :, None, None]).square().mean((2, 3))


def _join(instance: Tensor, batch: Tensor) -> Tensor:
    """Join instance norm's statistics (N, C // 2) and batch norm's (C - C // 2,) into (N, C)."""
    return torch.cat((instance, batch.to(instance.dtype).expand(instance.shape[0], -1)), dim=1)


def _statistics(x: Tensor, num_instance: int, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Statistics of a training step for x (N, C, H, W).

    Returns:
        Mean and inverse standard deviation (N, C) to normalise by, and the batch's mean and biased variance (C,).
    """
    mean, var = _moments(x)
    batch_mean = mean.mean(0)
    # The law of total variance.
    batch_var = var.mean(0) + (mean - batch_mean).square().mean(0)
    mean = _join(mean[:, :num_instance], batch_mean[num_instance:])
    var = _join(var[:, :num_instance], batch_var[num_instance:])
    return mean, (var + eps).rsqrt(), batch_mean, batch_var


def _scale_and_shift(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inv_std: Tensor) -> Tensor:
    """`(x - mean) * inv_std * weight + bias` as one multiply-add, for statistics (N, C) and parameters (C,)."""
    scale = weight * inv_std
    shift = bias - mean * scale
    return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None]).to(x.dtype)


class _InstanceBatchNorm(torch.autograd.Function):
    """Training step of [`InstanceBatchNorm2d`] with its gradient in closed form.

    With xc = x - mean, r the inverse standard deviation, g the gradient of the output and E the mean over the values
    normalised together (the pixels of one sample, or of the batch), dx = weight r (g - E[g] - xc r^2 E[g xc]): again
    a multiply-add, with one scale for g, one for x, and a shift. Autograd through the plain formula would save several
    feature maps; this saves only x.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, num_instance, eps):
        mean, inv_std, batch_mean, batch_var = _statistics(x, num_instance, eps)
        ctx.save_for_backward(x, weight, mean, inv_std)
        ctx.num_instance = num_instance
        ctx.mark_non_differentiable(batch_mean, batch_var)
        return _scale_and_shift(x, weight, bias, mean, inv_std), batch_mean, batch_var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        x, weight, mean, inv_std = ctx.saved_tensors
        num_pixels = x.shape[2] * x.shape[3]
        grad_sum = grad.sum((2, 3), dtype=mean.dtype)
        product_sum = (grad * (x - mean[:, :, None, None])).sum((2, 3))
        grad_weight = (product_sum * inv_std).sum(0).to(weight.dtype)
        grad_bias = grad_sum.sum(0).to(weight.dtype)

        def group_mean(sums):
            means = sums / num_pixels
            return _join(means[:, : ctx.num_instance], means[:, ctx.num_instance :].mean(0))

        scale = weight * inv_std
        x_scale = -scale * inv_std.square() * group_mean(product_sum)
        shift = -scale * group_mean(grad_sum) - x_scale * mean
        grad_x = torch.addcmul(shift[:, :, None, None], x, x_scale[:, :, None, None])
        grad_x = grad_x.addcmul_(grad, scale[:, :, None, None]).to(x.dtype)
        return grad_x, grad_weight, grad_bias, None, None
