"""What 3B watches while it trains: validation on a fixed grid of (t, eps), previews, curves."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from stepwise.diffusion.guidance import GUIDANCE, INTERVAL
from stepwise.diffusion.objective import denoising_loss, predictor
from stepwise.diffusion.samplers import dpmpp
from stepwise.diffusion.schedule import Schedule
from stepwise.foundation.images import save_grid, to_uint8
from stepwise.foundation.paths import make_folder
from stepwise.foundation.runs import RunFolder
from stepwise.foundation.seeds import noise_like, numpy_rng
from stepwise.training.cli import stop_signal
from stepwise.training.encoding import EncodedFolder
from stepwise.training.learner import Learner
from stepwise.training.plots import curves
from stepwise.training.pretrained import FrozenVAE

TIMES_AN_IMAGE = 2
PREVIEW_STEPS = 12
PREVIEW_IMAGES = 16
PREVIEW_CLASSES = 16  # at most: previews are drawn in one batch


class DenoiserMonitor:
    """Validates the EMA weights on the held-back images and draws samples."""

    def __init__(
        self,
        args: argparse.Namespace,
        folder: RunFolder,
        learner: Learner,
        schedule: Schedule,
        vae: FrozenVAE,
        data: EncodedFolder,
    ):
        self.args, self.folder, self.learner, self.schedule = args, folder, learner, schedule
        self.vae, self.statistics, self.num_classes = vae, data.statistics, len(data.classes)
        self.latent_shape = tuple(data.val_x0.shape[1:])
        self.x0 = data.val_x0.repeat_interleave(TIMES_AN_IMAGE, dim=0)
        self.label = None if data.val_label is None else data.val_label.repeat_interleave(TIMES_AN_IMAGE)
        rng = numpy_rng(args.seed, "val-t")
        part, place = (torch.from_numpy(draw(len(self.x0))) for draw in (rng.permutation, rng.random))
        self.t = schedule.spread(part, place).to(self.x0.device)
        self.eps = noise_like(tuple(self.x0.shape), args.seed, "val-eps").to(self.x0.device)
        make_folder(folder.path / "samples")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The training loss of the EMA weights on held-back images, at the same (t, eps) every time."""
        net, device = self.learner.best_net, self.learner.device
        parts = []
        for rows in torch.arange(len(self.x0)).split(4 * self.args.batch_size):
            stop_signal.check()
            label = None if self.label is None else self.label[rows]
            with device.autocast():
                parts.append(
                    denoising_loss(
                        net,
                        self.schedule,
                        self.x0[rows],
                        self.eps[rows],
                        self.t[rows],
                        label,
                        prediction=self.args.prediction,
                        min_snr_gamma=self.args.min_snr_gamma,
                    )
                )
        return {"val_loss": float(torch.cat(parts).mean())}

    @torch.no_grad()
    def preview(self, epoch: int, rows: list[dict[str, Any]]) -> None:
        """samples/epoch_*.png (a row for each of some classes, where there are any) and loss_history.png."""
        columns = max(2, PREVIEW_IMAGES // self.num_classes) if self.num_classes else 4
        label = self._preview_labels(columns)
        shape = (len(label) if label is not None else PREVIEW_IMAGES, *self.latent_shape)
        x = noise_like(shape, self.args.seed, "preview").to(self.x0.device)
        predict = predictor(
            self.learner.best_net,
            self.schedule,
            self.args.prediction,
            label,
            self.num_classes,
            GUIDANCE if self.args.label_dropout else 1.0,
            INTERVAL,
        )

        def checked(xt: Tensor, t: int) -> tuple[Tensor, Tensor]:
            stop_signal.check()
            with self.learner.device.autocast():
                return predict(xt, t)

        z = dpmpp(checked, x, self.schedule, min(PREVIEW_STEPS, self.schedule.timesteps), noise=None)
        images = to_uint8(torch.cat([self.vae.decode(part) for part in self.vae.parts(self.statistics.restore(z))]))
        save_grid(self.folder.path / "samples" / f"epoch_{epoch:04d}.png", images, columns)
        curves(
            self.folder.path / "loss_history.png",
            rows,
            {"loss (log)": ["loss", "val_loss"], "learning rate": ["lr"]},
        )

    def _preview_labels(self, columns: int) -> Tensor | None:
        if not self.num_classes:
            return None
        count = min(self.num_classes, PREVIEW_CLASSES)
        shown = torch.linspace(0, self.num_classes - 1, count, device=self.x0.device).round().long()
        return shown.repeat_interleave(columns)
