"""Networks out of checkpoints, ready to use: the frozen autoencoder of 3A, the denoiser of 3B."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stepwise.data.latents import LatentStatistics
from stepwise.diffusion import schedule
from stepwise.foundation import checkpoints
from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError
from stepwise.foundation.images import at_once
from stepwise.models import autoencoder, denoiser, packing
from stepwise.training import inputs
from stepwise.training.provenance import noted, sampling_weights


@dataclass
class FrozenVAE:
    """3A's autoencoder with its EMA weights.

    `sha256` is the fingerprint of those weights, `seen` what `provenance.record` noted of its images, if anything.
    """

    net: nn.Module
    config: dict[str, Any]
    device: Device
    image_size: int
    path: Path
    sha256: str
    seen: Tensor | None = None

    def parts(self, items: Tensor) -> Iterator[Tensor]:
        """Images or latents, [N, ...], on the device, as many together as fit into memory."""
        for part in items.split(at_once(self.image_size)):
            yield part.to(self.device.device)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with self.device.without_fp16().autocast():
            mu, logvar = self.net.encode(x)
        return mu.float(), logvar.float()

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        with self.device.without_fp16().autocast():
            return self.net.decode(z).float()


@dataclass
class TrainedDenoiser:
    """3B's network with its EMA weights, and all that sampling must know.

    `classes`: what it can be told to draw, empty if it is unconditional. `image_classes`: the names of
    the classes that it was trained on. `guide` is the network early in its training. `sha256` is the fingerprint
    of the weights.
    """

    net: nn.Module
    config: dict[str, Any]
    schedule: schedule.Schedule
    prediction: str
    statistics: LatentStatistics
    latent_shape: tuple[int, ...]
    classes: list[dict[str, Any]]
    image_classes: list[str]
    label_dropout: float
    sha256: str
    guide: nn.Module | None = None

    def class_names(self, labels: list[int] | None, count: int) -> list[str] | None:
        """The class of each of `count` images drawn with `labels`; None where the model cannot tell."""
        if labels:
            return [self.classes[label]["name"] for label in labels]
        return self.image_classes * count if len(self.image_classes) == 1 else None


def load_vae(path: Path, device: Device) -> FrozenVAE:
    """Raises UserError when the file is missing or not a checkpoint of 3A."""
    document = _load(path, inputs.VAE)
    precision = device.without_fp16().dtype
    net, weights = _sampling_net(document["nets"]["vae"], autoencoder.build, device, precision, path)
    config = document["nets"]["vae"]["config"]
    sha256 = checkpoints.fingerprint(weights)
    return FrozenVAE(net, config, device, document["image_size"], path, sha256, noted(document))


def load_denoiser(path: Path, device: Device, vae: FrozenVAE) -> TrainedDenoiser:
    """Raises UserError when the file is missing, not of 3B, or was trained on another VAE."""
    document = _load_denoiser_document(path)
    require_same_vae(document, vae)
    net, weights = _sampling_net(document["nets"]["denoiser"], denoiser.build, device, device.dtype, path)
    settings, guide = document["diffusion"], None
    if (document.get("guide") or {}).get("weights"):
        early = {"config": document["nets"]["denoiser"]["config"], "weights": document["guide"]["weights"]}
        guide, _ = _sampling_net(early, denoiser.build, device, device.dtype, path)
    return TrainedDenoiser(
        net=net,
        config=document["nets"]["denoiser"]["config"],
        schedule=schedule.build(settings["schedule"], settings["timesteps"]),
        prediction=settings["prediction"],
        statistics=LatentStatistics(**document["latents"]),
        latent_shape=tuple(document["latent_shape"]),
        classes=document["classes"],
        image_classes=document.get("image_classes", []),
        label_dropout=settings["label_dropout"],
        sha256=checkpoints.fingerprint(weights),
        guide=guide,
    )


def parent_vae(path: Path) -> Path:
    """The VAE checkpoint that the diffusion checkpoint at `path` says it was trained on."""
    return Path(_load_denoiser_document(path)["parents"]["vae"]["path"])


def require_same_vae(document: dict[str, Any], vae: FrozenVAE) -> None:
    """Raises UserError unless the diffusion checkpoint was trained on these very VAE weights."""
    parent = document["parents"]["vae"]
    if parent["sha256"] != vae.sha256:
        raise UserError(
            f"{vae.path} is not the VAE that the diffusion model was trained on ({parent['path']}, "
            f"weights {parent['sha256'][:12]}, found {vae.sha256[:12]}).\n"
            "Give that VAE with --vae-checkpoint, or train the diffusion model anew on this one."
        )


def _load_denoiser_document(path: Path) -> dict[str, Any]:
    return _load(path, inputs.DENOISER)


def _load(path: Path, kind: inputs.Kind) -> dict[str, Any]:
    document = checkpoints.load(kind.require(path))
    if document["script"] != kind.script:
        found = document["script"]
        raise UserError(
            f"{path} is a checkpoint of {found}, but {kind.flag} needs one of {kind.script}.\n"
            f"Give that one (did two paths change places?). {kind.advice}."
        )
    return document


def _sampling_net(
    saved: dict[str, Any], build: Any, device: Device, precision: torch.dtype | None, path: Path
) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network with the weights to sample with, the EMA where the checkpoint holds one; and these weights."""
    weights = sampling_weights(saved)
    try:
        net = build(saved["config"])
        net.load_state_dict(weights)
    except (RuntimeError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} does not fit its own network config: {' '.join(str(error).split())[:200]}\nTrain it anew."
        )
    return for_sampling(net, device, precision), weights


def for_sampling(net: nn.Module, device: Device, precision: torch.dtype | None) -> nn.Module:
    """`net`, frozen, on the device, and laid out for it.

    What autocast would convert to `precision` in every step is converted here, once: the results are the same.
    """
    memory = torch.channels_last if device.channels_last else torch.contiguous_format
    net = net.to(device.device, memory_format=memory).eval().requires_grad_(False)
    packs = device.type == "cpu" and precision == device.dtype  # nothing is left for autocast to convert
    for layer in net.modules():
        if precision and isinstance(layer, nn.Conv2d | nn.Linear):
            layer.to(precision)
        if packs and isinstance(layer, nn.Conv2d):
            packing.pack(layer)
    return net
