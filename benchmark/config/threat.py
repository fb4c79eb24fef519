"""The threat model: what an adversary may do, and when an image counts as within eps."""

from dataclasses import dataclass

from benchmark.config.eps import check_eps
from benchmark.errors import UsageError, unknown_name

NORMS = ("linf", "l2", "l1", "l0")


@dataclass(frozen=True)
class ThreatModel:
    """What the adversary may do: move an image by at most ``eps`` in ``norm``, within [0, 1].

    ``eps`` is ascending and free of repetitions; pixel units for ``linf`` (each in [0, 1]),
    Euclidean length over all pixels for ``l2``, the sum of all changes for ``l1``, and for ``l0``
    how many entries of the array (channels of a pixel apart) may change at all.
    """

    norm: str
    eps: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown_name("norm", self.norm, NORMS)
        if not self.eps:
            raise UsageError("eps: the list is empty; give at least one budget, for example 0.1")
        for eps in self.eps:
            check_eps(eps, self.norm)
        if list(self.eps) != sorted(set(self.eps)):
            raise UsageError(f"eps must ascend without repetitions, got {list(self.eps)}")


TOLERANCE = 1e-5
"""How far outside the ball, relative to eps, an image may lie before it counts as outside."""

FLOAT32_SPACING = 2.0**-23
"""From 1 to the next number that float32 holds."""

EPS_DIGITS = 9
"""Significant digits in which two eps that are the same agree, however they were computed."""


def tolerance(eps: float) -> float:
    """Return how far outside the ball rounding alone may carry an image: relative to eps, plus
    float32's spacing at 1, which exceeds the relative part for the smallest budgets."""
    return eps * TOLERANCE + FLOAT32_SPACING


def reach(eps: float) -> float:
    """Return how far an image may lie from the clean one to count as within ``eps``."""
    return eps + tolerance(eps)


def eps_key(eps: float) -> float:
    """Return ``eps`` as the key of a dict or set: equal for all eps that are the same."""
    return float(f"{eps:.{EPS_DIGITS - 1}e}")


def same_eps(a: float, b: float) -> bool:
    """Tell whether two eps are the same but for rounding (0.1 + 0.2 and 0.3)."""
    return eps_key(a) == eps_key(b)
