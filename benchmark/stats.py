"""How sure a number is: intervals for a share of images, paired tests, intervals over trainings.

Nothing here needs torch; scipy and statsmodels, which take a second or two to import, are imported
where they are used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer[Any]]


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval ``(low, high)`` for ``successes`` out of ``n``.

    Unlike the normal approximation it keeps inside [0, 1] and is not empty at 0 and at ``n``
    (Wilson 1927; Brown, Cai, DasGupta 2001, https://doi.org/10.1214/ss/1009213286).
    ``successes`` may be a fraction: a mean over seeds times the number of images. With ``n`` of
    0 nothing is known and both ends are NaN.
    """
    low, high = wilson_intervals([successes], [n], confidence)
    return float(low[0]), float(high[0])


def wilson_intervals(
    successes: npt.ArrayLike, n: npt.ArrayLike, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Return :func:`wilson_interval` of each entry: the lower and the upper ends."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    k, total = np.broadcast_arrays(np.asarray(successes, dtype=float), np.asarray(n, dtype=float))
    known = total != 0
    wrong = known & ~((k >= 0) & (k <= total))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"successes must lie between 0 and n = {total.flat[first]:g}, got {k.flat[first]:g}"
        )
    from statsmodels.stats.proportion import proportion_confint

    low, high = np.full(k.shape, math.nan), np.full(k.shape, math.nan)
    k, total = k[known], total[known]
    ends = proportion_confint(k, total, alpha=1 - confidence, method="wilson")
    # At 0 and at n the closed form misses the estimate by a rounding error.
    low[known] = np.maximum(0.0, np.minimum(ends[0], k / total))
    high[known] = np.minimum(1.0, np.maximum(ends[1], k / total))
    return low, high


def mcnemar(only_a: npt.ArrayLike, only_b: npt.ArrayLike) -> Floats:
    """Return the two-sided p-value of McNemar's exact test, entry by entry.

    ``only_a`` images are right under A alone, ``only_b`` under B alone; where both are right, or
    both wrong, an image says nothing about which is better. If neither is, each of the others
    falls to either side with probability 1/2, and their number follows a binomial distribution:
    exact at every count, where McNemar's chi-square needs some 25 of them (McNemar 1947,
    https://doi.org/10.1007/BF02295996; Dietterich 1998, https://doi.org/10.1162/089976698300017197).
    Without such images the p-value is 1.
    """
    a, b = np.broadcast_arrays(_counts(only_a), _counts(only_b))
    from scipy.special import bdtr

    tail = bdtr(np.minimum(a, b), a + b, 0.5)
    return np.asarray(np.minimum(1.0, 2 * tail))


def paired_randomization(better: npt.ArrayLike, worse: npt.ArrayLike) -> float:
    """Return the two-sided p-value of the exact randomization test over images, several seeds.

    ``better[k - 1]`` images are right in ``k`` more seeds under A than under B, and
    ``worse[k - 1]`` in ``k`` fewer. The outcomes of one image under several seeds depend on each
    other, so images, not (image, seed) pairs, are drawn: if A and B are equally good, an image's
    difference is as likely to have either sign. The statistic is the difference of the mean
    accuracies; its distribution over all the signs is computed, not sampled (Fisher 1935; Pitman
    1937, https://doi.org/10.2307/2984124; Pagano, Tritchler 1983,
    https://doi.org/10.1080/01621459.1983.10477990). With one seed this is :func:`mcnemar`. It
    speaks about other images under these trained models, not about other trainings.
    """
    up, down = _counts(better), _counts(worse)
    if up.shape != down.shape or up.ndim != 1 or not len(up):
        raise ValueError(f"two lists of equal length are needed, got {up.shape} and {down.shape}")
    images = up + down
    step = np.arange(1, len(images) + 1)
    if np.count_nonzero(images) <= 1:
        return float(mcnemar(up.sum(), down.sum()))
    from scipy.signal import fftconvolve

    # The number of images that fall to A's side, weighted by k, of which each k adds a binomial.
    chances = np.ones(1)
    for k in step[images > 0]:
        own = np.zeros(k * images[k - 1] + 1)
        own[::k] = _fair_coins(int(images[k - 1]))
        direct = len(own) * len(chances) < _DIRECT
        chances = np.convolve(chances, own) if direct else fftconvolve(chances, own)
    below = min(int((step * up).sum()), int((step * down).sum()))
    # The transform behind long convolutions errs by 1e-16: no p-value is below both signs' own.
    least = 2.0 ** (1 - int(images.sum()))
    return float(np.clip(2 * chances[: below + 1].sum(), least, 1.0))


_DIRECT = 10**6  # products from which the detour over Fourier transforms is shorter


@lru_cache(maxsize=4096)
def _fair_coins(n: int) -> Floats:
    """Return the chances of 0, 1, ..., n heads among ``n`` coins."""
    from scipy.stats import binom

    return np.asarray(binom.pmf(np.arange(n + 1), n, 0.5))


def _counts(values: npt.ArrayLike) -> Counts:
    counts = np.asarray(values)
    if not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any():
        raise ValueError(f"counts of images are whole numbers from 0, got {counts}")
    return counts


@dataclass(frozen=True)
class Spread:
    """How far a difference of two mean accuracies would move with other images and trainings.

    ``images`` and ``trainings`` are its variances by either source, with their degrees of freedom.
    """

    images: float
    trainings: float
    images_df: float
    trainings_df: float

    def margin(self, confidence: float) -> float:
        """Return half the width of the interval, in accuracy.

        Each source's own half width, Student's quantile times its standard deviation, squared,
        added, and the root taken (Howe 1974, Journal of the American Statistical Association 69,
        789): a few trainings need a wide quantile, many images do not, and no mean of the two
        degrees of freedom stands for both.
        """
        from scipy.special import stdtrit

        tail = (1 + confidence) / 2
        quantiles = stdtrit([self.images_df, self.trainings_df], tail)
        return float(np.hypot(*(quantiles * np.sqrt([self.images, self.trainings]))))


def crossed_spread(a: npt.ArrayLike, b: npt.ArrayLike) -> Spread:
    """Return the spread of mean(``a``) - mean(``b``) over images and trainings.

    ``a`` (S, images) and ``b`` (T, images) tell of each image whether it is right under each of
    two or more independent trainings of either side; the images are the same. So images are
    crossed with trainings and trainings nested in sides, as cases and readers are in multi-reader
    studies (Gallas, Pennello, Myers 2007, https://doi.org/10.1364/JOSAA.24.000B70). The sides'
    trainings may vary unequally (Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28). The
    variance over images is that of the images' own differences, less the part that the trainings
    hold already; with half an image added to each cell of the table of pairs, so that agreement
    of all images is no certainty (Agresti, Min 2005, https://doi.org/10.1002/sim.1781).
    """
    sides = [np.asarray(side, dtype=float) for side in (a, b)]
    shapes = [side.shape for side in sides]
    if any(len(shape) != 2 or min(shape) < 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"two trainings a side and two images are needed, got {shapes}")
    n = shapes[0][1]
    own, dfs, shared = np.zeros(2), np.zeros(2), 0.0
    for i, side in enumerate(sides):
        trainings = len(side)
        means = side.mean(axis=1)
        own[i], dfs[i] = means.var(ddof=1) / trainings, trainings - 1
        rest = side - means[:, None] - side.mean(axis=0) + means.mean()
        shared += float((rest**2).sum()) / ((trainings - 1) * (n - 1)) / (n * trainings)
    per_image = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    squares, total = float((per_image**2).sum()), float(per_image.sum())
    over_images = (squares + 1 - total**2 / (n + 2)) / (n + 2) ** 2
    both = float(own.sum())
    df = both**2 / float((own**2 / dfs).sum()) if both > 0 else float(dfs.sum())
    return Spread(max(0.0, over_images - shared), both, n - 1, df)


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Return p-values adjusted for asking them all, by Holm's step-down method.

    The chance that one or more of all true null hypotheses is rejected stays below the level,
    whatever the tests' dependence (Holm 1979, https://www.jstor.org/stable/4615733).
    """
    p = np.asarray(p_values, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values lie between 0 and 1")
    if not len(p):
        return p
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, steps)
    return adjusted
