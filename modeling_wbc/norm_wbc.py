"""Instance-batch normalisation (IBN) in one pass over the feature map, on one process or synchronised over several."""

import functools

import torch
import torch.distributed as dist
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

    `nn.SyncBatchNorm.convert_sync_batchnorm` turns it into a [`SyncInstanceBatchNorm2d`]. As with `nn.BatchNorm2d`, a
    module whose running statistics were set to None takes those of the batch in eval mode too, and one with
    `track_running_stats = False` leaves its running statistics as they are.

    Args:
        num_features (`int`): number of channels C of the input (N, C, H, W).
        eps (`float`): added to the variance.
        momentum (`float`, *optional*): weight of the newest batch in the running statistics. With None, they are the
            mean over all batches since the last `reset_running_stats`, as `torch.optim.swa_utils.update_bn` wants it.

    Raises:
        ValueError: if the input is not (N, C, H, W), or has a single pixel per channel, which has no variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1):
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
        if self.training or self.running_mean is None or self.running_var is None:
            output, batch_mean, batch_var = self._normalize_by_batch(hidden_states)
            if self.training and self.track_running_stats and self.running_mean is not None:
                self._update_running_statistics(batch_mean, batch_var)
            return output
        # Only the instance half needs statistics of the input.
        num_instance = self.num_features // 2
        mean, var = _moments(hidden_states[:, :num_instance])
        mean = _join(mean, self.running_mean[num_instance:])
        var = _join(var, self.running_var[num_instance:])
        return _scale_and_shift(hidden_states, self.weight, self.bias, mean, (var + self.eps).rsqrt())

    def _normalize_by_batch(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise x (N, C, H, W) by its own statistics.

        Returns:
            The result, and the batch's mean and unbiased variance (C,).
        """
        num_instance = self.num_features // 2
        if not torch.compiler.is_compiling():
            return _InstanceBatchNorm.apply(x, self.weight, self.bias, num_instance, self.eps, None)
        # The compiler fuses the plain formula and derives its gradient.
        mean, inv_std, batch_mean, batch_var, _ = _statistics(x, num_instance, self.eps, None)
        return _scale_and_shift(x, self.weight, self.bias, mean, inv_std), batch_mean, batch_var

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards a batch's mean and unbiased variance (C,)."""
        self.num_batches_tracked.add_(1)
        for running, value in ((self.running_mean, mean), (self.running_var, var)):
            share = self.momentum
            if share is None:  # a tensor: reading its value would wait for the GPU
                share = self.num_batches_tracked.to(running.dtype).reciprocal()
            running.lerp_(value.to(running.dtype), share)


class SyncInstanceBatchNorm2d(InstanceBatchNorm2d):
    """[`InstanceBatchNorm2d`] whose batch half is normalised in training over the joined batch of several processes.

    The counterpart of `nn.SyncBatchNorm`, and as there, forward and backward pass communicate once each, the gradients
    of `weight` and `bias` are those of this process's samples, which `DistributedDataParallel` averages, and eval mode
    does not communicate. The processes may have different numbers and sizes of images. `nn.SyncBatchNorm` itself would
    normalise the instance half by the batch too.

    Args:
        num_features (`int`): as in [`InstanceBatchNorm2d`].
        eps (`float`): as in [`InstanceBatchNorm2d`].
        momentum (`float`, *optional*): as in [`InstanceBatchNorm2d`].
        process_group (`torch.distributed.ProcessGroup`, *optional*): the processes that share a batch. Default: all.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        process_group: "dist.ProcessGroup | None" = None,
    ):
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.process_group = process_group

    @classmethod
    def of(
        cls, norm: InstanceBatchNorm2d, process_group: "dist.ProcessGroup | None" = None
    ) -> "SyncInstanceBatchNorm2d":
        """A synchronised norm that shares its parameters and buffers with `norm`."""
        with torch.device("meta"):
            synchronized = cls(norm.num_features, norm.eps, norm.momentum, process_group)
        synchronized.track_running_stats = norm.track_running_stats
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(synchronized, name, getattr(norm, name))
        return synchronized.train(norm.training)

    # The compiler cannot trace the exchange with the other processes.
    @torch.compiler.disable
    def _normalize_by_batch(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        group = self.process_group
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1):
            return super()._normalize_by_batch(x)
        if group is None:
            group = dist.group.WORLD
        return _InstanceBatchNorm.apply(x, self.weight, self.bias, self.num_features // 2, self.eps, group)


_convert_sync_batchnorm = nn.SyncBatchNorm.convert_sync_batchnorm.__func__


@functools.wraps(_convert_sync_batchnorm)
def _convert_sync_instance_batch_norm(cls, module, process_group=None):
    """`nn.SyncBatchNorm.convert_sync_batchnorm`, which keeps the instance half of an [`InstanceBatchNorm2d`]."""
    if isinstance(module, InstanceBatchNorm2d):
        return SyncInstanceBatchNorm2d.of(module, process_group)
    return _convert_sync_batchnorm(cls, module, process_group)


# Torch makes an `nn.SyncBatchNorm` of every subclass of its batch norms and asks no module how to convert it: the
# instance half would silently become batch norm. Modules without an `InstanceBatchNorm2d` are converted as before.
nn.SyncBatchNorm.convert_sync_batchnorm = classmethod(_convert_sync_instance_batch_norm)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each (sample, channel) of x (N, C, H, W): two (N, C) tensors, float32 or wider."""
    mean = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
    # Two passes: E[x^2] - E[x]^2 cancels where the mean is large compared with the standard deviation.
    return mean, (x - mean[:, :, None, None]).square().mean((2, 3))


def _join(instance: Tensor, batch: Tensor) -> Tensor:
    """Join instance norm's statistics (N, C // 2) and batch norm's (C - C // 2,) into (N, C)."""
    return torch.cat((instance, batch.to(instance.dtype).expand(instance.shape[0], -1)), dim=1)


def _statistics(
    x: Tensor, num_instance: int, eps: float, group: "dist.ProcessGroup | None"
) -> tuple[Tensor, Tensor, Tensor, Tensor, int | Tensor]:
    """Statistics of a training step for x (N, C, H, W); those of the batch are joined over the processes of `group`.

    Returns:
        Mean and inverse standard deviation (N, C) to normalise by, the batch's mean and unbiased variance (C,), and
        the number of values that each of these is over.
    """
    mean, var = _moments_by_kernels(x) if _has_kernels(x) else _moments(x)
    batch_mean = mean.mean(0)
    # The law of total variance.
    batch_var = var.mean(0) + (mean - batch_mean).square().mean(0)
    count = x.numel() // x.shape[1]
    if group is not None:
        batch_mean, batch_var, count = _join_processes(batch_mean, batch_var, count, group)
    mean = _join(mean[:, :num_instance], batch_mean[num_instance:])
    var = _join(var[:, :num_instance], batch_var[num_instance:])
    return mean, (var + eps).rsqrt(), batch_mean, batch_var * (count / (count - 1)), count


def _join_processes(
    mean: Tensor, var: Tensor, count: int, group: "dist.ProcessGroup"
) -> tuple[Tensor, Tensor, Tensor]:
    """Join the statistics of all processes.

    Args:
        mean: (C,), of this process.
        var: (C,), biased, of this process.
        count: number of values that each of them is over; 0 for a process without images, whose mean is NaN.
        group: the processes.

    Returns:
        Mean and biased variance (C,) over the values of all processes, and the number of these, a scalar.
    """
    local = torch.cat((mean, var, mean.new_tensor([count])))
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, local, group=group)
    means, variances, counts = torch.stack(parts).split((len(mean), len(var), 1), dim=1)
    means, variances = (torch.where(counts > 0, values, 0) for values in (means, variances))
    share = counts / counts.sum()
    joined = (share * means).sum(0)
    return joined, (share * (variances + (means - joined).square())).sum(0), counts.sum()


def _scale_and_shift(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inv_std: Tensor) -> Tensor:
    """`(x - mean) * inv_std * weight + bias` as one multiply-add, for statistics (N, C) and parameters (C,)."""
    scale = weight * inv_std
    shift = bias - mean * scale
    return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None]).to(x.dtype)


class _InstanceBatchNorm(torch.autograd.Function):
    """Training step of [`InstanceBatchNorm2d`], on one process or several, with its gradient in closed form.

    With xc = x - mean, r the inverse standard deviation, g the gradient of the output and E the mean over the values
    normalised together (the pixels of one sample, or of the batch), dx = weight r (g - E[g] - xc r^2 E[g xc]): again
    a multiply-add, with one scale for g, one for x, and a shift. Autograd through the plain formula would save several
    feature maps; this saves only x.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, num_instance, eps, group):
        mean, inv_std, batch_mean, batch_var, count = _statistics(x, num_instance, eps, group)
        scale_and_shift = _scale_and_shift_by_kernels if _has_kernels(x) else _scale_and_shift
        ctx.save_for_backward(x, weight, mean, inv_std)
        ctx.num_instance, ctx.count, ctx.group = num_instance, count, group
        ctx.mark_non_differentiable(batch_mean, batch_var)
        return scale_and_shift(x, weight, bias, mean, inv_std), batch_mean, batch_var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        x, weight, mean, inv_std = ctx.saved_tensors
        num_pixels = x.shape[2] * x.shape[3]
        by_kernels = _has_kernels(x)
        if by_kernels:
            grad = grad.contiguous(memory_format=_memory_format(x))
            grad_sum, product_sum = _sums_by_kernels(grad, x, mean)
        else:
            grad_sum = grad.sum((2, 3), dtype=mean.dtype)
            product_sum = (grad * (x - mean[:, :, None, None])).sum((2, 3))
        grad_weight = (product_sum * inv_std).sum(0).to(weight.dtype)
        grad_bias = grad_sum.sum(0).to(weight.dtype)

        sums = torch.stack((grad_sum, product_sum))  # (2, N, C)
        batch_sums = sums[:, :, ctx.num_instance :].sum(1)
        if ctx.group is not None:
            dist.all_reduce(batch_sums, group=ctx.group)
        grad_mean, product_mean = (
            _join(each[:, : ctx.num_instance] / num_pixels, batch / ctx.count)
            for each, batch in zip(sums, batch_sums, strict=True)
        )

        scale = weight * inv_std
        x_scale = -scale * inv_std.square() * product_mean
        shift = -scale * grad_mean - x_scale * mean
        combine = _combine_by_sample if by_kernels else _combine
        grad_x = combine(x, grad, *(each[:, :, None, None] for each in (shift, x_scale, scale)))
        return grad_x, grad_weight, grad_bias, None, None, None


def _combine(x: Tensor, grad: Tensor, shift: Tensor, x_scale: Tensor, scale: Tensor) -> Tensor:
    """`shift + x * x_scale + grad * scale` in the dtype of x, for factors (N, C, 1, 1)."""
    return torch.addcmul(shift, x, x_scale).addcmul_(grad, scale).to(x.dtype)


# What follows are the same sums and products by PyTorch's kernels for batch norm on a CPU. They compute in float32
# without a copy of the feature map in that type, which takes most of the time where memory is slow. In NCHW, each
# (sample, channel) is to them a channel of one wide sample; in NHWC, they take one sample at a time.

# Of smaller maps, the calls for each sample cost more than the passes over memory.
_MIN_KERNEL_PIXELS = 196


def _memory_format(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def _has_kernels(x: Tensor) -> bool:
    """Whether the kernels are the faster way for x (N, C, H, W), and it lies in one of their two orders."""
    large = x.device.type == "cpu" and x.shape[2] * x.shape[3] >= _MIN_KERNEL_PIXELS
    return large and x.dtype != torch.float16 and x.is_contiguous(memory_format=_memory_format(x))


def _samples(x: Tensor) -> tuple[Tensor, ...]:
    """Views (1, C', H, W) of x (N, C, H, W), one after the other with all of its (sample, channel) as channels."""
    return (x.view(1, -1, *x.shape[2:]),) if x.is_contiguous() else x.split(1)


def _moments_by_kernels(x: Tensor) -> tuple[Tensor, Tensor]:
    """`_moments`."""
    samples = _samples(x)
    # The kernels compute in the dtype of running statistics, which are of no use here.
    unused = x.new_zeros(samples[0].shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    moments = [torch.batch_norm_update_stats(sample, unused, unused, 0.0) for sample in samples]
    mean, var = (torch.stack(each).view(x.shape[:2]) for each in zip(*moments, strict=True))
    return mean, var


def _scale_and_shift_by_kernels(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inv_std: Tensor) -> Tensor:
    """`_scale_and_shift`."""
    scale = weight * inv_std
    shift = bias - mean * scale
    output = torch.empty_like(x)
    samples = _samples(x)
    zeros, ones = scale.new_zeros(samples[0].shape[1]), scale.new_ones(samples[0].shape[1])
    rows = (each.reshape(len(samples), -1) for each in (scale, shift))
    for sample, target, factor, term in zip(samples, _samples(output), *rows, strict=True):
        # Batch norm in eval mode, of running mean 0 and variance 1.
        unused = scale.new_empty(0), scale.new_empty(0)
        torch.native_batch_norm(sample, factor, term, zeros, ones, False, 0.0, 0.0, out=(target, *unused))
    return output


def _sums_by_kernels(grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (N, C) over the pixels of `grad`, and of `grad * (x - mean)`, for a mean (N, C)."""
    samples = _samples(x)
    ones = mean.new_ones(samples[0].shape[1])
    sums = []
    for sample, grad_sample, row in zip(samples, _samples(grad), mean.reshape(len(samples), -1), strict=True):
        # The gradients of weight and bias of batch norm, whose inverse standard deviation is 1 here.
        wanted = [False, True, True]
        _, product, total = torch.ops.aten.native_batch_norm_backward(
            grad_sample, sample, ones, row, ones, row, ones, True, 0.0, wanted
        )
        sums.append((total, product))
    grad_sum, product_sum = (torch.stack(each).view(mean.shape) for each in zip(*sums, strict=True))
    return grad_sum, product_sum


def _combine_by_sample(x: Tensor, grad: Tensor, shift: Tensor, x_scale: Tensor, scale: Tensor) -> Tensor:
    """`_combine`, one sample at a time, whose float32 values stay in the cache."""
    output = torch.empty_like(x)
    for target, sample, grad_sample, *factors in zip(
        *(each.split(1) for each in (output, x, grad, shift, x_scale, scale)), strict=True
    ):
        term, x_factor, factor = factors
        if x.dtype == term.dtype:
            torch.addcmul(term, sample, x_factor, out=target).addcmul_(grad_sample, factor)
        else:
            target.copy_(torch.addcmul(term, sample, x_factor).addcmul_(grad_sample, factor))
    return output
