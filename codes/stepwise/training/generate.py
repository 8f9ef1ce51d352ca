"""Images out of a trained pair of autoencoder and denoiser, each from noise of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwise.data.folders import CAPTION_START, CAPTIONS
from stepwise.diffusion import samplers
from stepwise.diffusion.guidance import GUIDANCE, INTERVAL
from stepwise.diffusion.objective import predictor
from stepwise.foundation.errors import WrongFlag
from stepwise.foundation.images import save_png, to_uint8
from stepwise.foundation.paths import write_atomically
from stepwise.foundation.seeds import noise_like
from stepwise.training import advice
from stepwise.training.cli import stop_signal
from stepwise.training.pretrained import FrozenVAE, TrainedDenoiser


@dataclass(frozen=True)
class SamplerOptions:
    """kind: ddpm, ddim or dpmpp; eta is ddim's; guidance 1 is none and acts within `interval` of sigma only.

    `by`: label (classifier-free guidance) or guide (autoguidance).
    """

    kind: str
    steps: int
    eta: float
    guidance: float
    interval: tuple[float, float] = (0.0, math.inf)
    by: str = "label"


def guides(model: TrainedDenoiser) -> dict[str, bool]:
    """What could guide the samples of `model`, the better first: whether it can."""
    return {"guide": model.guide is not None, "label": bool(model.classes) and model.label_dropout > 0}


def choose_options(
    model: TrainedDenoiser,
    kind: str,
    steps: int | None,
    eta: float,
    guidance: float | None,
    interval: Sequence[float] | None = None,
    by: str | None = None,
) -> SamplerOptions:
    """The options asked for, None replaced by what suits the model: guidance by default where there are classes.

    Raises WrongFlag for guidance that the model cannot give, and for more steps than it was trained on.
    """
    able = guides(model)
    if by is not None and not able[by]:
        needs = {
            "guide": "--guide-at above 0, and must be at its best after that share of the training",
            "label": "--class-conditional and --label-dropout above 0",
        }
        raise WrongFlag(f"--guidance-by {by}: this model cannot do that.\nIt has to be trained with {needs[by]}.")
    if not any(able.values()) and (guidance not in (None, 1) or interval is not None):
        raise WrongFlag(
            "--guidance needs a model trained with --guide-at above 0, or with --class-conditional and\n"
            "--label-dropout above 0. Leave the flag out, or train 3B that way."
        )
    wanted = by is not None or interval is not None or bool(model.classes)  # without classes: only if asked for
    less = guidance is not None and guidance < 1  # of the label: 0 draws without it
    by = by or ("guide" if able["guide"] and not (less and able["label"]) else "label")
    strength = guidance if guidance is not None else GUIDANCE if able[by] and wanted else 1.0
    total = model.schedule.timesteps
    count = steps or {"ddpm": total, "ddim": min(50, total), "dpmpp": min(25, total)}[kind]
    low, high = interval or ((0.0, math.inf) if less else INTERVAL)
    visited = [model.schedule.sigma(t) for t in model.schedule.sampling_steps(count)]
    if strength != 1 and not any(low <= sigma <= high for sigma in visited):
        advice.give(
            f"no sampling step of {count} lies between the noise levels {low:g} and {high:g}, so nothing is guided. "
            "Take more --steps, or --guidance-interval 0 inf."
        )
        strength = 1.0
    return SamplerOptions(kind, count, eta, strength, (low, high), by)


def generate(
    model: TrainedDenoiser,
    vae: FrozenVAE,
    labels: list[int] | None,
    numbers: range,
    batch_size: int,
    seed: int,
    options: SamplerOptions,
) -> Iterator[np.ndarray]:
    """Yield the images of these `numbers` in batches, uint8 [B, S, S, 3]; `labels` has the class of each number.

    Every draw is named by (seed, number of the image, step), so an image does not depend on the
    batch that it is made in (but for the last bits of floating point).
    """
    for start in range(0, len(numbers), batch_size):
        batch = numbers[start : start + batch_size]
        label = None if labels is None else torch.tensor([labels[n] for n in batch], device=vae.device.device)
        z = _latents(model, vae, label, batch, seed, options)
        yield to_uint8(vae.decode(model.statistics.restore(z)))


def _latents(
    model: TrainedDenoiser, vae: FrozenVAE, label: Tensor | None, numbers: range, seed: int, options: SamplerOptions
) -> Tensor:
    device = vae.device
    guide = model.guide if options.by == "guide" else None
    guidance = (len(model.classes), options.guidance, options.interval, guide)
    predict = predictor(model.net, model.schedule, model.prediction, label, *guidance)

    def noise(step: int | str) -> Tensor:
        draws = [noise_like(model.latent_shape, seed, "image", number, step) for number in numbers]
        return torch.stack(draws).to(device.device)

    def checked(xt: Tensor, t: int) -> tuple[Tensor, Tensor]:
        stop_signal.check()
        with device.autocast(), torch.inference_mode():  # more than no_grad: no operation is noted at all
            return predict(xt, t)

    return samplers.sample(options.kind, checked, noise("start"), model.schedule, options.steps, noise, options.eta)


def made_by(checkpoint: Path, model: TrainedDenoiser, options: SamplerOptions) -> dict[str, Any]:
    """What the PNG files note of the model, read from `checkpoint`, and of the options that drew them."""
    return {
        "diffusion_checkpoint": str(checkpoint.resolve()),
        "diffusion_weights": model.sha256,
        "steps": options.steps,
        "guidance": options.guidance,
        "guidance_by": options.by,
        "guidance_interval": [str(level) for level in options.interval],
    }


def write_images(folder: Path, images: np.ndarray, names: list[str] | None, metadata: dict[str, str]) -> int:
    """image_0001.png ... in `folder` and, where the classes are known, captions.json as 2A writes it.

    images: uint8 [N, S, S, 3]. What an earlier run left there is removed first; returns how many images.
    """
    earlier = list(folder.glob("image_*.png"))
    for old in [*earlier, *folder.glob(CAPTIONS)]:
        old.unlink()
    for number, image in enumerate(images):
        label = {"class": names[number]} if names else {}
        save_png(folder / f"image_{number + 1:04d}.png", image, {**metadata, **label})
    if names:
        captions = {f"image_{number + 1:04d}.png": CAPTION_START + name for number, name in enumerate(names)}
        write_atomically(folder / CAPTIONS, [(json.dumps(captions, indent=2) + "\n").encode()])
    return len(earlier)
