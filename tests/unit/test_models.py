"""Parity with diffusers is checked in float64: two orders of the same sums differ by about 1e-13 there."""

import re

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel
from diffusers.models.embeddings import get_timestep_embedding

from stepwise.foundation.errors import UserError
from stepwise.models import autoencoder, denoiser, presets
from stepwise.models.autoencoder import GridAutoencoder, VectorAutoencoder, reparameterize
from stepwise.models.blocks import attend, sinusoid
from stepwise.models.unet import UNet
from stepwise.models.vector_net import VectorNet

TOLERANCE = 1e-9
SINUSOID_TOLERANCE = 1e-5  # the sinusoids are float32 in both, so an odd width may round them differently


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def shaken(net, seed=0):
    """Move every parameter off its initial value: fresh norms are all 1 and 0 and would hide a swap."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return net


def assert_near(found, wanted, tolerance=TOLERANCE):
    """The largest difference is at most `tolerance` of the largest value."""
    assert found.shape == wanted.shape
    scale = wanted.detach().abs().max().clamp_min(1e-12)
    assert ((found - wanted).detach().abs().max() / scale).item() < tolerance


def assert_same_gradients(ours, theirs, tolerance=TOLERANCE):
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    largest = max(gradient.abs().max() for gradient in wanted.values())
    for name, parameter in ours.named_parameters():
        assert ((parameter.grad - wanted[name]).abs().max() / largest).item() < tolerance, name


def assert_every_gradient(net):
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


def shapes(net):
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


GRIDS = [
    {"latent_channels": 4, "widths": [8, 8, 16], "layers": 1, "groups": 4, "attention": True},
    {"latent_channels": 3, "widths": [8, 16, 16, 24], "layers": 2, "groups": 8, "attention": True},
    {"latent_channels": 2, "widths": [4, 12], "layers": 1, "groups": 2, "attention": False},
]


def grid_pair(config):
    ours = shaken(GridAutoencoder(**config).double())
    levels = len(config["widths"])
    theirs = AutoencoderKL(
        latent_channels=config["latent_channels"],
        block_out_channels=tuple(config["widths"]),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=config["layers"],
        norm_num_groups=config["groups"],
        mid_block_add_attention=config["attention"],
    ).double()
    return ours, theirs


@pytest.mark.parametrize("config", GRIDS, ids=["f4", "f8", "f2-no-attention"])
def test_grid_autoencoder_is_autoencoder_kl(config):
    ours, theirs = grid_pair(config)
    assert shapes(ours) == shapes(theirs)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert ours.downsample == 2 ** (len(config["widths"]) - 1)

    x = randn(2, 3, 32, 32, seed=1)
    posterior = theirs.encode(x).latent_dist
    mu, logvar = ours.encode(x)
    assert mu.shape == (2, *ours.latent_shape(32))
    assert_near(mu, posterior.mean)
    assert_near(logvar, posterior.logvar)
    x_hat = ours.decode(mu)
    reference = theirs.decode(posterior.mean).sample
    assert x_hat.shape == x.shape
    assert_near(x_hat, reference)

    pull, tug = randn(*x.shape, seed=2), randn(*mu.shape, seed=3)
    ((x_hat * pull).sum() + (logvar * tug).sum()).backward()
    ((reference * pull).sum() + (posterior.logvar * tug).sum()).backward()
    assert_same_gradients(ours, theirs)


def test_grid_autoencoder_takes_the_weights_of_autoencoder_kl():
    ours, theirs = grid_pair(GRIDS[1])
    shaken(theirs, seed=5)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = randn(1, 3, 16, 16)
    assert_near(ours.encode(x)[0], theirs.encode(x).latent_dist.mean)


def test_logvar_is_clamped_as_in_diffusers():
    ours, theirs = grid_pair(GRIDS[2])
    ours.quant_conv.weight.data *= 1000
    theirs.load_state_dict(ours.state_dict())
    x = randn(2, 3, 16, 16)
    logvar = ours.encode(x)[1]
    assert logvar.min() == -30 and logvar.max() == 20
    assert_near(logvar, theirs.encode(x).latent_dist.logvar)


def test_forward_decodes_the_posterior_sample():
    net = shaken(GridAutoencoder(**GRIDS[2]).double())
    x = randn(2, 3, 16, 16)
    eps = randn(2, *net.latent_shape(16), seed=4)
    x_hat, mu, logvar = net(x, eps)
    assert_near(x_hat, net.decode(mu + (logvar / 2).exp() * eps))
    assert not torch.allclose(x_hat, net.decode(mu))


def test_reparameterize_has_the_posterior_moments():
    mu, logvar = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]])
    z = reparameterize(mu, logvar, randn(200_000, 2, dtype=torch.float32))
    torch.testing.assert_close(z.mean(dim=0), mu[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(dim=0), logvar[0].exp(), atol=0, rtol=0.02)


UNETS = [
    {"widths": [16, 32], "layers": 1, "attention": [True, True], "head_dim": 8, "groups": 8, "num_classes": 0},
    {"widths": [16, 32, 48], "layers": 2, "attention": [False, True, True], "head_dim": 16, "num_classes": 5},
    {"widths": [32, 16, 64], "layers": 1, "attention": [True, False, False], "head_dim": 16, "num_classes": 2},
    {"widths": [24], "layers": 2, "attention": [True], "head_dim": 12, "groups": 4, "num_classes": 3},
]


def unet_pair(options):
    config = {"channels": 4, "groups": 8, **options}
    ours = shaken(UNet(**config).double())
    ours.time_embedding.linear_1.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    kinds = ["Attn" if attend else "" for attend in config["attention"]]
    theirs = UNet2DModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(config["widths"]),
        layers_per_block=config["layers"],
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=config["head_dim"],
        norm_num_groups=config["groups"],
        attn_norm_num_groups=config["groups"],
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=config["num_classes"] + 1 if config["num_classes"] else None,
    ).double()
    return ours, theirs


@pytest.mark.parametrize("options", UNETS, ids=lambda options: "-".join(map(str, options["widths"])))
def test_unet_is_unet2dmodel(options):
    ours, theirs = unet_pair(options)
    assert shapes(ours) == shapes(theirs)
    theirs.load_state_dict(ours.state_dict(), strict=True)

    x, t = randn(3, 4, 8, 8, seed=1), torch.tensor([0, 37, 999])
    label = torch.tensor([0, 1, options["num_classes"]]) if options["num_classes"] else None
    found, wanted = ours(x, t, label), theirs(x, t, label).sample
    tolerance = SINUSOID_TOLERANCE if options["widths"][0] == 24 else TOLERANCE
    assert_near(found, wanted, tolerance)

    pull = randn(*x.shape, seed=2)
    (found * pull).sum().backward()
    (wanted * pull).sum().backward()
    assert_same_gradients(ours, theirs, tolerance)
    if label is None:
        assert_every_gradient(ours)


def test_unet_takes_the_weights_of_unet2dmodel():
    ours, theirs = unet_pair(UNETS[1])
    shaken(theirs, seed=9)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, t, label = randn(1, 4, 16, 16), torch.tensor([500]), torch.tensor([5])
    assert_near(ours(x, t, label), theirs(x, t, label).sample)


@pytest.mark.parametrize("channels", [32, 48, 128])
def test_sinusoid_is_cosines_then_sines(channels):
    t = torch.tensor([0, 1, 250, 999])
    found = sinusoid(t, channels)
    assert found[0].tolist() == [1.0] * (channels // 2) + [0.0] * (channels // 2)
    assert found[1, 0].item() == pytest.approx(0.5403023)  # cos 1
    wanted = get_timestep_embedding(t, channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(found, wanted, atol=5e-5, rtol=0)


def denoisers():
    unet = UNet(
        channels=3, widths=[8, 16], layers=1, attention=[False, True], head_dim=8, groups=4, dropout=0.3, num_classes=4
    )
    vector = VectorNet(channels=10, width=24, layers=4, dropout=0.3, num_classes=4)
    return [(unet, (3, 8, 8)), (vector, (10,))]


@pytest.mark.parametrize("index", [0, 1], ids=["unet", "vector_net"])
def test_denoisers_listen_to_time_label_and_dropout(index):
    torch.manual_seed(0)
    net, shape = denoisers()[index]
    x, t, label = randn(5, *shape, dtype=torch.float32), torch.full((5,), 10), torch.arange(5)
    output = net.eval()(x, t, label)
    assert output.shape == x.shape and torch.equal(output, net(x, t, label))
    assert not torch.allclose(output, net(x, t + 300, label), atol=1e-4)
    assert not torch.allclose(output, net(x, t, (label + 1) % 5), atol=1e-4)
    swapped = net(x.flip(0), t, label.flip(0)).flip(0)
    torch.testing.assert_close(swapped, output, atol=1e-5, rtol=1e-4)
    assert not torch.equal(net.train()(x, t, label), net(x, t, label))


@pytest.mark.parametrize("index", [0, 1], ids=["unet", "vector_net"])
def test_gradient_reaches_every_parameter_of_a_denoiser(index):
    torch.manual_seed(0)
    net, shape = denoisers()[index]
    x = randn(5, *shape, dtype=torch.float32)
    net(x, torch.arange(5), torch.arange(5)).square().sum().backward()
    assert_every_gradient(net)
    assert net.class_embedding.weight.grad.abs().sum(dim=1).min() > 0


def test_denoisers_without_classes_need_no_label():
    vector = VectorNet(channels=6, width=16, layers=2)
    assert vector.class_embedding is None
    assert vector(randn(2, 6, dtype=torch.float32), torch.tensor([0, 999])).shape == (2, 6)


def test_vector_net_pairs_its_layers():
    torch.manual_seed(0)
    net = VectorNet(channels=6, width=16, layers=6).eval()
    assert len(net.down) == len(net.joins) == len(net.up) == 3
    x, t = randn(2, 6, dtype=torch.float32), torch.tensor([3, 7])
    before = net(x, t)
    for join in net.joins:
        join.weight.data[:, 16:] = 0  # the half that takes the skip
    assert not torch.allclose(net(x, t), before, atol=1e-4)


def test_vector_autoencoder():
    torch.manual_seed(0)
    net = VectorAutoencoder(latent_dim=7, image_size=24, widths=[8, 16, 16], groups=4, hidden=5)
    x = randn(3, 3, 24, 24, dtype=torch.float32)
    mu, logvar = net.encode(x)
    assert mu.shape == logvar.shape == (3, 7) and net.latent_shape(24) == (7,)
    x_hat, mu_again, logvar_again = net(x, randn(3, 7, dtype=torch.float32))
    assert x_hat.shape == x.shape
    assert torch.equal(mu, mu_again) and torch.equal(logvar, logvar_again)
    assert not torch.allclose(net.decode(mu), net.decode(mu + 1), atol=1e-4)
    x_hat.square().sum().backward()
    assert_every_gradient(net)


def test_vector_autoencoder_clamps_logvar():
    net = VectorAutoencoder(latent_dim=3, image_size=8, widths=[4, 4], groups=2)
    net.to_posterior.bias.data[3:] = torch.tensor([-1e4, 1e4, 0.0])
    logvar = net.encode(randn(2, 3, 8, 8, dtype=torch.float32))[1]
    assert logvar[:, 0].tolist() == [-30, -30] and logvar[:, 1].tolist() == [20, 20]


def test_build_from_config():
    config = presets.grid_autoencoder(32, 4, None, 8)
    net = autoencoder.build(config)
    assert isinstance(net, GridAutoencoder) and net.kind == config["kind"] == "grid"
    assert net.latent_shape(32) == (4, 8, 8)
    unet = denoiser.build(presets.unet(net.latent_shape(32), 32, 1, 0.0, 3))
    assert isinstance(unet, UNet) and unet.kind == "unet" and unet.num_classes == 3

    config = presets.vector_autoencoder(32, 6, 8)
    net = autoencoder.build(config)
    assert isinstance(net, VectorAutoencoder) and net.kind == config["kind"] == "vector"
    vector = denoiser.build(presets.vector_net(6, 16, 0.1, 0))
    assert isinstance(vector, VectorNet) and vector.kind == "vector_net" and vector.class_embedding is None
    assert config == presets.vector_autoencoder(32, 6, 8)  # building does not eat the config


def test_build_is_strict():
    with pytest.raises(KeyError):
        autoencoder.build({"kind": "other"})
    with pytest.raises(TypeError):
        denoiser.build({"kind": "vector_net", "channels": 4, "depth": 3})


@pytest.mark.parametrize(
    ("downsample", "widths", "channels"),
    [(2, [16, 32], 4), (4, [16, 16, 32], 4), (8, [16, 16, 32, 64], 12), (16, [16, 16, 32, 64, 64], 32)],
)
def test_grid_presets(downsample, widths, channels):
    config = presets.grid_autoencoder(128, downsample, None, 16)
    assert (config["widths"], config["latent_channels"], config["groups"]) == (widths, channels, 2)
    assert autoencoder.build(config).downsample == downsample
    assert presets.grid_autoencoder(128, downsample, 5, 16)["latent_channels"] == 5


@pytest.mark.parametrize(("image_size", "downsample"), [(62, 4), (36, 8), (24, 8), (8, 4)])
def test_grid_preset_refuses_sizes(image_size, downsample):
    with pytest.raises(UserError, match=rf"--image-size {image_size} with --downsample {downsample}\b") as caught:
        presets.grid_autoencoder(image_size, downsample, None, 32)
    assert "Choose --image-size" in str(caught.value).splitlines()[-1]
    for size in map(int, re.findall(r"\d+", str(caught.value).splitlines()[-1])):
        presets.grid_autoencoder(size, downsample, None, 32)


@pytest.mark.parametrize(("image_size", "levels", "side"), [(32, 4, 4), (64, 5, 4), (96, 5, 6), (256, 7, 4)])
def test_vector_presets(image_size, levels, side):
    config = presets.vector_autoencoder(image_size, 128, 2)
    net = autoencoder.build(config)
    assert len(config["widths"]) == levels and net.side == side
    if image_size <= 96:
        x = randn(1, 3, image_size, image_size, dtype=torch.float32)
        assert net.decode(net.encode(x)[0]).shape == x.shape


@pytest.mark.parametrize("image_size", [2, 4, 7, 50, 100, 130])
def test_vector_preset_refuses_sizes(image_size):
    with pytest.raises(UserError, match=f"--image-size {image_size} cannot be halved"):
        presets.vector_autoencoder(image_size, 128, 32)


@pytest.mark.parametrize(
    ("side", "levels", "attention"),
    [(32, 3, [False, True, True]), (16, 3, [True] * 3), (18, 2, [False, True]), (8, 2, [True, True]), (7, 1, [True])],
)
def test_unet_preset_fits_every_side(side, levels, attention):
    config = presets.unet((4, side, side), 32, 1, 0.0, 2)
    assert config["widths"] == [32, 64, 128][:levels] and config["attention"] == attention
    x = randn(1, 4, side, side, dtype=torch.float32)
    with torch.no_grad():
        assert denoiser.build(config)(x, torch.tensor([5]), torch.tensor([2])).shape == x.shape


@pytest.mark.parametrize(("base", "head_dim"), [(8, 8), (16, 16), (24, 8), (56, 8), (32, 32), (96, 32)])
def test_attention_heads_share_out_every_width(base, head_dim):
    config = presets.unet((4, 4, 4), base, 1, 0.0, 0)
    assert config["head_dim"] == head_dim and all(width % head_dim == 0 for width in config["widths"])
    x = randn(1, 4, 4, 4, dtype=torch.float32)
    with torch.no_grad():
        assert denoiser.build(config)(x, torch.tensor([5])).shape == x.shape


@pytest.mark.parametrize("base", [1, 4, 31, 50])
def test_unet_preset_refuses_widths(base):
    with pytest.raises(UserError, match=f"--base-channels {base} is not a multiple of 8"):
        presets.unet((4, 8, 8), base, 1, 0.0, 0)


@pytest.mark.parametrize(("base", "groups"), [(32, 4), (64, 8), (48, 6), (8, 1), (12, 1)])
def test_groups_divide_every_width(base, groups):
    config = presets.grid_autoencoder(64, 8, None, base)
    assert config["groups"] == groups and all(width % groups == 0 for width in config["widths"])


@pytest.mark.parametrize("kind", ["unet", "vector_net"])
def test_a_network_that_is_told_the_augmentation(kind):
    """Nothing told, or zeros: the image as it is. Anything else changes the answer."""
    torch.manual_seed(0)
    if kind == "unet":
        net, x = denoiser.build(presets.unet((4, 8, 8), 32, 1, 0.0, 2, augment_dim=8)), torch.randn(2, 4, 8, 8)
    else:
        net, x = denoiser.build(presets.vector_net(6, 32, 0.0, 2, augment_dim=8)), torch.randn(2, 6)
    t, label = torch.tensor([1, 500]), torch.tensor([0, 2])
    plain = net(x, t, label)
    assert torch.equal(net(x, t, label, torch.zeros(2, 8)), plain)
    assert not torch.allclose(net(x, t, label, torch.ones(2, 8)), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [16, 600])
def test_attention_is_that_of_torch(dtype: torch.dtype, tokens: int) -> None:
    """Short rows in bfloat16 take a way of their own: the same values and gradients up to rounding."""
    q, k, v = (torch.randn(2, 3, tokens, 8, generator=torch.Generator().manual_seed(n)) for n in range(3))
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    parts = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    found = attend(*parts)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found.float(), exact, atol=tolerance, rtol=tolerance)
    exact_parts = [x.requires_grad_() for x in (q, k, v)]
    torch.nn.functional.scaled_dot_product_attention(*exact_parts).square().sum().backward()
    found.float().square().sum().backward()
    for one, other in zip(parts, exact_parts, strict=True):
        torch.testing.assert_close(one.grad.float(), other.grad, atol=3 * tolerance, rtol=3 * tolerance)
