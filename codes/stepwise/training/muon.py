"""Muon: steps of equal length in all directions of a weight matrix (Jordan et al. 2024)."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose repetition takes singular values near 1 (Jordan 2024)
REPEATS = 5
RMS = 0.2  # of an update's entries, as AdamW's tend to be (Liu et al. 2025, eq. 4): learning rates carry over
SMALLEST_SIDE = 16  # of a matrix: below there are too few directions for this to matter


class Muon(torch.optim.Optimizer):
    """Gradient momentum, orthogonalised: of U S V^T the update is U V^T, whatever the singular values S are.

    For weights of convolutions [out, in, k, k], which count as matrices [out, in k k], and of linear layers
    [out, in]. As with torch's fused optimizers, a step leaves weights and momentum as they are where the attribute
    `found_inf`, a tensor, is above 0.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        bad = getattr(self, "found_inf", None)
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    matrix = self._direction(weight, group["momentum"], bad).flatten(1)
                    alike[tuple(matrix.shape)].append((weight, matrix))
            for shape, pairs in alike.items():
                length = group["lr"] * RMS * max(shape) ** 0.5
                updates = orthogonalised(torch.stack([matrix for _, matrix in pairs]))
                for (weight, _), update in zip(pairs, updates if bad is None else updates * (bad == 0), strict=True):
                    weight.sub_(update.reshape(weight.shape), alpha=length)

    def _direction(self, weight: nn.Parameter, decay: float, bad: Tensor | None) -> Tensor:
        """Nesterov's momentum of the gradient; a bad gradient counts as the momentum itself, which it leaves alone."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"]
        grad = weight.grad if bad is None else torch.where(bad > 0, momentum, weight.grad)
        momentum.lerp_(grad, 1 - decay)
        return grad.lerp(momentum, decay)


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values of about 0.7 to 1.2. [N, A, B] -> [N, A, B]."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = x.shape[2] >= 2 * x.shape[1]
    x = by_squares(x) if x.device.type == "cpu" and wide else by_products(x)
    return x.mT if tall else x


def by_products(x: Tensor) -> Tensor:
    """REPEATS times x <- (a + b x x^T + c (x x^T)^2) x, for x [N, A, B] of norms below 1, A <= B."""
    a, b, c = COEFFICIENTS
    for _ in range(REPEATS):
        square = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def by_squares(x: Tensor) -> Tensor:
    """The same, following x x^T [N, A, A] instead of x: a third of the time where B is nine times A.

    In full float32 only, as an error of x x^T grows twelvefold a repeat; on a GPU TF32 would be too coarse.
    """
    a, b, c = COEFFICIENTS
    square, part, factor = torch.bmm(x, x.mT), None, None
    for _ in range(REPEATS):
        if part is not None:
            square = torch.bmm(torch.bmm(part, square), part)
        part = torch.baddbmm(square, square, square, beta=b, alpha=c)
        part.diagonal(dim1=1, dim2=2).add_(a)
        factor = part if factor is None else torch.bmm(part, factor)
    return torch.bmm(factor, x)


def matrices_of(net: nn.Module) -> list[nn.Parameter]:
    """Weights of the convolutions and linear layers of `net` that Muon is for."""
    layers = (layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    weights = [layer.weight for layer in layers]
    return [weight for weight in weights if min(len(weight), weight[0].numel()) >= SMALLEST_SIDE]
