"""How far a defense's codes lie from the prior that its regulariser aims at."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

PROJECTIONS = 256
RESAMPLES = 100


def sliced_distance(codes: Array, prior: Array, seed: int) -> float:
    """Return the sliced 2-Wasserstein distance of two samples (N, k) and (M, k).

    The mean over random directions of the squared 1-D distance, square-rooted (Bonneel et al.
    2015, https://doi.org/10.1007/s10851-014-0506-3); the directions hang on ``seed`` alone.
    """
    from ot.sliced import sliced_wasserstein_distance  # POT imports every array library it finds

    return float(sliced_wasserstein_distance(codes, prior, n_projections=PROJECTIONS, seed=seed))


def distance_from_prior(codes: Array, seed: int) -> float:
    """Return the sliced distance of codes (N, k) from a sample of N(0, I) of the same size.

    The sample and the directions hang on N, k and ``seed`` alone: over the epochs of a training
    nothing but the codes moves the value.
    """
    return sliced_distance(codes, np.random.default_rng(seed).standard_normal(codes.shape), seed)


def code_distance(codes: Array, seed: int) -> dict[str, Any]:
    """Compare codes (N, k) with a sample of the prior N(0, I) of the same size.

    Returns ``value``; ``ci_low`` and ``ci_high``, value -+ 1.96 bootstrap standard errors over the
    images; ``floor``, the distance of two samples of the prior from each other, below which no
    encoder can be told from the prior with ``n`` images; and ``n``.
    """
    rng = np.random.default_rng(seed)
    prior, other = rng.standard_normal((2, *codes.shape))
    value = sliced_distance(codes, prior, seed)
    error = 1.96 * _standard_error(codes, prior, seed, rng)
    return {
        "value": value,
        "ci_low": max(0.0, value - error),
        "ci_high": value + error,
        "floor": sliced_distance(other, prior, seed),
        "n": len(codes),
    }


def _standard_error(codes: Array, prior: Array, seed: int, rng: np.random.Generator) -> float:
    """Return the bootstrap standard error of the sliced distance over the images (N).

    The same distance as :func:`sliced_distance`; what the resamples share is computed once.
    """
    from ot.sliced import get_random_projections

    directions = get_random_projections(codes.shape[1], PROJECTIONS, seed)
    along, target = (codes @ directions).T, np.sort((prior @ directions).T)
    resampled = []
    for _ in range(RESAMPLES):
        rows = rng.integers(len(codes), size=len(codes))
        resampled.append(np.sqrt(np.mean((np.sort(along[:, rows]) - target) ** 2)))
    return float(np.std(resampled, ddof=1))
