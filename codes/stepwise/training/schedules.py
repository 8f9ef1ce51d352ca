"""Learning rates and ramps as functions of progress (0 at the start, 1 at the end of the run).

Being functions, not counters, they stretch to --max-minutes and resume without any state.
"""

from __future__ import annotations

import math

WARMUP_STEPS = 50
SETTLED = 0.1  # of the peak


def learning_rate(kind: str, progress: float, peak: float, lowest: float) -> float:
    """The learning rate at `progress` in [0, 1].

    none: `peak` throughout. cosine: down to `lowest` in one half wave (Loshchilov and Hutter 2017).
    cosine_warm_restarts: three such waves, each twice as long as the one before, so that the last
    one ends with the run. plateau starts from `peak` and is driven by `Plateau`.
    """
    if kind in ("none", "plateau"):
        return peak
    phase = min(max(progress, 0.0), 1.0)
    if kind == "cosine_warm_restarts":
        for start, length in ((0, 1), (1, 2), (3, 4)):
            if phase * 7 <= start + length:
                phase = (phase * 7 - start) / length
                break
    return lowest + (peak - lowest) * 0.5 * (1 + math.cos(math.pi * phase))


def has_settled(kind: str, progress: float) -> bool:
    """Whether progress has brought the learning rate down for good, to SETTLED of its peak (or never will: `none`).

    Never true of `plateau`, which validation lowers, not progress: see `Plateau.has_settled`.
    """
    if kind == "none":
        return True
    return progress > 0.5 and learning_rate(kind, progress, 1.0, 0.0) <= SETTLED  # past 0.5 all are in the last wave


def is_low(kind: str, progress: float) -> bool:
    """Whether the learning rate is in the lower half of its course, or has none."""
    return kind in ("none", "plateau") or learning_rate(kind, progress, 1.0, 0.0) <= 0.5


def warm_up(step: int) -> float:
    """A factor that grows linearly to 1 over the first WARMUP_STEPS steps."""
    return min(1.0, (step + 1) / WARMUP_STEPS)


def ramp(progress: float, end: float) -> float:
    """0 at the start, 1 from progress `end` on, linear in between."""
    return 1.0 if end <= 0 else min(1.0, progress / end)


class Plateau:
    """Halve the learning rate after `patience` validations without a better value."""

    def __init__(self, patience: int = 10, factor: float = 0.5):
        self.patience, self.factor = patience, factor
        self.best, self.waited, self.scale = math.inf, 0, 1.0

    @property
    def has_settled(self) -> bool:
        """Whether the rate has been lowered at all: before that, a loss that stands still may only need it."""
        return self.scale < 1

    def observe(self, value: float) -> None:
        if value < self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.factor, 0

    def state(self) -> list[float]:
        return [self.best, self.waited, self.scale]

    def load(self, state: list[float]) -> None:
        self.best, self.waited, self.scale = state
