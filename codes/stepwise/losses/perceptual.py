"""Perceptual losses: distances between images that weigh edges and texture, not only pixels."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepwise.foundation import weight_files
from stepwise.foundation.errors import UserError

VGG_LAYERS = (3, 8, 15, 22)  # relu1_2, relu2_2, relu3_3, relu4_3 of torchvision's vgg16
REMEDIES = (
    "Give a downloaded file with --perceptual-weights FILE, use --perceptual-net pyramid (needs none),\n"
    "or switch the loss off with --no-perceptual."
)


class LaplacianPyramid(nn.Module):
    """Mean absolute difference of Laplacian pyramids: weights 1, 2, 4, ... from the finest level, 1 for what is left.

    x, y: [B, 3, S, S] in [-1, 1] -> scalar, in float32 under any autocast. After Bojanowski et al. 2018 (GLO); the
    pyramid is that of Burt and Adelson 1983 (equations 1 and 2).
    """

    def __init__(self, levels: int = 4):
        super().__init__()
        self.levels = levels
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("kernel", (row[:, None] * row).expand(3, 1, 5, 5).contiguous(), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            difference = x.float() - y.float()  # the pyramid is linear: one for the difference is enough
            total = difference.new_zeros(())
            for level in range(self.levels):
                if min(difference.shape[-2:]) < 4:
                    break
                coarse = self._reduced(difference)
                fine = self._expanded(coarse)[:, :, : difference.shape[2], : difference.shape[3]]
                total = total + 2**level * (difference - fine).abs().mean()
                difference = coarse
            return total + difference.abs().mean()

    def _reduced(self, x: Tensor) -> Tensor:
        """Blurred, and every other row and column of it, from the first on."""
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.kernel, stride=2, groups=3)

    def _expanded(self, coarse: Tensor) -> Tensor:
        """Zeros put between rows and columns, and blurred: [B, 3, H, W] -> a little more than [B, 3, 2H, 2W]."""
        bordered = F.pad(coarse, (1, 1, 1, 1), mode="replicate")
        return F.conv_transpose2d(bordered, 4 * self.kernel, stride=2, groups=3)[:, :, 4:, 4:]


class VGGPerceptual(nn.Module):
    """Squared distance of unit-length VGG16 features, averaged over positions, summed over layers.

    The distance of Zhang et al. 2018 (LPIPS, equation 1) with equal weights. x, y: [B, 3, S, S] in
    [-1, 1] -> scalar; the gradient flows into x.
    """

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        from torchvision.models import vgg16

        net = vgg16(weights=None, init_weights=False)
        net.load_state_dict(state)
        self.features = net.features[: VGG_LAYERS[-1] + 1].eval().requires_grad_(False)
        for module in self.features:
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._layers(y)
        pairs = zip(self._layers(x), wanted, strict=True)
        return torch.stack([(a - b).square().sum(dim=1).mean() for a, b in pairs]).sum()

    def _layers(self, x: Tensor) -> list[Tensor]:
        x = ((x + 1) / 2 - self.mean) / self.std
        found = []
        for index, module in enumerate(self.features):
            x = module(x)
            if index in VGG_LAYERS:
                found.append(F.normalize(x.float(), dim=1))
        return found


def build(kind: str, weights_file: Path | None, cpu: bool = False) -> tuple[nn.Module, str, str]:
    """The perceptual loss for --perceptual-net `kind`: (network, its kind, one line for the user).

    On a `cpu` auto takes vgg16 only from the file given: its 6.8 GFLOP for an image of 64 x 64 px are nearly twice
    those of the autoencoder's step. Raises UserError where vgg16 is asked for and its weights cannot be had.
    """
    if kind == "auto" and cpu and weights_file is None:
        return _pyramid(" (the default on a CPU, where vgg16 is more work than all the rest)")
    if kind == "pyramid":
        if weights_file is not None:
            raise UserError(
                "--perceptual-weights belongs to vgg16, not to --perceptual-net pyramid.\nDrop one of them."
            )
        return _pyramid()
    try:
        state, source = _vgg_weights(weights_file)
        return VGGPerceptual(state), "vgg16", f"Perceptual loss: vgg16, weights from {source}."
    except UserError as error:
        if kind == "vgg16" or weights_file is not None:
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        return _pyramid(f" ({reason})")


def _pyramid(reason: str = "") -> tuple[nn.Module, str, str]:
    return LaplacianPyramid(), "pyramid", f"Perceptual loss: Laplacian pyramid{reason}."


def _vgg_weights(file: Path | None) -> tuple[dict[str, Tensor], str]:
    from torchvision.models import VGG16_Weights

    if file is not None:
        return _read_weights(file), str(file)
    found, source = weight_files.find(VGG16_Weights.IMAGENET1K_V1.url, "vgg16", REMEDIES)
    return _read_weights(found), source


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        from torchvision.models import vgg16

        with torch.device("meta"):
            wanted = {name: tensor.shape for name, tensor in vgg16(weights=None).state_dict().items()}
        if {name: tensor.shape for name, tensor in state.items()} != wanted:
            raise ValueError("its tensors are not those of torchvision's vgg16")
    except FileNotFoundError:
        raise UserError(f"vgg16 weights: {file} does not exist.\n{REMEDIES}")
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]  # an empty file: EOFError without words
        raise UserError(f"vgg16 weights: {file} cannot be used ({reason}).\n{REMEDIES}")
    return state
