"""The discriminator, its losses, and how it trains beside an autoencoder."""

from __future__ import annotations

import pytest
import torch

from stepwise.foundation.devices import Device
from stepwise.foundation.errors import UserError
from stepwise.losses import adversarial
from stepwise.models import autoencoder, discriminator, presets
from stepwise.training.critic import Critic
from stepwise.training.distributed import ALONE

CPU = Device(torch.device("cpu"), None)


@pytest.mark.parametrize(("image_size", "patch"), [(64, 34), (128, 70)])
def test_a_logit_sees_one_patch(image_size: int, patch: int) -> None:
    net = discriminator.build(presets.discriminator(image_size))
    net.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in net.norms)  # they look at the whole image
    x = torch.zeros(1, 3, 128, 128, requires_grad=True)
    logits = net(x)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    seen = gradient[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [patch, patch]


@pytest.mark.parametrize("image_size", [16, 127, 128])
def test_every_size_that_is_accepted_can_be_judged(image_size: int) -> None:
    net = discriminator.build(presets.discriminator(image_size))
    assert net(torch.zeros(1, 3, image_size, image_size)).shape[1] == 1
    with pytest.raises(UserError, match="16 px"):
        presets.discriminator(15)


def test_images_are_judged_one_by_one() -> None:
    net = discriminator.build(presets.discriminator(64))
    x = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(net(x)[1:], net(x[1:]))


def test_losses_of_known_logits() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert adversarial.discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.5 + 1.0))
    assert adversarial.generator_loss(fake).item() == pytest.approx(1.0)


def test_the_weight_makes_both_pull_equally_hard() -> None:
    layer = torch.randn(5, requires_grad=True)
    near, far = (layer - 1).square().sum(), 1e-3 * layer.sin().sum()
    first, second = adversarial.pull(near, layer), adversarial.pull(far, layer)
    weight = adversarial.adaptive_weight(first, second)
    torch.testing.assert_close(first, 2 * (layer - 1).detach())
    assert (weight * second).norm().item() == pytest.approx(first.norm().item(), rel=0.1)
    assert adversarial.adaptive_weight(first, 0 * second).item() == adversarial.LARGEST


def test_it_is_heard_when_it_acts_and_has_acted() -> None:
    """A run that is lengthened goes back to before its start: then the distance to images counts again."""
    critic = Critic(CPU, ALONE, 32, weight=0.3, start=0.5, grad_accum=1)
    assert not critic.is_heard(0.4) and not critic.is_heard(0.6)
    x = torch.rand(2, 3, 32, 32)
    critic.learn(x, -x, 1.0)
    assert critic.is_heard(0.6) and not critic.is_heard(0.4)


def test_a_compiled_autoencoder_can_be_pulled_at() -> None:
    """A compiled graph gives its buffers away in its first derivative, so the last layer stays out of it.

    In bfloat16, with a step before in which nothing is judged; this backend needs no compiler of C++.
    """
    torch.manual_seed(0)
    net = autoencoder.build(presets.grid_autoencoder(16, 4, 4, 4))
    net.decoder.keep_last_layer_out()
    compiled = torch.compile(net, backend="aot_eager_decomp_partition")
    x, eps = torch.rand(2, 3, 16, 16), torch.randn(2, *net.latent_shape(16))
    found = []
    for forward in (compiled, compiled, net):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = (forward(x, eps)[0].float() - x).abs().mean()
        if found or forward is net:
            adversarial.pull(loss, net.decoder.conv_out.weight)
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    for gradient in found[:2]:
        assert (gradient - found[2]).norm() < 0.1 * found[2].norm()


def critic(weight: float = 0.5, start: float = 0.25) -> Critic:
    torch.manual_seed(0)
    return Critic(CPU, ALONE, 32, weight, start, grad_accum=1)


def test_it_learns_to_tell_photos_from_blurred_ones() -> None:
    rng, judge = torch.Generator().manual_seed(1), critic()
    losses = []
    for _ in range(30):
        x = torch.rand(8, 3, 32, 32, generator=rng) * 2 - 1
        blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
        losses.append(judge.learn(x, blurred, share=1.0).item())
    assert losses[0] > 0.8 and losses[-1] < 0.3


def test_half_precision_is_enough_for_its_judgement() -> None:
    device = Device(torch.device("cpu"), torch.float16)
    judge = Critic(device, ALONE, 32, 0.5, 0.25, grad_accum=1)
    layer = torch.nn.Conv2d(3, 3, 1)
    with device.autocast():
        x_hat = layer(torch.rand(2, 3, 32, 32))
    loss = x_hat.float().abs().mean()
    assert 0 < judge.blame(loss, x_hat, layer.weight, 0.9).abs().item() < 100
    for _ in range(5):  # the scale of the loss has to find its size first
        assert torch.isfinite(judge.learn(torch.rand(2, 3, 32, 32), x_hat, share=1.0))
    assert judge.is_heard(1.0)


def test_its_judgement_reaches_the_pictures_but_not_itself() -> None:
    judge = critic()
    assert not judge.acts(0.24) and judge.acts(0.25) and not judge.is_heard(1.0)
    layer = torch.nn.Conv2d(3, 3, 1)
    x = torch.rand(2, 3, 32, 32)
    for progress, grown in ((0.25, 0.0), (0.275, 0.5), (0.3, 1.0), (0.9, 1.0)):
        layer.zero_grad()
        x_hat = layer(x)
        loss = (x_hat - x).abs().mean()
        pulled = torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm()
        judge.blame(loss, x_hat, layer.weight, progress).backward()
        assert layer.weight.grad.norm().item() == pytest.approx(0.5 * grown * pulled.item(), rel=0.05, abs=1e-6)
    assert all(p.grad is None and p.requires_grad for p in judge.learner.net.parameters())
