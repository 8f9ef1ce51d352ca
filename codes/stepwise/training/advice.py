"""Remarks on what a user is about to train: nothing that stops a run, but what would disappoint hours later."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np

from stepwise.models.presets import has_all_levels, sizes_to_halve

FEW_STEPS = 3000


def give(*remarks: str) -> None:
    """Print what there is to say; an empty remark is none."""
    for remark in remarks:
        if remark:
            print(f"Note: {remark}")


def on_length(args: argparse.Namespace, default: int, per_epoch: int) -> str:
    """On a run of as many epochs as the `default`, where a handful of images makes few steps of them."""
    steps = default * per_epoch
    if args.max_minutes is not None or args.epochs != default or steps >= FEW_STEPS:
        return ""
    enough = math.ceil(FEW_STEPS / per_epoch / 100) * 100
    return (
        f"{default} epochs of {per_epoch} batches are {steps} steps, which is little to learn from. "
        f"Better pictures: --epochs {enough}, or --max-minutes 20."
    )


def on_grid(image_size: int, downsample: int) -> str:
    """On a grid of cells that 3B's network cannot halve as often as it should."""
    side = image_size // downsample
    if has_all_levels(side):
        return ""
    return (
        f"{side} x {side} cells cannot be halved as often as 3B's network wants: it will be small and see "
        f"little of the whole. Better: --image-size {sizes_to_halve(image_size, downsample)}."
    )


def on_sizes(images: Sequence[np.ndarray], image_size: int) -> str:
    """On images that have to be enlarged; of those that are read from disk again and again, nothing."""
    if not isinstance(images, list):
        return ""
    small = sum(min(image.shape[:2]) < image_size for image in images)
    if not small:
        return ""
    return f"{small} of {len(images)} images are smaller than --image-size {image_size} and are enlarged."
