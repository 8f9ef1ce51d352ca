"""From an image folder to the latents that 3B trains and validates on, each image encoded once."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwise.data.augment import Augment, augment_versions
from stepwise.data.classes import class_table
from stepwise.data.folders import fingerprint, read_labels, reading_size, split_by_content
from stepwise.data.latent_cache import LatentCache, listing
from stepwise.data.latents import Latents, LatentStatistics, encode_files
from stepwise.foundation.errors import UserError
from stepwise.foundation.images import at_once
from stepwise.foundation.paths import resolve
from stepwise.training import provenance
from stepwise.training.cli import stop_signal
from stepwise.training.distributed import World
from stepwise.training.pretrained import FrozenVAE

ENCODING_BATCH = 64  # at most: of large images fewer


@dataclass
class EncodedFolder:
    """Everything 3B needs of the images.

    val_x0: standardised posterior means, [M, ...]; it and val_label are on the training device. Labels are
    positions in `classes`, [N] and [M]; without --class-conditional they are None and `classes` is empty.
    `image_classes`: the names of all classes in the folder. `sha256` names the set of images, `seen` each
    of them, as provenance.record writes them.
    """

    train: Latents
    statistics: LatentStatistics
    val_x0: Tensor
    train_label: Tensor | None
    val_label: Tensor | None
    classes: list[dict[str, Any]]
    image_classes: list[str]
    sha256: str
    seen: Tensor


def encode_folder(folder: Path, args: argparse.Namespace, vae: FrozenVAE, world: World) -> EncodedFolder:
    """Encode the folder in augmented variants, or find that done in the latent cache, and split it.

    Process 0 encodes, the others wait. Raises UserError when there are too few images, or one class only
    for --class-conditional.
    """
    paths, labels = read_labels(folder)
    classes, class_index = class_table(paths, labels)
    if args.class_conditional and len(classes) < 2:
        raise UserError(
            "--class-conditional needs at least two classes, found one.\n"
            "Leave the flag out, or give the folder of all classes (training_data/corel/corel_all)."
        )
    variants = 1 if args.augment == "none" else args.augment_variants
    posterior, told, digests = _encoded(folder, paths, args, variants, vae, world)
    train_index, val_index = split_by_content(paths, labels, digests, args.val_split, args.seed)

    def part(index: list[int]) -> Latents:
        return Latents(posterior, told, np.array(index), vae.device.device)

    train = part(train_index)
    validated = len(val_index) or "the same"
    print(f"{len(train)} images in {variants} variants to train, {validated} to validate.")
    statistics = train.statistics()
    judged = val_index or train_index  # without a held-back part the training images must do
    label = torch.tensor(class_index) if args.class_conditional else None
    return EncodedFolder(
        train=train,
        statistics=statistics,
        val_x0=statistics.standardise(part(judged).means()),
        train_label=None if label is None else label[train_index],
        val_label=None if label is None else label[judged].to(vae.device.device),
        classes=classes if args.class_conditional else [],
        image_classes=[entry["name"] for entry in classes],
        sha256=fingerprint(paths, labels, digests),
        seen=provenance.record(digests),
    )


def _encoded(
    folder: Path, paths: list[Path], args: argparse.Namespace, variants: int, vae: FrozenVAE, world: World
) -> tuple[Tensor, Tensor, list[str]]:
    """Posteriors and told augmentations of all images, and the digests of their pixels."""
    made_from = {"vae": vae.sha256, "image_size": args.image_size, "augment": args.augment, "variants": variants}
    made_with = {"device": vae.device.type, "dtype": str(vae.device.dtype), **augment_versions()}
    key = {**made_from, **made_with, "seed": args.seed, "images": listing(folder, paths)}
    cache = LatentCache(resolve(args.base_dir, args.latent_cache or f"{args.output_dir}/latents"), key)
    found = None
    if world.is_main:
        found = cache.open()
        if found is None:
            found = _encode(cache, paths, args, variants, vae)
        else:
            print(f"Latents: from {cache.folder}.")
        if args.latent_cache is None:  # the run's own folder: no other run wants what lies there
            cache.remove_others()
    world.wait()
    found = found or cache.open()
    if found is None:
        raise UserError(
            f"The latents in {cache.folder} cannot be read back.\n"
            "Several processes need one --latent-cache that all of them see; a copy of a dataset keeps its file dates."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor is it written
        posterior, told = (torch.from_numpy(array) for array in found[:2])
    if posterior.nbytes <= _room_for_latents(vae.device.device):
        posterior, told = posterior.to(vae.device.device), told.to(vae.device.device)
    return posterior, told, found[2]


def _encode(
    cache: LatentCache, paths: list[Path], args: argparse.Namespace, variants: int, vae: FrozenVAE
) -> tuple[np.ndarray, np.ndarray, list[str]] | None:
    """Write the cache, unless another run did so in the meantime; what it holds."""
    with cache.lock(stop_signal.check):
        if (found := cache.open()) is not None:
            return found
        augment = Augment(args.augment, args.image_size, args.seed, "latent-augment", plain_first=True)
        batches = encode_files(
            vae.encode,
            paths,
            reading_size(args.image_size),
            augment,
            variants,
            batch_size=min(ENCODING_BATCH, 2 * at_once(args.image_size)),
            num_workers=args.num_workers,
            device=vae.device.device,
            check=stop_signal.check,
        )
        cache.write(batches, len(paths))
        return cache.open()


def _room_for_latents(device: torch.device) -> int:
    """Bytes of a GPU's memory that latents may take; above it, and on a CPU, they stay mapped from disk."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 4
    return 2 * 2**30 if device.type == "mps" else 0
