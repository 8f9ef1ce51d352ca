import subprocess
import sys

import numpy as np
import pytest
import torch

from stepwise.foundation.seeds import derive, noise_like, numpy_rng, seed_weights, torch_rng


@pytest.mark.parametrize(
    ("names", "value"),
    [((0, "order", 0), 3471081512423777433), ((42, "train", 3, 7), 4588187456300358180), ((0,), 4246866556266386882)],
)
def test_derive_is_frozen(names, value):
    """A change here changes every run: data order, augmentation, noise, previews and the validation split."""
    assert derive(*names) == value


def test_derive_does_not_depend_on_the_process():
    code = "from stepwise.foundation.seeds import derive; print(derive(1, 'stream', 2))"
    for hash_seed in ("0", "1"):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)}
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert int(found.stdout) == derive(1, "stream", 2)


def test_names_and_seeds_are_apart():
    names = [(seed, stream, i) for seed in range(10) for stream in ("a", "b", "ab") for i in range(100)]
    values = [derive(*name) for name in names]
    assert len(set(values)) == len(names)
    assert all(0 <= value < 2**63 for value in values)
    assert derive(1, "a", 11) != derive(1, "a1", 1) and derive(1, "1") != derive(11)


def test_derived_seeds_use_all_bits():
    bits = np.array([[derive(0, "bits", i) >> b & 1 for b in range(63)] for i in range(2000)])
    assert bits.mean(axis=0).min() > 0.4 and bits.mean(axis=0).max() < 0.6


def test_generators_are_made_anew():
    assert numpy_rng(0, "a", 1).random() == numpy_rng(0, "a", 1).random() != numpy_rng(0, "a", 2).random()
    draw = [torch.rand(3, generator=torch_rng(0, "a", i)) for i in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


def test_streams_are_independent():
    """Neighbouring steps, streams and seeds: no correlation beyond chance (0.01 is one deviation)."""
    names = [(0, "eps", 0), (0, "eps", 1), (0, "posterior", 0), (1, "eps", 0), (0, "eps", 10)]
    noise = torch.stack([noise_like((10_000,), *name) for name in names])
    correlation = torch.corrcoef(noise) - torch.eye(len(names))
    assert correlation.abs().max() < 0.05
    assert noise.mean(dim=1).abs().max() < 0.05 and (noise.std(dim=1) - 1).abs().max() < 0.05


def test_noise_leaves_the_global_generators_alone():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    wanted = torch.rand(2), np.random.rand()  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    noise_like((4, 2), 0, "eps", 3)
    numpy_rng(0, "order", 1).permutation(5)
    assert torch.equal(torch.rand(2), wanted[0]) and np.random.rand() == wanted[1]  # noqa: NPY002


def test_noise_has_the_shape_asked_for():
    noise = noise_like((2, 3, 4), 0, "eps")
    assert noise.shape == (2, 3, 4) and noise.dtype == torch.float32 and noise.device.type == "cpu"


def test_seed_weights():
    weights = []
    for seed in (0, 0, 1):
        seed_weights(seed)
        weights.append(torch.nn.Linear(3, 3).weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
