"""From an image folder to the latents that 3B trains and validates on, each image encoded once."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepwise.data.augment import Augment
from stepwise.data.classes import class_table
from stepwise.data.folders import content_digests, fingerprint, load_images, read_labels, split_by_content
from stepwise.data.latents import Latents, LatentStatistics, encode_variants
from stepwise.foundation.errors import UserError
from stepwise.training.cli import stop_signal
from stepwise.training.pretrained import FrozenVAE

ENCODING_BATCH = 64


@dataclass
class EncodedFolder:
    """Everything 3B needs of the images, on the training device.

    val_x0: standardised posterior means, [M, ...]. Labels are positions in `classes`, [N] and [M];
    without --class-conditional they are None and `classes` is empty. `image_classes`: the names of all
    classes in the folder. `sha256` names the set of images.
    """

    train: Latents
    statistics: LatentStatistics
    val_x0: Tensor
    train_label: Tensor | None
    val_label: Tensor | None
    classes: list[dict[str, Any]]
    image_classes: list[str]
    sha256: str


def encode_folder(folder: Path, args: argparse.Namespace, vae: FrozenVAE) -> EncodedFolder:
    """Split the folder, encode the training part in its augmented variants and the rest as it is.

    Raises UserError when there are too few images, or one class only for --class-conditional.
    """
    paths, labels = read_labels(folder)
    classes, class_index = class_table(paths, labels)
    if args.class_conditional and len(classes) < 2:
        raise UserError(
            "--class-conditional needs at least two classes, found one.\n"
            "Leave the flag out, or give the folder of all classes (training_data/corel/corel_all)."
        )
    images = load_images(paths, 2 * args.image_size, args.num_workers, stop_signal.check)
    digests = content_digests(images)
    train_index, val_index = split_by_content(paths, labels, digests, args.val_split, args.seed)

    def encode(index: list[int], augment: str, variants: int) -> Latents:
        how = Augment(augment, args.image_size, args.seed, "latent-augment", plain_first=True)
        chosen = [images[i] for i in index]
        return encode_variants(
            vae.encode,
            chosen,
            how,
            variants,
            batch_size=ENCODING_BATCH,
            num_workers=args.num_workers,
            device=vae.device.device,
            check=stop_signal.check,
        )

    variants = 1 if args.augment == "none" else args.augment_variants
    train = encode(train_index, args.augment, variants)
    validated = len(val_index) or "the same"
    print(f"{len(train)} images in {variants} variants to train, {validated} to validate.")
    statistics = train.statistics()
    seen = val_index or train_index  # without a held-back part the training images must do
    val_x0 = statistics.standardise(encode(seen, "none", 1).mu[:, 0])
    label = torch.tensor(class_index, device=vae.device.device) if args.class_conditional else None
    return EncodedFolder(
        train=train,
        statistics=statistics,
        val_x0=val_x0,
        train_label=None if label is None else label[train_index],
        val_label=None if label is None else label[seen],
        classes=classes if args.class_conditional else [],
        image_classes=[entry["name"] for entry in classes],
        sha256=fingerprint(paths, labels, digests),
    )
