"""3E: what diffusers loads from the exported folder draws the images that 3C draws."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import DENOISER_FLAGS
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from safetensors import safe_open
from safetensors.torch import load_file

from stepwise.diffusion import samplers
from stepwise.diffusion.guidance import GUIDANCE, INTERVAL
from stepwise.diffusion.objective import predictor
from stepwise.foundation import devices
from stepwise.training.pretrained import load_denoiser, load_vae

STEPS = 8  # a divisor of 1000: for others, the DDIMScheduler steps to a timestep beside the next one


@pytest.fixture(scope="module")
def run(request, server, images, vae, denoiser, tmp_path_factory):
    """A run folder of 3B: with the flags that a test gives, else the class-conditional one that many tests share."""
    flags = getattr(request, "param", None)
    if flags is None:
        return denoiser
    folder = tmp_path_factory.mktemp("denoiser")
    files = ("--vae-checkpoint", vae / "best_model.pt", "--image-dir", images, "--output-dir", folder)
    done = server.run("3B", *files, *DENOISER_FLAGS, "--epochs", 2, *flags)
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def pair(vae, run):
    """The trained tiny networks as 3C loads them."""
    device = devices.choose("cpu", mixed_precision=False)
    frozen = load_vae(vae / "best_model.pt", device)
    return frozen, load_denoiser(run / "best_model.pt", device, frozen)


@pytest.fixture(scope="module")
def exported(server, tmp_path_factory, vae, run):
    folder = tmp_path_factory.mktemp("exported") / "with diffusers"
    files = ("--vae-checkpoint", vae / "best_model.pt", "--diffusion-checkpoint", run / "best_model.pt")
    done = server.run("3E", *files, "--output-dir", folder)
    assert done.code == 0, done.err
    assert "from_pretrained" in done.out
    return folder


EPS, CONDITIONED = ("--prediction", "eps"), ("--augment", "conditioned", "--class-conditional")


@pytest.mark.parametrize(
    ("run", "by", "guidance"),
    [
        (None, "label", 1.0),
        (None, "label", 2.0),
        (None, "guide", 2.0),
        (EPS, "guide", 2.0),
        (CONDITIONED, "label", 2.0),
        (CONDITIONED, "guide", 2.0),
    ],
    indirect=["run"],
)
def test_diffusers_draws_the_same_images(exported, pair, by, guidance):
    vae, model = pair
    guide = model.guide if by == "guide" else None
    assert (guide is not None) == (by == "guide")
    label = torch.tensor([0, 1, 1]) if model.classes else None
    x = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    predict = predictor(model.net, model.schedule, model.prediction, label, len(model.classes), guidance, guide=guide)
    z = samplers.ddim(predict, x, model.schedule, STEPS, noise=None)
    wanted = vae.decode(model.statistics.restore(z))

    their_vae = AutoencoderKL.from_pretrained(exported, subfolder="vae").eval()
    unet = UNet2DModel.from_pretrained(exported, subfolder="unet").eval()
    their_guide = UNet2DModel.from_pretrained(exported, subfolder="guide").eval()
    scheduler = DDIMScheduler.from_pretrained(exported, subfolder="scheduler")
    said = json.loads((exported / "classes.json").read_text())
    advised = ("guide", GUIDANCE, list(INTERVAL)) if model.classes else (None, 1.0, None)
    assert (said["guidance_by"], said["guidance"], said["interval"]) == advised
    assert not scheduler.config.clip_sample
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for t in scheduler.timesteps:
            cond = unet(x, t, class_labels=label).sample
            if guide:
                weaker = their_guide(x, t, class_labels=label).sample
            else:
                weaker = unet(x, t, class_labels=torch.full_like(label, said["no_class"])).sample
            x = scheduler.step(weaker + guidance * (cond - weaker), t, x).prev_sample
        found = their_vae.decode(x / their_vae.config.scaling_factor + their_vae.config.shift_factor).sample
    assert wanted.std() > 0.01
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_diffusers_encodes_to_standardised_latents(exported, pair):
    vae, model = pair
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    posterior = AutoencoderKL.from_pretrained(exported, subfolder="vae").encode(x).latent_dist
    mu, logvar = vae.encode(x)
    torch.testing.assert_close(posterior.mean, model.statistics.standardise(mu), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(posterior.std, (0.5 * logvar).exp() / model.statistics.std, atol=1e-4, rtol=1e-3)


def test_safetensors_hold_our_own_weights(server, tmp_path, vae, denoiser, pair):
    files = ("--vae-checkpoint", vae / "best_model.pt", "--diffusion-checkpoint", denoiser / "best_model.pt")
    done = server.run("3E", *files, "--output-dir", tmp_path, "--format", "safetensors")
    assert done.code == 0, done.err
    frozen, model = pair
    for name, net, extra in (("vae", frozen.net, 0), ("denoiser", model.net, 2), ("guide", model.guide, 2)):
        weights = load_file(tmp_path / f"{name}.safetensors")
        own = net.state_dict()
        assert len(weights) == len(own) + extra
        assert all(torch.equal(weights[key], tensor) for key, tensor in own.items())
    with safe_open(tmp_path / "denoiser.safetensors", "pt") as file:
        about = file.metadata()
    assert json.loads(about["classes"]) == model.classes and about["prediction"] == "v"


def test_a_vector_latent_is_refused_for_diffusers(server, images, tmp_path):
    small = ("--num-workers", 0, "--device", "cpu", "--epochs", 1, "--batch-size", 4)
    trained = server.run(
        "3A", "--data-dir", images, "--output-dir", tmp_path / "vae", "--latent-dim", 8, "--image-size", 32,
        "--base-channels", 8, "--no-perceptual", *small,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    files = ("--vae-checkpoint", tmp_path / "vae/best_model.pt", "--image-dir", images)
    trained = server.run("3B", *files, "--output-dir", tmp_path / "model", "--base-channels", 16, *small)
    assert trained.code == 0, trained.err
    files = ("--vae-checkpoint", tmp_path / "vae/best_model.pt")
    files += ("--diffusion-checkpoint", tmp_path / "model/best_model.pt")
    done = server.run("3E", *files, "--output-dir", tmp_path / "out")
    assert done.code == 2 and "vector latent" in done.err and len(done.err.strip().splitlines()) <= 3
    assert server.run("3E", *files, "--output-dir", tmp_path / "out", "--format", "safetensors").code == 0
