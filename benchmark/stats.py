"""How sure a number is: intervals for a share of images. Nothing here needs torch."""

import math


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval ``(low, high)`` for ``successes`` out of ``n``.

    Unlike the normal approximation it keeps inside [0, 1] and is not empty at 0 and at ``n``
    (Wilson 1927; Brown, Cai, DasGupta 2001, https://doi.org/10.1214/ss/1009213286).
    ``successes`` may be a fraction: a mean over seeds times the number of images. With ``n`` of
    0 nothing is known and both ends are NaN.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if n == 0:
        return math.nan, math.nan
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n = {n}, got {successes}")
    # A second or two of scipy: only who asks for an interval pays for it.
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    # At 0 and at n the closed form misses the estimate by a rounding error.
    estimate = successes / n
    return max(0.0, min(float(low), estimate)), min(1.0, max(float(high), estimate))
