"""Group normalisation, with a backward pass of its own where torch's is slow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

AT_ONCE = 2**20  # numbers whose gradient is computed together: their float32 copies then stay in the cache
FEW_CHANNELS = 16  # channels a group below which torch's bfloat16 kernel for channels-last memory is not vectorised


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm (Wu and He 2018), x: [B, C, H, W] -> the same.

    On a CPU in bfloat16 with few channels a group, the gradient is computed here, in float32: with torch's
    kernel there and back take up to twice as long (benchmarks/speed.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        few = x.shape[1] // self.num_groups < FEW_CHANNELS
        if few and x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.compiler.is_compiling():
            return _FewChannels.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return super().forward(x)


class _FewChannels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels, height, width = x.shape
        y, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, height * width, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        images = max(1, AT_ONCE // x[0].numel())
        dx = torch.empty_like(x)
        weight = weight.float()
        dweight, dbias = torch.zeros_like(weight), torch.zeros_like(weight)
        for first in range(0, len(x), images):
            part = slice(first, first + images)
            dx[part], of_weight, of_bias = _gradients(dy[part], x[part], weight, mean[part], rstd[part])
            dweight += of_weight
            dbias += of_bias
        return dx, dweight, dbias, None, None


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per group of M numbers, dx = rstd (w dy - mean(w dy) - x_norm mean(w dy x_norm)), in float32.

    dy, x: [B, C, H, W]; weight: [C]; mean, rstd: [B, G] -> dx [B, C, H, W], and [C] for the weight and the bias.
    """
    batch, channels, height, width = x.shape
    per_group = channels // mean.shape[1]

    def rows(values: Tensor) -> Tensor:  # [B, C, H, W] -> [B, H*W, C], in place for channels-last memory
        return values.permute(0, 2, 3, 1).reshape(batch, height * width, channels).float()

    def of_channels(groups: Tensor) -> Tensor:  # [B, G] -> [B, C]
        return groups.float().repeat_interleave(per_group, dim=1)

    def mean_of_group(sums: Tensor) -> Tensor:  # sums over positions, [B, C] -> means over the group, [B, C]
        total = sums.unflatten(1, (-1, per_group)).sum(dim=2)
        return of_channels(total) / (per_group * height * width)

    x_rows, dy_rows = rows(x), rows(dy)
    mean, rstd = of_channels(mean), of_channels(rstd)
    dy_sum = dy_rows.sum(dim=1)
    dy_x_norm_sum = ((dy_rows * x_rows).sum(dim=1) - dy_sum * mean) * rstd
    first, second = mean_of_group(weight * dy_sum), mean_of_group(weight * dy_x_norm_sum)
    of_x = -rstd.square() * second
    constant = -rstd * first - of_x * mean
    dx = torch.addcmul(constant[:, None], dy_rows, (rstd * weight)[:, None]).addcmul_(x_rows, of_x[:, None])
    dx = dx.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return dx, dy_x_norm_sum.sum(dim=0), dy_sum.sum(dim=0)
