from types import SimpleNamespace

import pytest
import torch

from stepwise.evaluation import reconstruction
from stepwise.evaluation.reconstruction import lpips, psnr, ssim

PICTURES = torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
NOISE = torch.randn(PICTURES.shape, generator=torch.Generator().manual_seed(1))


def test_psnr_of_known_errors():
    x = torch.zeros(3, 3, 8, 8)
    x_hat = torch.stack([torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), -0.02), torch.ones(3, 8, 8)])
    assert psnr(x_hat, x).tolist() == pytest.approx([20.0, 40.0, 6.0206], abs=1e-3)  # the range is 2


def test_psnr_of_equal_images_is_finite():
    assert psnr(PICTURES, PICTURES).tolist() == pytest.approx([106.0206] * 4, abs=1e-3)


def test_ssim_of_equal_images_is_one():
    torch.testing.assert_close(ssim(PICTURES, PICTURES), torch.ones(4))


def test_ssim_falls_with_noise():
    values = [ssim(PICTURES + scale * NOISE, PICTURES).mean() for scale in (0.0, 0.1, 0.3, 1.0)]
    assert values[0] > values[1] > values[2] > values[3]


@pytest.mark.parametrize(("a", "b"), [(0.75, 0.625), (0.5, 0.48)])
def test_ssim_of_flat_images_is_the_luminance_term(a, b):
    """Wang et al. 2004, equation 6, of brightness from 0 (black) to 1 (white)."""
    c1 = 0.01**2
    found = ssim(torch.full((1, 3, 32, 32), 2 * a - 1), torch.full((1, 3, 32, 32), 2 * b - 1))
    assert found.item() == pytest.approx(
        (2 * a * b + c1) / (a * a + b * b + c1), abs=5e-4
    )  # its variances are rounded in float32


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_each_image_is_measured_alone(measure):
    x_hat = PICTURES + torch.tensor([0.0, 0.05, 0.2, 0.5])[:, None, None, None] * NOISE
    together = measure(x_hat, PICTURES)
    assert together.shape == (4,) and together.dtype == torch.float32
    alone = torch.cat([measure(x_hat[i : i + 1], PICTURES[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)
    assert len(set(together.tolist())) == 4
    assert measure(x_hat[:1], PICTURES[:1]).shape == (1,)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_values_out_of_range_are_clamped_as_on_screen(measure):
    x_hat = PICTURES * 3
    assert torch.equal(measure(x_hat, PICTURES), measure(x_hat.clamp(-1, 1), PICTURES))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_half_precision_reconstructions(measure):
    found = measure((PICTURES + 0.1 * NOISE).bfloat16(), PICTURES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, measure(PICTURES + 0.1 * NOISE, PICTURES), rtol=0.02, atol=0.01)


def test_lpips_judges_each_image_alone(monkeypatch):
    """With a VGG16 of random weights: what is checked is what is asked of the library."""
    import torchvision
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    made = []

    def untrained(weights=None, **options):
        torch.manual_seed(0)
        made.append(weights)
        return SimpleNamespace(features=torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]))

    monkeypatch.setattr(torchvision.models, "vgg16", untrained)
    monkeypatch.setattr(reconstruction.weight_files, "find", lambda *asked: ("file", "cache"))
    x_hat = PICTURES + 0.2 * NOISE
    x_hat[2] = PICTURES[2]
    found = lpips(x_hat, PICTURES)
    assert len(made) == 1, "one network for all"
    assert found[2] == 0 and (found[[0, 1, 3]] > 0).all()
    wanted = learned_perceptual_image_patch_similarity(x_hat.clamp(-1, 1), PICTURES, net_type="vgg", reduction="none")
    torch.testing.assert_close(found, wanted.reshape(-1))
