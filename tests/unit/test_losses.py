import io
import socket
from functools import partial

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from stepwise.foundation import weight_files
from stepwise.foundation.errors import UserError
from stepwise.losses import perceptual
from stepwise.losses.perceptual import LaplacianPyramid, VGGPerceptual
from stepwise.losses.vae import kl_nats, vae_loss


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 5)], ids=["vector", "grid"])
def test_kl_is_that_of_torch_distributions(shape):
    mu, logvar = randn(*shape), randn(*shape, seed=1)
    per_number = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(torch.zeros(shape), torch.ones(shape)))
    wanted = per_number.sum() / (mu.numel() / 6)  # a latent vector has 6 numbers
    torch.testing.assert_close(kl_nats(mu, logvar), wanted)
    assert kl_nats(torch.zeros(shape), torch.zeros(shape)) == 0


def loss_and_gradient(mu, weight, target):
    mu = mu.clone().requires_grad_()
    logvar = torch.zeros_like(mu).requires_grad_()
    x, x_hat = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    parts = vae_loss(x_hat, x, mu, logvar, weight, target)
    parts["loss"].backward()
    torch.testing.assert_close(parts["l1"], (x_hat - x).abs().mean())
    return {name: float(value.detach()) for name, value in parts.items()}, mu.grad


def test_kl_below_its_budget_costs_nothing():
    mu = torch.full((5, 8), 1.0)  # 8 numbers of half a nat
    parts, gradient = loss_and_gradient(mu, weight=0.3, target=4.1)
    assert parts["kl"] == pytest.approx(4.0) and parts["loss"] == parts["l1"]
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("target", [0.0, 2.5, 3.9])
def test_kl_above_its_budget_costs_the_excess(target):
    parts, gradient = loss_and_gradient(torch.full((5, 8), 1.0), weight=0.3, target=target)
    scale = 0.3 / max(target, 1.0)
    assert parts["loss"] == pytest.approx(parts["l1"] + scale * (4.0 - target), rel=1e-5)
    torch.testing.assert_close(gradient, torch.full((5, 8), scale / 5))


def test_vae_loss_is_float32_under_half_precision():
    half = partial(torch.full, dtype=torch.bfloat16)
    x = torch.zeros(2, 3, 4, 4)
    parts = vae_loss(half(x.shape, 0.5), x, half((2, 4), 8.0), half((2, 4), 0.0), 1.0, 0.0)
    assert all(value.dtype == torch.float32 for value in parts.values())
    assert parts["kl"] == 128 and parts["loss"] == 128.5


def test_pyramid_is_a_distance():
    loss, x = LaplacianPyramid(), randn(2, 3, 32, 32)
    noise = randn(2, 3, 32, 32, seed=1)
    assert loss(x, x) == 0
    near, far = loss(x + 0.1 * noise, x), loss(x + 0.3 * noise, x)
    assert 0 < near < far
    torch.testing.assert_close(far, 3 * near)
    torch.testing.assert_close(loss(x, x + noise), loss(x + noise, x))


def test_pyramid_weighs_shapes_more_than_noise():
    """Where the L1 distance is the same, an error that is wide costs more than one of single pixels."""
    loss, zero = LaplacianPyramid(), torch.zeros(1, 3, 32, 32)
    wide = zero.clone()
    wide[..., 16:] = 1
    single = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * torch.ones_like(zero)
    assert wide.mean() == single.mean()
    assert LaplacianPyramid(levels=1)(single, zero) > LaplacianPyramid(levels=1)(wide, zero)
    ratio = loss(wide, zero) / LaplacianPyramid(levels=1)(wide, zero)
    assert ratio > 2 * loss(single, zero) / LaplacianPyramid(levels=1)(single, zero)


def test_pyramid_gradient():
    x, y = randn(1, 3, 16, 16).requires_grad_(), randn(1, 3, 16, 16, seed=1)
    LaplacianPyramid()(x, y).backward()
    assert (x.grad.abs() > 0).float().mean() > 0.9
    net = LaplacianPyramid()
    assert not list(net.parameters()) and not net.state_dict()


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (8, 8), (12, 33)])
def test_pyramid_of_small_images(size):
    x, y = randn(2, 3, *size), randn(2, 3, *size, seed=1)
    value = LaplacianPyramid()(x, y)
    assert torch.isfinite(value) and value > 0


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """A real file with random weights: as large as torchvision's, so it goes as soon as the tests are over."""
    from torchvision.models import vgg16

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "weights.pth"
    torch.save(vgg16(weights=None, init_weights=False).state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture
def offline(empty_cache):
    return empty_cache / "vgg16-397923af.pth"


def fails(kind, file, *words):
    with pytest.raises(UserError) as caught:
        perceptual.build(kind, file)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert len(text.splitlines()) <= 3
    return text


REMEDIES = ("--perceptual-weights", "--perceptual-net pyramid", "--no-perceptual")


def test_vgg16_from_a_file(vgg_file):
    net, kind, line = perceptual.build("vgg16", vgg_file)
    assert isinstance(net, VGGPerceptual) and kind == "vgg16"
    assert str(vgg_file) in line and len(line.splitlines()) == 1
    assert list(net.parameters()) and not any(parameter.requires_grad for parameter in net.parameters())
    assert not any(module.training for module in net.features)

    x, y = randn(2, 3, 32, 32).clamp(-1, 1).requires_grad_(), randn(2, 3, 32, 32, seed=1).clamp(-1, 1).requires_grad_()
    loss = net(x, y)
    loss.backward()
    assert loss.ndim == 0 and loss > 0 and y.grad is None
    assert x.grad.flatten(1).abs().sum(dim=1).min() > 0
    assert net(y.detach(), y.detach()) == 0
    with torch.no_grad():
        apart = [net(x[i : i + 1], y[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(loss.detach(), sum(apart) / 2)
    assert net(0.5 * (x + y).detach(), y) < loss


def test_vgg_layers_are_the_relus(vgg_file):
    """relu1_2, relu2_2, relu3_3, relu4_3: 64, 128, 256, 512 channels, none negative, of unit length."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        whole = vgg16(weights=None, init_weights=False).features
    pools = [i for i, module in enumerate(whole) if isinstance(module, torch.nn.MaxPool2d)]
    assert tuple(i - 1 for i in pools[:4]) == perceptual.VGG_LAYERS
    net = perceptual.build("auto", vgg_file)[0]
    layers = net._layers(randn(1, 3, 32, 32))
    assert [tuple(layer.shape[1:]) for layer in layers] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    for layer in layers:
        assert layer.min() == 0
        length = layer.norm(dim=1)
        torch.testing.assert_close(length, (length > 0.5).float())


def text_file(path):
    path.write_text("<html>404</html>")


def empty_file(path):
    path.touch()


def other_net(path):
    torch.save({"weight": torch.zeros(3)}, path)


def no_dict(path):
    torch.save(torch.zeros(3), path)


def code_inside(path):
    torch.save({"weight": io.StringIO()}, path)


@pytest.mark.parametrize("write", [text_file, empty_file, other_net, no_dict, code_inside])
@pytest.mark.parametrize("kind", ["vgg16", "auto"])
def test_a_wrong_file_is_refused(tmp_path, write, kind):
    write(tmp_path / "weights.pth")
    fails(kind, tmp_path / "weights.pth", "weights.pth cannot be used", *REMEDIES)


def test_a_file_of_another_net_says_so(tmp_path):
    other_net(tmp_path / "weights.pth")
    fails("vgg16", tmp_path / "weights.pth", "not those of torchvision's vgg16")


@pytest.mark.parametrize("kind", ["vgg16", "auto"])
def test_a_missing_file_is_refused(tmp_path, kind):
    fails(kind, tmp_path / "no.pth", "no.pth does not exist", *REMEDIES)
    fails(kind, tmp_path, "cannot be used", *REMEDIES)


def test_pyramid_takes_no_weights(tmp_path):
    fails("pyramid", tmp_path / "weights.pth", "--perceptual-weights", "pyramid")
    net, kind, line = perceptual.build("pyramid", None)
    assert isinstance(net, LaplacianPyramid) and kind == "pyramid" and "pyramid" in line


def test_auto_without_weights_is_the_pyramid_and_says_why(offline):
    net, kind, line = perceptual.build("auto", None)
    assert isinstance(net, LaplacianPyramid) and kind == "pyramid"
    assert "Laplacian pyramid" in line and "neither cached nor reachable" in line and len(line.splitlines()) == 1


def test_auto_on_a_cpu_looks_for_no_weights_but_those_given(vgg_file, monkeypatch):
    def find(*_):
        raise AssertionError("nothing is to be looked for or downloaded")

    monkeypatch.setattr(weight_files, "find", find)
    net, kind, line = perceptual.build("auto", None, cpu=True)
    assert isinstance(net, LaplacianPyramid) and kind == "pyramid" and "CPU" in line
    assert perceptual.build("auto", vgg_file, cpu=True)[1] == "vgg16"
    with pytest.raises(AssertionError):
        perceptual.build("vgg16", None, cpu=True)


def test_a_stalled_download_is_given_up(offline, monkeypatch):
    def download(*_, **__):
        raise TimeoutError(f"limit {socket.getdefaulttimeout()}")

    monkeypatch.setattr(weight_files, "reachable", lambda url: True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    fails("vgg16", None, f"limit {weight_files.STALLED_S}", *REMEDIES)
    assert socket.getdefaulttimeout() is None


def test_vgg16_without_weights_names_the_remedies(offline):
    fails("vgg16", None, "neither cached nor reachable", *REMEDIES)


def test_a_damaged_cache_is_not_used(offline):
    offline.parent.mkdir(parents=True)
    offline.write_bytes(b"half a download")
    fails("vgg16", None, str(offline), "damaged", "Delete that file", *REMEDIES)
    _, kind, line = perceptual.build("auto", None)
    assert kind == "pyramid" and "damaged" in line


@pytest.mark.parametrize("error", [OSError("broken pipe"), RuntimeError("invalid hash value")])
def test_a_failed_download_names_the_remedies(offline, monkeypatch, error):
    def download(url, file, hash_prefix):
        assert (file, hash_prefix) == (str(offline), "397923af")
        raise error

    monkeypatch.setattr(weight_files, "reachable", lambda url: True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    fails("vgg16", None, str(error), *REMEDIES)
    assert str(error) in perceptual.build("auto", None)[2]


@pytest.mark.parametrize("size", [(32, 32), (33, 30)])
def test_pyramid_takes_a_slope_for_no_edge(size):
    """What is linear is the same at every scale: nothing of it is left in the fine bands, but at the border."""
    net = LaplacianPyramid()
    down, right = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij")
    slope = (0.01 * down + 0.02 * right).expand(1, 3, *size)
    coarse = net._reduced(slope)
    torch.testing.assert_close(coarse[..., 2:-2, 2:-2], slope[..., ::2, ::2][..., 2:-2, 2:-2])
    left = slope - net._expanded(coarse)[:, :, : size[0], : size[1]]
    assert left[..., 6:-6, 6:-6].abs().max() < 1e-5


def test_pyramid_is_the_same_under_autocast():
    x, y = randn(1, 3, 32, 32).float(), randn(1, 3, 32, 32, seed=1).float()
    wanted = LaplacianPyramid()(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(LaplacianPyramid()(x, y), wanted)
