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
        kept = {"began": None, "weights": None} if state is None else state.get("guide")
        self.began: float | None = kept and kept["began"]
        self.weights: dict[str, Tensor] | None = kept and kept["weights"]
        self.waits_for = at if at and kept and self.weights is None else None

    def observe(self, progress: float, learner: Learner) -> None:
        """To be called after each step with the share of the run that is done.

        What of it was done at the first step is not training: with a limited time, the images were encoded.
        """
        if self.waits_for is None:
            return
        if self.began is None:
            self.began = progress
        if progress - self.began >= self.waits_for * (1 - self.began):
            self.weights, self.waits_for = learner.best_weights(), None

    def state(self) -> dict[str, Any]:
        """For a checkpoint; its weights are None as long as there are none."""
        return {"began": self.began, "weights": self.weights}
