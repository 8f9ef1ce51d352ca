"""Trained networks for other programs: diffusers' folders, or plain safetensors files.

The networks are block for block those of diffusers, so only the configs have to be said in its words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stepwise.data.latents import LatentStatistics
from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import make_folder, write_atomically
from stepwise.training.generate import choose_options
from stepwise.training.pretrained import FrozenVAE, TrainedDenoiser

WRITTEN_FOR = "0.35.0"  # of diffusers; later ones read it
WEIGHTS = "diffusion_pytorch_model.safetensors"


def to_diffusers(folder: Path, vae: FrozenVAE, model: TrainedDenoiser) -> None:
    """vae/ (AutoencoderKL), unet/ and a guide/ (UNet2DModel), scheduler/ (DDIMScheduler), classes.json.

    The standardisation of the latents is folded into the 1 x 1 convolutions around them, since
    diffusers has one scale for all channels: scaling_factor is 1. Raises UserError for a vector latent.
    """
    if vae.net.kind != "grid":
        raise UserError(
            "A vector latent has no counterpart in diffusers.\nExport it with --format safetensors, or train on a grid."
        )
    weights = {name: tensor.cpu() for name, tensor in vae.net.state_dict().items()}
    _write_model(folder / "vae", _vae_config(vae), _with_standardised_latents(weights, model.statistics))
    for name, net in _denoisers(model, "unet").items():
        weights = {key: tensor.cpu() for key, tensor in net.state_dict().items()}
        weights = {key: tensor for key, tensor in weights.items() if not key.startswith("augment_embedding.")}
        _write_model(folder / name, _unet_config(model), weights)
    if model.guide is None:
        _remove_model(folder / "guide")  # of a model that was exported here before
    options = choose_options(model, "ddim", None, 0.0, None)  # what 3C does unless told otherwise
    guided = options.guidance != 1
    _write_json(make_folder(folder / "scheduler") / "scheduler_config.json", _scheduler_config(model))
    _write_json(
        folder / "classes.json",
        {
            "classes": model.classes,
            "no_class": len(model.classes),
            "guidance_by": options.by if guided else None,
            "guidance": options.guidance,
            "interval": list(options.interval) if guided else None,
        },
    )


def to_safetensors(folder: Path, vae: FrozenVAE, model: TrainedDenoiser) -> None:
    """vae, denoiser and guide.safetensors: our own weights and latent statistics, configs as metadata."""
    statistics = {f"latents.{name}": tensor for name, tensor in model.statistics.state().items()}
    about = {
        "classes": json.dumps(model.classes),
        "prediction": model.prediction,
        "schedule": model.schedule.kind,
        "timesteps": str(model.schedule.timesteps),
    }
    _save(folder / "vae.safetensors", dict(vae.net.state_dict()), {"config": json.dumps(vae.config)})
    for name, net in _denoisers(model, "denoiser").items():
        weights = {**net.state_dict(), **statistics}
        _save(folder / f"{name}.safetensors", weights, {"config": json.dumps(model.config), **about})
    if model.guide is None:
        (folder / "guide.safetensors").unlink(missing_ok=True)


def _denoisers(model: TrainedDenoiser, name: str) -> dict[str, nn.Module]:
    return {name: model.net} | ({} if model.guide is None else {"guide": model.guide})


def _with_standardised_latents(weights: dict[str, Tensor], statistics: LatentStatistics) -> dict[str, Tensor]:
    """The autoencoder's weights such that it encodes to (z - mean) / std and decodes from it."""
    mean, std = (tensor.flatten().double().cpu() for tensor in (statistics.mean, statistics.std))
    channels = len(mean)
    kernel, bias = weights["quant_conv.weight"].double(), weights["quant_conv.bias"].double()
    kernel[:channels] /= std[:, None, None, None]
    bias[:channels] = (bias[:channels] - mean) / std
    bias[channels:] -= 2 * std.log()
    back = weights["post_quant_conv.weight"].double()
    offset = weights["post_quant_conv.bias"].double() + back[:, :, 0, 0] @ mean
    changed = {
        "quant_conv.weight": kernel,
        "quant_conv.bias": bias,
        "post_quant_conv.weight": back * std[None, :, None, None],
        "post_quant_conv.bias": offset,
    }
    return {**weights, **{name: tensor.float() for name, tensor in changed.items()}}


def _vae_config(vae: FrozenVAE) -> dict[str, Any]:
    config = vae.config
    levels = len(config["widths"])
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": config["latent_channels"],
        "block_out_channels": config["widths"],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": config["layers"],
        "norm_num_groups": config["groups"],
        "mid_block_add_attention": config["attention"],
        "sample_size": vae.image_size,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    }


def _unet_config(model: TrainedDenoiser) -> dict[str, Any]:
    config = model.config
    kinds = ["Attn" if attend else "" for attend in config["attention"]]
    return {
        "_class_name": "UNet2DModel",
        "sample_size": model.latent_shape[-1],
        "in_channels": config["channels"],
        "out_channels": config["channels"],
        "block_out_channels": config["widths"],
        "layers_per_block": config["layers"],
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "attention_head_dim": config["head_dim"],
        "norm_num_groups": config["groups"],
        "attn_norm_num_groups": config["groups"],
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": config["num_classes"] + 1 if config["num_classes"] else None,
    }


def _scheduler_config(model: TrainedDenoiser) -> dict[str, Any]:
    """DDIMScheduler with our very betas, the right prediction type, and no clipping: latents are not in [-1, 1]."""
    kept = torch.cat([torch.ones(1, dtype=torch.float64), model.schedule.alpha_bar])
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": model.schedule.timesteps,
        "trained_betas": (1 - kept[1:] / kept[:-1]).tolist(),
        "prediction_type": {"eps": "epsilon", "v": "v_prediction"}[model.prediction],
        "clip_sample": False,
        "set_alpha_to_one": True,
        "timestep_spacing": "trailing",
    }


def _remove_model(folder: Path) -> None:
    for name in ("config.json", WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _write_model(folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    _write_json(make_folder(folder) / "config.json", config)
    _save(folder / WEIGHTS, weights, {"format": "pt"})


def _save(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_atomically(path, [save(plain, metadata=metadata)])


def _write_json(path: Path, content: dict[str, Any]) -> None:
    if "_class_name" in content:
        content = {**content, "_diffusers_version": WRITTEN_FOR}
    write_atomically(path, [(json.dumps(content, indent=2) + "\n").encode()])
