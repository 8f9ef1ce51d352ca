"""When to stop: no progress on validation, or a loss that only goes up and down."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stopper:
    """Watches one validation value an epoch (lower is better) and names a reason to stop.

    patience: epochs without a gain of more than `delta` over the best; 0 turns it off.
    Oscillation: over the last `window` values the loss stays within `threshold`, turns up and down
    (the sign of its change flips in at least half of the places where it can), and its best is no
    gain of more than `delta` over what was reached before the window; window 0 turns it off. Only
    values since the run has settled make a window: a loss that bounces under a high learning rate
    falls again when the rate does. Patience counts epochs in which the rate is low: after a warm restart the loss
    is worse for a while, which is no overfitting.
    """

    patience: int = 0
    delta: float = 0.0
    window: int = 0
    threshold: float = 0.0
    best: float = math.inf
    waited: int = 0
    values: list[float] = field(default_factory=list)
    settled: int = 0  # values in a row, up to the last one, of a run that had settled

    def observe(self, value: float, settled: bool = True, low: bool = True) -> str | None:
        """Take the next value; the reason to stop, or None.

        `settled`: the learning rate will not fall much further. `low`: it is not near a peak of its course.
        """
        self.settled = self.settled + 1 if settled else 0
        self.values.append(value)
        if value < self.best - self.delta:
            self.best, self.waited = value, 0
        else:
            self.waited = self.waited + 1 if low else 0
        if self.patience and self.waited >= self.patience:
            return f"early stopping: no gain above {self.delta:g} on validation for {self.waited} epochs"
        if self._oscillates():
            return (
                f"oscillation: over {self.window} epochs the validation loss went up and down "
                f"within {self.threshold:g} without progress"
            )
        return None

    def _oscillates(self) -> bool:
        if self.window < 3 or self.settled < self.window or len(self.values) == self.window:
            return False
        recent, before = self.values[-self.window :], self.values[: -self.window]
        changes = [b - a for a, b in itertools.pairwise(recent)]
        flips = sum(a * b < 0 for a, b in itertools.pairwise(changes))
        within = max(recent) - min(recent) < self.threshold
        progress = min(before) - min(recent) > self.delta
        return within and not progress and 2 * flips >= len(changes) - 1

    @property
    def rules(self) -> list[float]:
        return [self.patience, self.delta, self.window, self.threshold]

    def state(self) -> dict[str, Any]:
        state = {"best": self.best, "waited": self.waited, "values": list(self.values), "rules": self.rules}
        return {**state, "settled": self.settled}

    def load(self, state: dict[str, Any]) -> bool:
        """Restore what `state` gave; under other rules the waiting begins anew. Returns whether they are the same."""
        same = state["rules"] == self.rules
        self.best, self.values, self.settled = state["best"], list(state["values"]), state.get("settled", 0)
        self.waited = state["waited"] if same else 0
        return same
