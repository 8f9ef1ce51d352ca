"""Distances between two sets of feature vectors: KID, FID, precision, recall, density, coverage.

torch-fidelity computes them wherever it can; only density and coverage are written out here.
Sets are float arrays [N, D] and [M, D].
"""

from __future__ import annotations

import numpy as np
import torch

from stepwise.foundation.errors import UserError

KID_SUBSETS = 20
NEIGHBOURS = 5


def kid(generated: np.ndarray, real: np.ndarray) -> float:
    """Unbiased squared MMD with the cubic polynomial kernel (Bińkowski et al. 2018), mean over subsets.

    A subset is as large as the smaller set. About 0, and as often below, for sets of one distribution.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(len(generated), len(real))
    subsets = KID_SUBSETS if len(generated) != len(real) else 1
    found = kid_features_to_metric(
        *_tensors(generated, real), kid_subsets=subsets, kid_subset_size=size, rng_seed=0, verbose=False
    )
    return found[KEY_METRIC_KID_MEAN]


def fid(generated: np.ndarray, real: np.ndarray) -> float:
    """Fréchet distance of the two normal distributions (Heusel et al. 2017). Grows as the sets shrink.

    Both sets are first turned into the space that they span together. A turn changes no distance,
    and N + M numbers are fewer than Inception's 2048.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    both = np.concatenate([generated, real]).astype(np.float64)
    if len(both) < both.shape[1]:
        basis = np.linalg.svd(both, full_matrices=False)[2]
        generated, real = generated @ basis.T, real @ basis.T
    first, second = (fid_features_to_statistics(features) for features in _tensors(generated, real))
    return fid_statistics_to_metric(first, second, verbose=False)[KEY_METRIC_FID]


def precision_recall(generated: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Share of generated in the real manifold, and of real in the generated (Kynkäänniemi et al. 2019, k = 3)."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    found = prc_features_to_metric(*_tensors(generated, real), verbose=False)
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]


def density_coverage(generated: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Naeem et al. 2020, equations 5 and 6, k = 5: around each real image lies the ball of its k nearest real ones.

    Density: in how many of these balls a generated image lies, over k. Coverage: share of balls with
    a generated image in them. Raises UserError where a real image has fewer than k others.
    """
    if len(real) <= NEIGHBOURS:
        raise UserError(
            f"Density and coverage need {NEIGHBOURS} neighbours of each real image; there are {len(real)} images.\n"
            f"Give {NEIGHBOURS + 1} or more."
        )
    generated_features, real_features = _tensors(generated, real)
    radius = torch.cdist(real_features, real_features).kthvalue(NEIGHBOURS + 1, dim=1).values
    inside = torch.cdist(real_features, generated_features) < radius[:, None]  # [M, N]
    return float(inside.sum(dim=0).double().mean() / NEIGHBOURS), float(inside.any(dim=1).double().mean())


def _tensors(*sets: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64)) for features in sets]
