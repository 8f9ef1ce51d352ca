import numpy as np
import torch
import torch.nn.functional as F

from stepwise.losses.equivariance import turn_and_shrink


def test_latent_and_picture_are_changed_alike():
    """The latent is the picture's cell means here, so the same change keeps it so."""
    x = F.interpolate(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), size=64, mode="bicubic")
    z = F.avg_pool2d(x, 8)
    sizes = set()
    for seed in range(60):
        change = turn_and_shrink(np.random.default_rng(seed), 8)
        small_z, small_x = change(z), change(x)
        side = small_z.shape[-1]
        assert small_z.shape == (2, 3, side, side) and small_x.shape == (2, 3, 8 * side, 8 * side)
        sizes.add(side)
        means = F.avg_pool2d(small_x, 8)
        if side == 8:
            torch.testing.assert_close(small_z, means)
        else:
            assert torch.corrcoef(torch.stack([small_z.flatten(), means.flatten()]))[0, 1] > 0.95
    assert sizes == {2, 3, 4, 5, 6, 7, 8}


def test_all_quarter_turns_come():
    z = torch.arange(16.0).reshape(1, 1, 4, 4)
    found = {
        tuple(out.flatten().tolist())
        for out in (turn_and_shrink(np.random.default_rng(seed), 4)(z) for seed in range(80))
        if out.shape[-1] == 4
    }
    assert found == {tuple(torch.rot90(z, k, (2, 3)).flatten().tolist()) for k in range(4)}
