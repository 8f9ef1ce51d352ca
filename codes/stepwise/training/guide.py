"""The weak guide of autoguidance: the network that is trained, as it was early in its training."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stepwise.training.learner import Learner


class Guide:
    """Keeps the weights to sample with as they are when the share `at` of the training is done.

    A worse network of the same kind makes the same mistakes, only larger: away from it lies what both want to
    draw (Karras et al. 2024, autoguidance). With `at` 0, and where a run of an earlier version goes on, none is kept.
    """

    def __init__(self, at: float, state: dict[str, Any] | None):
        if at and state is not None and "guide" not in state:
            print("Note: this run was started by a version without guides, and none is kept for it.")
        kept = {"weights": None} if state is None else state.get("guide")
        self.is_kept = kept is not None
        self.weights: dict[str, Tensor] | None = kept and kept["weights"]
        self.waits_for = at if at and self.is_kept and self.weights is None else None

    def observe(self, progress: float, learner: Learner) -> None:
        """To be called after each step with the share of the training that is done."""
        if self.waits_for is not None and progress >= self.waits_for:
            self.weights, self.waits_for = learner.best_weights(), None

    def state(self) -> dict[str, Any] | None:
        """For a checkpoint; its weights are None as long as there are none. None where none will ever be kept."""
        return {"weights": self.weights} if self.is_kept else None
