import pytest
import torch
from torch import nn

from stepwise.diffusion import schedule
from stepwise.diffusion.objective import denoising_loss, predictor, read

PLAN = schedule.build("linear", 1000)
T = torch.tensor([0, 250, 600, 999])


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Recorder(nn.Module):
    """Answers with `reply(xt, t, label)` and keeps what it was asked."""

    def __init__(self, reply):
        super().__init__()
        self.reply, self.calls = reply, []

    def forward(self, xt, t, label):
        self.calls.append((xt, t, label))
        return self.reply(xt, t, label)


def shaped(values, like):
    return values.float().reshape(-1, *[1] * (like.ndim - 1))


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 9)], ids=["grid", "vector"])
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("gamma", [0.0, 5.0, 0.5])
def test_loss_is_the_written_formula(shape, prediction, gamma):
    x0, eps, answer, label = randn(*shape), randn(*shape, seed=1), randn(*shape, seed=2), torch.tensor([3, 1, 0, 2])
    net = Recorder(lambda xt, t, label: answer)
    found = denoising_loss(net, PLAN, x0, eps, T, label, prediction=prediction, min_snr_gamma=gamma)

    a = PLAN.alpha_bar[T]
    signal, sigma = shaped(a.sqrt(), x0), shaped((1 - a).sqrt(), x0)
    target = eps if prediction == "eps" else signal * eps - sigma * x0
    wanted = ((answer - target) ** 2).flatten(1).mean(dim=1)
    snr = a / (1 - a)
    if gamma:
        weights = snr.clamp(max=gamma)
        wanted = wanted * (weights / snr if prediction == "eps" else weights / (snr + 1)).float()
    assert found.shape == (4,)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)  # 1 - alpha_bar at t = 0 in float32: 1e-3 of it

    ((xt, t, given),) = net.calls
    torch.testing.assert_close(xt, signal * x0 + sigma * eps)
    assert torch.equal(t, T) and torch.equal(given, label)


@pytest.mark.parametrize("gamma", [0.0, 5.0])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_right_answer_costs_nothing(prediction, gamma):
    x0, eps = randn(4, 6), randn(4, 6, seed=1)
    a = PLAN.alpha_bar[T]
    v = shaped(a.sqrt(), x0) * eps - shaped((1 - a).sqrt(), x0) * x0
    net = Recorder(lambda xt, t, label: eps if prediction == "eps" else v)
    loss = denoising_loss(net, PLAN, x0, eps, T, None, prediction=prediction, min_snr_gamma=gamma)
    assert loss.max() < 1e-10


def test_min_snr_weights_both_predictions_alike_in_x0():
    """One error of x0_hat costs min(SNR, gamma) times its square, said as eps or as v."""
    x0, eps = randn(4, 6), randn(4, 6, seed=1)
    a = PLAN.alpha_bar[T]
    signal, sigma = shaped(a.sqrt(), x0), shaped((1 - a).sqrt(), x0)
    wrong = x0 + 0.1

    def answer(prediction):
        def reply(xt, t, label):
            eps_hat = (xt - signal * wrong) / sigma
            return eps_hat if prediction == "eps" else signal * eps_hat - sigma * wrong

        return Recorder(reply)

    wanted = 0.01 * (a / (1 - a)).clamp(max=5).float()
    for prediction in ("eps", "v"):
        loss = denoising_loss(answer(prediction), PLAN, x0, eps, T, None, prediction=prediction, min_snr_gamma=5.0)
        torch.testing.assert_close(loss, wanted, rtol=5e-3, atol=1e-7)


def test_gradient_reaches_the_network():
    net = nn.Linear(6, 6)
    loss = denoising_loss(
        lambda xt, t, label: net(xt), PLAN, randn(4, 6), randn(4, 6, seed=1), T, None, prediction="v", min_snr_gamma=5.0
    )
    loss.mean().backward()
    assert net.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("alpha_bar", [0.9999, 0.5, 1e-3])
def test_read_inverts(prediction, alpha_bar):
    x0, eps = randn(2, 5).double(), randn(2, 5, seed=1).double()
    signal, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    output = eps if prediction == "eps" else signal * eps - sigma * x0
    x0_hat, eps_hat = read(output, signal * x0 + sigma * eps, alpha_bar, prediction)
    torch.testing.assert_close(x0_hat, x0)
    torch.testing.assert_close(eps_hat, eps)


def labelled(xt, t, label):
    return 0.3 * xt + 0.001 * shaped(t, xt) + torch.sin(shaped(label + 1, xt))


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("guidance", [0.0, 2.0, 4.5])
def test_guidance_is_the_manual_combination_in_one_call(prediction, guidance):
    net, xt, label = Recorder(labelled), randn(3, 4, 2, 2), torch.tensor([0, 2, 1])
    found = predictor(net, PLAN, prediction, label, null_label=7, guidance=guidance)(xt, 600)

    t = torch.full((3,), 600)
    cond, uncond = labelled(xt, t, label), labelled(xt, t, torch.full((3,), 7))
    wanted = read((1 - guidance) * uncond + guidance * cond, xt, float(PLAN.alpha_bar[600]), prediction)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    ((inputs, times, labels),) = net.calls
    assert torch.equal(inputs, torch.cat([xt, xt])) and times.tolist() == [600] * 6
    assert labels.tolist() == [0, 2, 1, 7, 7, 7]


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_guidance_one_is_conditional_and_costs_one_pass(prediction):
    net, xt, label = Recorder(labelled), randn(3, 5), torch.tensor([0, 2, 1])
    found = predictor(net, PLAN, prediction, label, null_label=7, guidance=1.0)(xt, 10)
    wanted = read(labelled(xt, torch.full((3,), 10), label), xt, float(PLAN.alpha_bar[10]), prediction)
    torch.testing.assert_close(found, wanted)
    ((inputs, times, labels),) = net.calls
    assert len(inputs) == 3 and torch.equal(labels, label) and times.tolist() == [10] * 3


def test_without_labels_guidance_changes_nothing():
    net, xt = Recorder(lambda xt, t, label: 0.5 * xt), randn(3, 5)
    predictor(net, PLAN, "v", None, null_label=0, guidance=3.0)(xt, 10)
    ((inputs, _, labels),) = net.calls
    assert len(inputs) == 3 and labels is None


@pytest.mark.parametrize("label", [torch.tensor([0, 2, 1]), None])
def test_a_guide_takes_the_place_of_the_missing_label(label):
    """Autoguidance: away from the guide, told the same label; with classes or without."""
    xt, t = randn(3, 5), torch.full((3,), 600)

    def strong(xt, t, label):
        return 0.3 * xt if label is None else labelled(xt, t, label)

    def weak(xt, t, label):
        return strong(xt, t, label) + 0.1

    net, guide = Recorder(strong), Recorder(weak)
    found = predictor(net, PLAN, "v", label, 7, 3.0, guide=guide)(xt, 600)
    wanted = read(strong(xt, t, label) - 2 * 0.1, xt, float(PLAN.alpha_bar[600]), "v")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    for calls in (net.calls, guide.calls):
        ((inputs, _, labels),) = calls
        assert len(inputs) == 3 and labels is label
    predictor(net, PLAN, "v", label, 7, 3.0, (0.0, 0.1), guide=guide)(xt, 600)
    assert (len(net.calls), len(guide.calls)) == (2, 1), "outside of the interval the guide is not asked"


def test_guidance_acts_inside_its_interval_only():
    """sigma at t is sqrt((1 - a) / a); outside of the interval the network runs once, with the label alone."""
    sigma = ((1 - PLAN.alpha_bar) / PLAN.alpha_bar).sqrt()
    label, seen = torch.tensor([1, 0]), []

    def net(xt, t, label):
        seen.append(len(xt))
        return label.float()[:, None].expand(-1, 6)

    predict = predictor(net, PLAN, "eps", label, 2, 3.0, (0.5, 5.0))
    for t in range(0, 1000, 37):
        seen.clear()
        _, eps_hat = predict(torch.zeros(2, 6), t)
        inside = 0.5 <= sigma[t] <= 5.0
        assert seen == ([4] if inside else [2])
        wanted = 2 + 3 * (label - 2.0) if inside else label.float()
        torch.testing.assert_close(eps_hat[:, 0], wanted)


def test_the_network_is_told_the_augmentation_where_there_is_one():
    x0, eps, t, told = randn(2, 6), randn(2, 6, seed=1), torch.tensor([3, 50]), randn(2, 8)
    found = []

    def net(xt, t, label, augment=None):
        found.append(augment)
        return xt

    for augment in (told, None):
        denoising_loss(net, PLAN, x0, eps, t, None, prediction="v", min_snr_gamma=5.0, augment=augment)
    assert found[0] is told and found[1] is None
