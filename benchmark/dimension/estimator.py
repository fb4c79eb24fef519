"""Intrinsic dimension by maximum likelihood (Levina and Bickel 2004), with an interval.

https://papers.nips.cc/paper/2577. Around a point x, the distances to its neighbours grow as those
of a Poisson process on an m-dimensional manifold. With T_j the distance to the j-th nearest, the
local estimate from k neighbours is

    m_k(x) = (k - 2) / sum_{j<k} log(T_k / T_j),

the form with k - 2 being unbiased at one point. ``levina`` averages m_k(x) over points and over k;
``mackay`` averages 1 / m_k(x) over points, as MacKay and Ghahramani advise
(http://www.inference.org.uk/mackay/dimension/), and then the inverses of these means over k. The
inverse of a mean is unbiased with k - 1, not k - 2: under the model ``mackay`` falls short by the
factor of :func:`mackay_factor`, 0.866 for k from 6 to 12. It is kept because the toolbox that the
OT-Classifier paper names computes it so (https://github.com/OFAI/hub-toolbox-python3).

Nothing here needs torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Average = Literal["mackay", "levina"]
Scaling = Literal["none", "std", "var"]
AVERAGES: tuple[Average, ...] = get_args(Average)
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)
SMALLEST_K = 3
CONFIDENCE = 0.95
DRAWS = 500

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """One estimate of the dimension and its interval, from the k1 to k2 nearest neighbours."""

    average: Average
    scaling: Scaling
    k1: int
    k2: int
    value: float
    ci_low: float
    ci_high: float


def estimate_dimension(
    points: npt.NDArray[Any], scaling: Scaling, k1: int, k2: int, rng: np.random.Generator
) -> tuple[Estimate, ...]:
    """Return both averages' estimates for the distinct ``points`` (N, F), N > 2 * k2 + 1.

    ValueError if two points are the same, or if there are too few.
    """
    distance = log_distances(scale(points, scaling))
    inverse = inverse_local(nearest(distance, k2), k1)
    values = {average: averaged(inverse, average) for average in AVERAGES}
    ends = intervals(distance, k1, k2, rng)
    return tuple(Estimate(a, scaling, k1, k2, value, *ends[a]) for a, value in values.items())


# --- points and distances --------------------------------------------------------------------


def distinct(points: npt.NDArray[Any]) -> Rows:
    """Return the rows (int64, ascending) of ``points`` (N, F) that repeat no earlier one.

    A copy lies at distance zero, which no density on a manifold allows for.
    """
    _, first = np.unique(points, axis=0, return_index=True)
    return np.sort(first).astype(np.int64)


def scale(points: npt.NDArray[Any], scaling: Scaling) -> Floats:
    """Centre the features of ``points`` (N, F) and divide by nothing, std or variance.

    Returns float64 (N, F'): features that are the same in all points are left out, since they
    move no point and have no spread to divide by.
    """
    x: Floats = points[:, np.ptp(points, axis=0) > 0].astype(np.float64)
    x -= x.mean(axis=0)
    if scaling == "std":
        x /= x.std(axis=0)
    elif scaling == "var":
        x /= x.var(axis=0)
    return x


def log_distances(points: Floats) -> Floats:
    """Return the log Euclidean distances (N, N) of ``points`` (N, F); infinite from any to itself.

    The infinity keeps a point from being its own neighbour. ValueError if two points are the same.
    """
    from sklearn.metrics import euclidean_distances

    distance: Floats = euclidean_distances(points)
    np.fill_diagonal(distance, np.inf)
    if not (distance > 0).all():
        raise ValueError("two points are the same: the log of their distance is not finite")
    return np.log(distance, out=distance)


def nearest(log_distance: Floats, k: int) -> Floats:
    """Return each point's ``k`` smallest log distances (N, k), ascending, out of (N, N)."""
    if not 1 <= k < len(log_distance):
        raise ValueError(f"{len(log_distance)} points do not have {k} neighbours each")
    return np.sort(np.partition(log_distance, k - 1, axis=1)[:, :k], axis=1)


# --- the estimator ---------------------------------------------------------------------------


def inverse_local(neighbours: Floats, k1: int) -> Floats:
    """Return 1 / m_k(x) for k = ``k1`` to k2, (N, k2 - k1 + 1), from log distances (N, k2).

    Never negative; zero where a point's k neighbours all lie at one distance.
    """
    k2 = neighbours.shape[1]
    if not SMALLEST_K <= k1 <= k2:
        raise ValueError(f"k1 and k2 must satisfy {SMALLEST_K} <= k1 <= k2, got {k1} and {k2}")
    k = np.arange(k1, k2 + 1)
    sums = k * neighbours[:, k1 - 1 :] - np.cumsum(neighbours, axis=1)[:, k1 - 1 :]
    inverse: Floats = np.maximum(sums, 0) / (k - 2)
    return inverse


def averaged(inverse: Floats, average: Average) -> float:
    """Return the estimate from the 1 / m_k(x) of every point and k, (N, number of k)."""
    with np.errstate(divide="ignore"):
        if average == "mackay":
            return float((1 / inverse.mean(axis=0)).mean())
        return float((1 / inverse).mean())


def mackay_factor(k1: int, k2: int) -> float:
    """Return what ``mackay`` gives per true dimension, under the model and over many points."""
    k = np.arange(k1, k2 + 1)
    return float(((k - 2) / (k - 1)).mean())


# --- the interval ----------------------------------------------------------------------------


def intervals(
    log_distance: Floats,
    k1: int,
    k2: int,
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
) -> dict[Average, tuple[float, float]]:
    """Return resampling intervals over points, by average, from log distances (N, N).

    N must be above 2 * k2 + 1, so that every half has k2 neighbours for each of its points.

    n points drawn with replacement hold copies at distance zero, and the bootstrap of a
    nearest-neighbour statistic fails even where it is defined (Abadie and Imbens 2008,
    https://doi.org/10.3982/ECTA6474). So half of the points are drawn without replacement, and
    their neighbours are searched among themselves (half-sampling, the delete-d jackknife with
    d = n / 2: Shao and Wu 1989, https://doi.org/10.1214/aos/1176347263). The deviations of the
    draws from their own mean, which differs from the estimate because half of the points lie
    farther apart, are those of the estimate, times sqrt((n - d) / d) = 1 for an even n; they are
    taken in logarithms, so that no end is negative.

    How wide they are beside samples drawn again: docs/constants.md.
    What the interval covers is the estimate's mean over samples of n points: not its bias from
    curved or edged manifolds and noise, which no resampling of the same points shows. Scaling is
    held fixed.
    """
    n = len(log_distance)
    size = n // 2
    found = {average: np.empty(draws) for average in AVERAGES}
    for draw, rows in enumerate(_subsamples(n, size, draws, rng)):
        inverse = inverse_local(nearest(log_distance[np.ix_(rows, rows)], k2), k1)
        for average, values in found.items():
            values[draw] = averaged(inverse, average)
    whole = inverse_local(nearest(log_distance, k2), k1)
    tail = (1 - confidence) / 2
    ends: dict[Average, tuple[float, float]] = {}
    for average, values in found.items():
        logs = np.log(values)
        shrunk = (logs - logs.mean()) * np.sqrt(size / (n - size))
        low, high = averaged(whole, average) * np.exp(-np.quantile(shrunk, [1 - tail, tail]))
        ends[average] = (float(low), float(high))
    return ends


def _subsamples(n: int, size: int, draws: int, rng: np.random.Generator) -> Iterator[Rows]:
    for _ in range(draws):
        yield rng.choice(n, size, replace=False, shuffle=False)
