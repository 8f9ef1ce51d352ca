"""What benchmarks/speed.py measures: the sizes of each part and who takes part in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

REFERENCE = "diffusers"
FLAT = "3B, --latent vector, 128 px"  # the coursework's latent and size, the second kind of epochs in part d


@dataclass(frozen=True)
class Case:
    """One size of one kind of work (vae: a training step, unet: likewise, sampling: some images).

    Latents are [latent_channels, image_size / 8, image_size / 8]. `steps` are those of the sampler.
    """

    kind: str
    name: str
    image_size: int = 64
    latent_channels: int = 12
    vae_base: int = 32
    unet_base: int = 96
    layers: int = 2
    batch: int = 16
    classes: int = 6
    dropout: float = 0.1
    steps: int = 50

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return (self.latent_channels, self.image_size // 8, self.image_size // 8)


@dataclass(frozen=True)
class Contender:
    """stepwise or diffusers; the last three are settings of diffusers, of which the fastest is reported."""

    library: str
    compiled: bool = False
    channels_last: bool = False
    half_weights: bool = False
    fused: bool = False

    @property
    def name(self) -> str:
        return self.library + (" compiled" if self.compiled else "")

    @property
    def setting(self) -> str:
        """What was chosen for it, in words; stepwise chooses by itself."""
        if self.library != REFERENCE:
            return ""
        words = ["channels last" if self.channels_last else "contiguous"]
        return ", ".join(words + ["half weights"] * self.half_weights + ["fused projections"] * self.fused)


def cases(part: str, device: str, quick: bool) -> list[Case]:
    """The cases of part a, b or c on `device` (cpu, cuda, mps)."""
    if quick:
        small = {"image_size": 32, "latent_channels": 4, "vae_base": 8, "unet_base": 32, "layers": 1, "steps": 4}
        kind = {"a": "vae", "b": "unet", "c": "sampling"}[part]
        return [Case(kind, f"smoke test, {'images' if part == 'c' else 'batch'} 4", batch=4, **small)]
    if part == "a":
        return [Case("vae", f"{size} px, f8, 12 channels, base 32, batch 16", image_size=size) for size in (64, 128)]
    if part == "c":
        return [Case("sampling", f"{count} images of 64 px, 50 DDIM steps", batch=count) for count in (16, 64)]
    found = [Case("unet", f"base 96 on 12 x 8 x 8, batch {batch}", batch=batch) for batch in (16, 64, 256)]
    found.append(Case("unet", "base 128 on 4 x 16 x 16, batch 16", image_size=128, latent_channels=4, unet_base=128))
    if device == "cuda":
        large = {"image_size": 256, "latent_channels": 4, "unet_base": 128, "layers": 3, "batch": 256}
        found.append(Case("unet", "base 128, 3 layers, on 4 x 32 x 32, batch 256", **large))
    return found


def contenders(kind: str, quick: bool) -> list[Contender]:
    """Everybody who does the work `kind` eagerly, diffusers in every setting that its documentation offers."""
    both = (False, True) if not quick else (False,)
    further = both if kind == "sampling" else (False,)  # half weights, fused projections: no settings for training
    settings = product(both, further, further)
    return [Contender("stepwise"), *(Contender(REFERENCE, False, *setting) for setting in settings)]


def as_spec(case: Case, contender: Contender | None = None) -> dict[str, Any]:
    """Plain data for the process that does the work."""
    return {"case": asdict(case), "contender": asdict(contender) if contender else None}
