"""How far a defense's embeddings lie from the prior that its regulariser aims at."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

PROJECTIONS = 256
RESAMPLES = 100


def sliced_distance(z: Array, prior: Array, seed: int) -> float:
    """Return the sliced 2-Wasserstein distance of two samples (N, k) and (M, k).

    The mean over random directions of the squared 1-D distance, square-rooted (Bonneel et al.
    2015, https://doi.org/10.1007/s10851-014-0506-3); the directions depend on ``seed`` alone.
    """
    from ot.sliced import sliced_wasserstein_distance  # POT imports every array library it finds

    return float(sliced_wasserstein_distance(z, prior, n_projections=PROJECTIONS, seed=seed))


def distance_from_prior(z: Array, seed: int) -> float:
    """Return the sliced distance of embeddings z (N, k) from a sample of N(0, I) of that size.

    The sample and the directions depend on N, k and ``seed`` alone, so over the epochs of a
    training only the embeddings move the value.
    """
    return sliced_distance(z, np.random.default_rng(seed).standard_normal(z.shape), seed)


def embedding_distance(z: Array, seed: int) -> dict[str, Any]:
    """Compare embeddings z (N, k) with a sample of the prior N(0, I) of the same size.

    Returns ``value``; ``ci_low`` and ``ci_high``, value -+ 1.96 bootstrap standard errors over the
    images; ``floor``, the distance of two samples of the prior from each other, below which no
    encoder can be told from the prior with ``n`` images; and ``n``.
    """
    rng = np.random.default_rng(seed)
    prior, other = rng.standard_normal((2, *z.shape))
    value = sliced_distance(z, prior, seed)
    error = 1.96 * _standard_error(z, prior, seed, rng)
    return {
        "value": value,
        "ci_low": max(0.0, value - error),
        "ci_high": value + error,
        "floor": sliced_distance(other, prior, seed),
        "n": len(z),
    }


def _standard_error(z: Array, prior: Array, seed: int, rng: np.random.Generator) -> float:
    """Return the bootstrap standard error of the sliced distance over the images (N).

    The same distance as :func:`sliced_distance`; what the resamples share is computed once.
    """
    from ot.sliced import get_random_projections

    directions = get_random_projections(z.shape[1], PROJECTIONS, seed)
    along, target = (z @ directions).T, np.sort((prior @ directions).T)
    resampled = []
    for _ in range(RESAMPLES):
        rows = rng.integers(len(z), size=len(z))
        resampled.append(np.sqrt(np.mean((np.sort(along[:, rows]) - target) ** 2)))
    return float(np.std(resampled, ddof=1))
