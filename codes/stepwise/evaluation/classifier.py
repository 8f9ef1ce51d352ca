"""A small CNN that names the class of an image: trained on generated images, judged on real ones (CAS)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepwise.foundation.devices import Device
from stepwise.foundation.images import to_tensor
from stepwise.foundation.seeds import numpy_rng, seed_weights, torch_rng

WIDTHS = (32, 64, 128, 256)
BATCH = 32
STEPS = 500
PEAK_LR = 2e-3
MAX_SHIFT = 1 / 12


class SmallCNN(nn.Module):
    """Four levels of convolution, batch norm, ReLU and pooling, then the mean over positions.

    x: [B, 3, S, S] in [-1, 1], S at least 16 -> logits [B, num_classes].
    """

    def __init__(self, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        self.levels = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(WIDTHS[-1], num_classes))

    def features(self, x: Tensor) -> Tensor:
        """x: [B, 3, S, S] -> [B, 256]."""
        return self.levels(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def train_classifier(
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    seed: int,
    device: Device,
    *,
    steps: int = STEPS,
    on_step: Callable[[], None] = lambda: None,
) -> SmallCNN:
    """Train on uint8 [N, S, S, 3] and integer labels [N]; classes are drawn equally often.

    The number of steps does not depend on N, so that small and large sets get the same training.
    `on_step` is called after each and may raise to stop.
    """
    seed_weights(seed)
    memory = torch.channels_last if device.channels_last else torch.contiguous_format
    net = SmallCNN(num_classes).to(device.device, memory_format=memory).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    x, label = to_tensor(images).to(device.device), torch.from_numpy(labels).long().to(device.device)
    members = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    for step in range(steps):
        rng = numpy_rng(seed, "cas-batch", step)
        chosen = torch.from_numpy(np.array([rng.choice(members[rng.integers(len(members))]) for _ in range(BATCH)]))
        batch = _vary(x[chosen.to(x.device)], torch_rng(seed, "cas-augment", step))
        with device.without_fp16().autocast():  # no loss is scaled here
            loss = F.cross_entropy(net(batch.contiguous(memory_format=memory)).float(), label[chosen.to(x.device)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        on_step()
    return net.eval().requires_grad_(False)


def predict(net: SmallCNN, images: np.ndarray, device: Device) -> np.ndarray:
    """The class of each image, uint8 [N, S, S, 3] -> [N]."""
    return _map(lambda x: net(x).argmax(dim=1), images, device)


def features(net: SmallCNN, images: np.ndarray, device: Device) -> np.ndarray:
    """What the last level sees in each image, uint8 [N, S, S, 3] -> float32 [N, 256]."""
    return _map(lambda x: net.features(x).float(), images, device)


def _map(task: Callable[[Tensor], Tensor], images: np.ndarray, device: Device) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([task(part.to(device.device)).cpu() for part in to_tensor(images).split(256)]).numpy()


def _vary(x: Tensor, rng: torch.Generator) -> Tensor:
    """Mirrored half of the time, shifted by up to 8 % of the side, a touch of brightness and contrast. [B, 3, S, S]"""
    count, _, _, side = x.shape
    flip, bright, contrast, shift_y, shift_x = torch.rand(5, count, generator=rng).to(x.device)
    x = torch.where((flip < 0.5)[:, None, None, None], x, x.flip(3))
    x = x * (0.8 + 0.4 * contrast)[:, None, None, None] + (0.4 * bright - 0.2)[:, None, None, None]
    pad = max(1, round(MAX_SHIFT * side))
    padded = F.pad(x, (pad, pad, pad, pad), mode="reflect")
    rows = (shift_y * (2 * pad + 1)).long()[:, None] + torch.arange(side, device=x.device)  # [B, S]
    columns = (shift_x * (2 * pad + 1)).long()[:, None] + torch.arange(side, device=x.device)
    picture = torch.arange(count, device=x.device)[:, None, None, None]
    channel = torch.arange(3, device=x.device)[None, :, None, None]
    return padded[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]
