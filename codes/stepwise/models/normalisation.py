"""Group normalisation, with passes of its own where torch's are slow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

AT_ONCE = 2**20  # numbers that are worked on together: their float32 copies then stay in the cache
FEW_CHANNELS = 16  # channels a group below which torch's bfloat16 kernel for channels-last memory is not vectorised
SMALL_MAP = 1024  # positions below which that holds for its forward pass too


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm (Wu and He 2018), x: [B, C, H, W] -> the same.

    With scale and shift, [B, C] each, the result times 1 + scale, plus shift: adaptive group normalisation (Dhariwal
    and Nichol 2021).

    On a CPU in bfloat16 with few channels a group, the gradient is computed here, in float32, and for small H x W
    the result as well: with torch's kernels there and back take up to three times as long (benchmarks/speed.md).
    Without a gradient scale and shift then become part of the same pass.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        own = (self.weight, self.bias, self.num_groups, self.eps)
        few = x.shape[1] // self.num_groups < FEW_CHANNELS
        if few and x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.compiler.is_compiling():
            if _is_small(x) and not torch.is_grad_enabled():
                return _in_one_pass(x, *own, scale, shift)
            y = _FewChannels.apply(x, *own)
        else:
            y = super().forward(x)
        return y if scale is None else y * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


class _FewChannels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels, height, width = x.shape
        if _is_small(x):
            y, (mean, rstd) = torch.empty_like(x), torch.empty(2, batch, groups)
            weight, bias = weight.float(), bias.float()
            for part in _parts(x):
                y[part], mean[part], rstd[part] = _normalised(x[part], weight, bias, groups, eps)
        else:
            y, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, height * width, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        dx = torch.empty_like(x)
        weight = weight.float()
        dweight, dbias = torch.zeros_like(weight), torch.zeros_like(weight)
        for part in _parts(x):
            dx[part], of_weight, of_bias = _gradients(dy[part], x[part], weight, mean[part], rstd[part])
            dweight += of_weight
            dbias += of_bias
        return dx, dweight, dbias, None, None


def _is_small(x: Tensor) -> bool:
    return x.shape[2] * x.shape[3] < SMALL_MAP


def _in_one_pass(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, scale: Tensor | None, shift: Tensor | None
) -> Tensor:
    """What GroupNorm gives, with one rounding at the end."""
    weight, bias = weight.float().expand(len(x), -1), bias.float().expand(len(x), -1)
    if scale is not None:
        factor = 1 + scale.float()
        weight, bias = weight * factor, torch.addcmul(shift.float(), bias, factor)
    done = [_normalised(x[part], weight[part], bias[part], groups, eps)[0].to(x.dtype) for part in _parts(x)]
    return done[0] if len(done) == 1 else torch.cat(done)


def _parts(x: Tensor) -> list[slice]:
    """So many images of x: [B, C, H, W] after another as are worked on at once."""
    images = max(1, AT_ONCE // x[0].numel())
    return [slice(first, first + images) for first in range(0, len(x), images)]


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) rstd weight + bias in float32, and mean and rstd: [B, C, H, W], [B, G], [B, G].

    weight, bias: [C] or [B, C].
    """
    rows = _rows(x)
    mean = _mean_of_group(rows.sum(dim=1), groups, rows.shape[1])
    rows -= _of_channels(mean, rows.shape[2])[:, None]
    rstd = torch.rsqrt(_mean_of_group((rows * rows).sum(dim=1), groups, rows.shape[1]) + eps)
    y = torch.addcmul(bias[..., None, :], rows, (_of_channels(rstd, rows.shape[2]) * weight)[:, None])
    return _images(y, x), mean, rstd


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per group of M numbers, dx = rstd (w dy - mean(w dy) - x_norm mean(w dy x_norm)), in float32.

    dy, x: [B, C, H, W]; weight: [C]; mean, rstd: [B, G] -> dx [B, C, H, W], and [C] for the weight and the bias.
    """
    groups, channels = mean.shape[1], x.shape[1]
    x_rows, dy_rows = _rows(x), _rows(dy)
    mean, rstd = _of_channels(mean.float(), channels), _of_channels(rstd.float(), channels)

    def mean_of_group(sums: Tensor) -> Tensor:  # [B, C] -> [B, C]
        return _of_channels(_mean_of_group(sums, groups, x_rows.shape[1]), channels)

    dy_sum = dy_rows.sum(dim=1)
    dy_x_norm_sum = ((dy_rows * x_rows).sum(dim=1) - dy_sum * mean) * rstd
    first, second = mean_of_group(weight * dy_sum), mean_of_group(weight * dy_x_norm_sum)
    of_x = -rstd.square() * second
    constant = -rstd * first - of_x * mean
    dx = torch.addcmul(constant[:, None], dy_rows, (rstd * weight)[:, None]).addcmul_(x_rows, of_x[:, None])
    return _images(dx, x), dy_x_norm_sum.sum(dim=0), dy_sum.sum(dim=0)


def _rows(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H*W, C], a float32 copy; for channels-last memory the only one."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).float()


def _images(rows: Tensor, like: Tensor) -> Tensor:
    """[B, H*W, C] -> [B, C, H, W] as `like` has it."""
    return rows.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def _mean_of_group(sums: Tensor, groups: int, positions: int) -> Tensor:
    """Sums over the positions, [B, C] -> means over the group, [B, G]."""
    return sums.unflatten(1, (groups, -1)).mean(dim=2) / positions


def _of_channels(groups: Tensor, channels: int) -> Tensor:
    """[B, G] -> [B, C]."""
    return groups.repeat_interleave(channels // groups.shape[1], dim=1)
