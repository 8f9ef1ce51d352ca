"""Convolutions for sampling whose weights lie as oneDNN wants them: otherwise it lays them out anew in each call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pack(layer: nn.Conv2d) -> None:
    """Have `layer`, on a CPU and no longer trained, keep its weights packed from its first input on.

    The results are the same to the bit. Its parameters stay as they are. Where that cannot be done, the layer
    works as it did.
    """
    if can_pack(layer.weight.dtype) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        layer._conv_forward = _Packed(layer)  # what nn.Conv2d.forward calls


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this processor and build of torch have what torch.compile uses for frozen weights on a CPU."""
    own = torch.ops.mkldnn
    operators = ("_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported")
    there = torch.backends.mkldnn.is_available() and all(hasattr(own, name) for name in operators)
    return there and (dtype == torch.float32 or (dtype == torch.bfloat16 and own._is_mkldnn_bf16_supported()))


class _Packed:
    def __init__(self, layer: nn.Conv2d):
        self.way = (layer.padding, layer.stride, layer.dilation, layer.groups)
        self.weight: Tensor | None = None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.to(weight.dtype).contiguous(memory_format=torch.channels_last)
        # compiling packs by itself, and one image in float32 torch may compute without oneDNN, in another order
        if torch.compiler.is_compiling() or (len(x) == 1 and weight.dtype == torch.float32):
            padding, stride, dilation, groups = self.way
            return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        if self.weight is None:
            self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.way, list(x.shape))
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, bias, *self.way, "none", [], "")
