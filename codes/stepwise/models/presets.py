"""Network configs from flags: the sizes that the scripts build, and the limits they check."""

from __future__ import annotations

import math
from typing import Any

from stepwise.foundation.errors import UserError

SMALLEST_JUDGED = 16  # pixels a side
LATENT_CHANNELS = {2: 4, 4: 4, 8: 12, 16: 32}  # about as many numbers a latent as a picture needs at that depth


def grid_autoencoder(image_size: int, downsample: int, latent_channels: int | None, base: int) -> dict[str, Any]:
    """Config of a GridAutoencoder. Raises UserError when the image cannot be halved that often."""
    if image_size % downsample or image_size // downsample < 4:
        raise UserError(
            f"--image-size {image_size} with --downsample {downsample} leaves no grid of whole cells, 4 x 4 or more.\n"
            f"Choose --image-size {sizes_to_halve(image_size, downsample)}."
        )
    factors = {2: [1, 2], 4: [1, 1, 2], 8: [1, 1, 2, 4], 16: [1, 1, 2, 4, 4]}[downsample]
    return {
        "kind": "grid",
        "latent_channels": latent_channels or LATENT_CHANNELS[downsample],
        "widths": [base * factor for factor in factors],
        "layers": 1,
        "groups": _groups(base),
        "attention": True,
    }


def vector_autoencoder(image_size: int, latent_dim: int, base: int) -> dict[str, Any]:
    """Config of a VectorAutoencoder: halved until 4 to 7 cells a side are left. Raises UserError."""
    halvings = max(0, int(math.log2(image_size / 4)))
    if halvings < 1 or image_size % 2**halvings:
        raise UserError(
            f"--image-size {image_size} cannot be halved down to a few cells a side.\n"
            "Choose 32, 64, 96, 128, 192 or 256 with --latent vector."
        )
    factors = [1, 2, 2, *[4] * halvings][: halvings + 1]
    widths = [base * factor for factor in factors]
    cells = (image_size // 2**halvings) ** 2
    hidden = math.ceil(2 * latent_dim / cells)  # channels before the vector: fewer would bound what it can hold
    return {
        "kind": "vector",
        "latent_dim": latent_dim,
        "image_size": image_size,
        "widths": widths,
        "layers": 1,
        "groups": _groups(base),
        **({"hidden": hidden} if hidden > 16 else {}),
    }


def discriminator(image_size: int) -> dict[str, Any]:
    """Config of a PatchDiscriminator: patches of 34 px, from images of 128 px on of 70.

    Half as wide as that of Isola et al. 2017: a quarter of the work, and few images need no more.
    Raises UserError for images that are smaller than what is left after its convolutions.
    """
    if image_size < SMALLEST_JUDGED:
        raise UserError(
            f"A discriminator needs images of {SMALLEST_JUDGED} px at least, not of {image_size}.\n"
            "Leave out --adversarial-weight, or raise --image-size."
        )
    return {"kind": "patch", "base_channels": 32, "levels": 2 if image_size < 128 else 3}


def unet(
    latent_shape: tuple[int, ...], base: int, layers: int, dropout: float, num_classes: int, augment_dim: int = 0
) -> dict[str, Any]:
    """Config of a UNet for [C, H, W] latents: three levels from 16 cells a side on, else two.

    Raises UserError for a width that attention heads cannot share out.
    """
    if base % 8:
        raise UserError(f"--base-channels {base} is not a multiple of 8.\nChoose a multiple of 32 if speed counts.")
    channels, side = latent_shape[0], latent_shape[1]
    levels = unet_levels(side)
    return {
        "kind": "unet",
        "channels": channels,
        "widths": [base, 2 * base, 4 * base][:levels],
        "layers": layers,
        "attention": [side // 2**level <= 16 for level in range(levels)],
        "head_dim": math.gcd(base, 32),
        "groups": _groups(base),
        "dropout": dropout,
        "num_classes": num_classes,
        **({"augment_dim": augment_dim} if augment_dim else {}),
    }


def unet_levels(side: int) -> int:
    """Levels of a U-Net on `side` cells: three from 16 cells on, else two; fewer where they cannot be halved."""
    return next((levels for levels in range(wanted_levels(side), 1, -1) if side % 2 ** (levels - 1) == 0), 1)


def wanted_levels(side: int) -> int:
    """Levels that a U-Net on `side` cells should have."""
    return 3 if side >= 16 else 2


def has_all_levels(side: int) -> bool:
    return unet_levels(side) == wanted_levels(side)


def sizes_to_halve(image_size: int, downsample: int) -> str:
    """The image sizes next to this one, below and above, whose grids give a U-Net all its levels: "128 or 160"."""
    sizes = [side * downsample for side in range(4, image_size // downsample + 6) if has_all_levels(side)]
    below, above = [size for size in sizes if size < image_size], [size for size in sizes if size > image_size]
    return " or ".join(map(str, below[-1:] + above[:1]))


def vector_net(latent_dim: int, width: int, dropout: float, num_classes: int, augment_dim: int = 0) -> dict[str, Any]:
    """Config of a VectorNet for [D] latents."""
    return {
        "kind": "vector_net",
        "channels": latent_dim,
        "width": width,
        "layers": 6,
        "dropout": dropout,
        "num_classes": num_classes,
        **({"augment_dim": augment_dim} if augment_dim else {}),
    }


def _groups(base: int) -> int:
    """Groups of 8 channels or more: with one or two a group, normalisation wipes out what a channel's mean says."""
    return math.gcd(base, max(1, base // 8))
