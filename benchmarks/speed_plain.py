"""What benchmarks/speed.py compares epochs and preparation with: the loops of coursework code.

    python speed_plain.py '{"task": "3A" | "3B" | "3B flat" | "2A" | "images", ...}'

Float32, torchvision's transforms, two loader processes that decode the files with Pillow in every epoch; for 3B
each batch goes through the frozen autoencoder before it is trained on. Networks are those of diffusers; for flat
latents, which it has none for, those of the package.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from speed_contenders import resident_peak

WORKERS = 2


def main() -> None:
    spec = json.loads(sys.argv[1])
    tasks = {"2A": prepare, "images": draw_images, "3A": train, "3B": train, "3B flat": train}
    record = tasks[spec["task"]](spec)
    record["peak_resident_mib"] = resident_peak() / 2**20
    Path(spec["record"]).write_text(json.dumps(record))


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Every image decoded, turned upright, made RGB and written anew, one after the other."""
    target = Path(spec["output"])
    target.mkdir(parents=True)
    for path in image_files(spec["folder"]):
        with Image.open(path) as image:
            ImageOps.exif_transpose(image).convert("RGB").save(target / f"{path.stem}.png")
    return {}


def draw_images(spec: dict[str, Any]) -> dict[str, Any]:
    """Small images, flat with some noise, of ten classes: XXXX_YYYYYY.png, all different."""
    import cv2
    import numpy as np

    folder, size, rng = Path(spec["folder"]), spec["image_size"], np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    noise = rng.integers(0, 4, (64, size, size, 3), dtype=np.uint8)
    for number in range(spec["count"]):
        colour = np.array([number % 200, number // 200 % 200, number // 40_000], dtype=np.uint8)
        name = f"{number % 10 + 1:04d}_{number:06d}.png"
        cv2.imwrite(str(folder / name), noise[number % 64] + colour, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return {}


def image_files(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in {".png", ".jpg", ".jpeg"})


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """Some epochs; the record holds seconds since the start, as that of speed_probe.py."""
    import torch
    from speed_cases import Case
    from torch.utils.data import DataLoader

    case = Case(**spec["case"])
    device = torch.device(spec["device"])
    step, size = {"3A": vae_step, "3B": unet_step, "3B flat": flat_step}[spec["task"]](case, device, spec)
    data = FileImages(image_files(spec["folder"]), transforms(spec["task"], size))
    loader = DataLoader(data, case.batch, shuffle=True, num_workers=0 if spec["quick"] else WORKERS)
    record: dict[str, Any] = {"epochs": [], "images": len(data)}
    for _ in range(spec["epochs"]):
        for x, label in loader:
            loss = step(x.to(device), label.to(device))
            if "first_step" not in record:
                float(loss)  # waits for a GPU
                record["first_step"] = time.time() - spec["started"]
        assert bool(torch.isfinite(loss))  # waits for it too
        record["epochs"].append(time.time() - spec["started"])
    return record


class FileImages:
    """A map-style dataset: the file is decoded when its item is asked for. The label is its class number."""

    def __init__(self, paths: list[Path], transform: Callable):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        path = self.paths[number]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), int(path.name[:4]) if path.name[:4].isdigit() else 0


def transforms(task: str, size: int) -> Callable:
    """torchvision's counterparts of what 3A and 3B do to images by default."""
    from torchvision import transforms as T

    end = [T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)]
    if task != "3A":
        return T.Compose([T.RandomResizedCrop(size, scale=(0.8, 1.0), ratio=(0.95, 1.05)), *end])
    start = [T.RandomApply([T.RandomRotation(7)], 0.4), T.RandomPerspective(0.1, 0.3)]
    crop = T.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(0.9, 1.1))
    colour = T.RandomApply([T.ColorJitter(brightness=0.06, contrast=0.06)], 0.3)
    return T.Compose([*start, crop, colour, *end])


def vae_step(case: Any, device: Any, spec: dict[str, Any]) -> tuple[Callable, int]:
    """The step, and the side of its images."""
    from diffusers import AutoencoderKL
    from speed_data import KL_TARGET, PERCEPTUAL_WEIGHT
    from speed_theirs import Reconstruction

    from stepwise.losses.perceptual import LaplacianPyramid
    from stepwise.losses.vae import vae_loss

    vae = AutoencoderKL.from_pretrained(spec["nets"], subfolder="vae").to(device).train()
    reconstruct, perceptual_net, update = Reconstruction(vae), LaplacianPyramid().to(device), updater(vae, 1e-3)

    def step(x: Any, label: Any) -> Any:
        x_hat, mu, logvar = reconstruct(x)
        loss = vae_loss(x_hat, x, mu, logvar, 1.0, KL_TARGET)["loss"]
        return update(loss + PERCEPTUAL_WEIGHT * perceptual_net(x_hat, x))

    return step, case.image_size


def unet_step(case: Any, device: Any, spec: dict[str, Any]) -> tuple[Callable, int]:
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel
    from speed_theirs import v_loss

    vae = AutoencoderKL.from_pretrained(spec["nets"], subfolder="vae").to(device).requires_grad_(False)
    unet = UNet2DModel.from_pretrained(spec["nets"], subfolder="unet", dropout=case.dropout).to(device).train()
    scheduler = DDPMScheduler.from_pretrained(spec["nets"], subfolder="scheduler")
    update = updater(unet, 5e-4)

    def step(x: Any, label: Any) -> Any:
        with torch.no_grad():
            x0 = vae.encode(x).latent_dist.sample()
        hidden = torch.rand(len(x0), device=device) < 0.1
        return update(v_loss(unet, scheduler, x0, (label % case.classes).masked_fill(hidden, case.classes)))

    return step, case.image_size


def flat_step(case: Any, device: Any, spec: dict[str, Any]) -> tuple[Callable, int]:
    import torch

    from stepwise.diffusion import schedule as schedules
    from stepwise.diffusion.objective import denoising_loss
    from stepwise.foundation import devices
    from stepwise.models import denoiser, presets
    from stepwise.training.pretrained import load_vae

    vae = load_vae(Path(spec["vae"]), devices.choose(spec["device"], mixed_precision=False))
    width = 32 if spec["quick"] else 512
    net = denoiser.build(presets.vector_net(vae.config["latent_dim"], width, case.dropout, case.classes)).to(device)
    schedule = schedules.build("linear", 1000)
    update = updater(net.train(), 1e-4)

    def step(x: Any, label: Any) -> Any:
        mu, logvar = vae.encode(x)
        x0 = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        hidden = torch.rand(len(x0), device=device) < 0.1
        label = (label % case.classes).masked_fill(hidden, case.classes)
        t = torch.randint(1000, (len(x0),), device=device)
        noise = torch.randn_like(x0)
        return update(denoising_loss(net, schedule, x0, noise, t, label, prediction="v", min_snr_gamma=5.0).mean())

    return step, vae.image_size


def updater(net: Any, lr: float) -> Callable:
    """AdamW, clipping and EMA, with nothing chosen for speed."""
    import torch
    from diffusers.training_utils import EMAModel

    optimizer, ema = torch.optim.AdamW(net.parameters(), lr=lr), EMAModel(net.parameters(), decay=0.995)

    def update(loss: Any) -> Any:
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        ema.step(net.parameters())
        return loss.detach()

    return update


if __name__ == "__main__":
    main()
