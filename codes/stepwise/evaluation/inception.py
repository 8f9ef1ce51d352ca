"""Features of the Inception network that FID and KID are defined on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from stepwise.foundation import weight_files
from stepwise.foundation.errors import UserError

REMEDIES = (
    "Give a downloaded file with --inception-weights FILE,\n"
    "or use --features cas (the features of the network trained on the real images)."
)
BATCH = 32


def load(file: Path | None) -> tuple[nn.Module, str]:
    """torch-fidelity's InceptionV3 with the weights of `file`, the cache or the download, and where they came from.

    Raises UserError where they cannot be had.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

    source = str(file)
    if file is None:
        file, source = weight_files.find(URL_INCEPTION_V3, "Inception", REMEDIES)
    try:
        torch.load(file, map_location="cpu", weights_only=True)  # torch-fidelity itself would run what a pickle says
        return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(file)), source
    except FileNotFoundError:
        raise UserError(f"Inception weights: {file} does not exist.\n{REMEDIES}")
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"Inception weights: {file} cannot be used ({reason}).\n{REMEDIES}")


@torch.no_grad()
def features(net: nn.Module, images: np.ndarray, device: torch.device) -> np.ndarray:
    """uint8 [N, S, S, 3] -> float32 [N, 2048]; Inception enlarges to 299 px itself."""
    net = net.to(device)
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return torch.cat([net(part.to(device))[0].cpu() for part in pixels.split(BATCH)]).numpy()
