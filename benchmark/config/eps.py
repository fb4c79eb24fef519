"""Budgets as users write them, ``0.1`` or ``8/255``, and which of them mean anything.

An eps in the wrong unit (8 instead of 8/255) does not crash: it lets the attack draw any image,
and every defense looks broken. So what no image can use is refused, with what was probably meant.
Nothing here needs torch.
"""

import math
from collections.abc import Iterable
from typing import Any

from benchmark.errors import UsageError

GREY = 255
"""Grey levels from black to white: the unit in which papers on colour images give l-inf budgets."""


def parse_budget(value: Any) -> float:
    """Return a budget given as a number, as ``"0.1"`` or as a fraction such as ``"8/255"``.

    Raises ValueError if it is not a number; whether the norm allows it is checked later.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a number")
    above, slash, below = value.partition("/") if isinstance(value, str) else (value, "", "")
    try:
        budget = float(above) / (float(below) if slash else 1.0)
    except (TypeError, OverflowError, ZeroDivisionError):
        raise ValueError(f"{value!r} is not a number") from None
    return budget + 0.0  # turns -0.0 into 0.0


def parse_list(text: str) -> list[float]:
    """Parse ``"0,8/255,0.1"`` in its order; UsageError names a word that is not a number."""
    budgets = []
    for word in text.split(","):
        try:
            budgets.append(parse_budget(word))
        except ValueError:
            raise UsageError(
                f"--eps: {word.strip()!r} is not a number; write budgets as 0,0.1,0.2"
                " or as fractions: 0,4/255,8/255"
            ) from None
    return budgets


def parse_eps(text: str) -> tuple[float, ...]:
    """Parse ``"0,0.1,8/255"`` into ascending distinct budgets (checked later, by the norm)."""
    return tuple(sorted(set(parse_list(text))))


def check_eps(eps: float, norm: str) -> None:
    """Raise a UsageError unless ``eps`` is a budget that ``norm`` allows."""
    if not math.isfinite(eps):
        raise UsageError(f"eps {eps}: not a finite number; budgets are numbers such as 0.1")
    if eps < 0:
        raise UsageError(f"eps {eps:g} is negative; budgets start at 0")
    if norm == "linf" and eps > 1:
        raise UsageError(f"eps {eps:g} is above 1, the whole range of a pixel{_meant(eps)}")
    if norm == "l0" and eps != int(eps):
        raise UsageError(
            f"eps {eps:g} (l0) is not a whole number; l0 counts the values of an image that change"
        )


def check_reach(eps: Iterable[float], norm: str, shape: tuple[int, int, int]) -> None:
    """Raise a UsageError if ``eps`` is longer than any two images (C, H, W) are apart.

    The farthest two images of d pixel values in [0, 1] are black and white: sqrt(d) in l2, d in l1
    and l0.
    """
    values = math.prod(shape)
    farthest = {"linf": math.inf, "l2": math.sqrt(values)}.get(norm, values)
    largest = max(eps)
    if largest > farthest * (1 + 1e-9):
        size = "x".join(str(edge) for edge in shape)
        raise UsageError(
            f"eps {largest:g} ({norm}) is above {farthest:.4g}, the distance from a black image to"
            f" a white one ({size} pixel values in [0, 1]){_meant(largest) if norm != 'l0' else ''}"
        )


def check_step(step_size: float | None, norm: str) -> None:
    """Raise a ValueError if an l-inf step is longer than a pixel's whole range.

    Such steps jump between the corners of the ball, and the attack looks weaker than it is.
    """
    if step_size is not None and norm == "linf" and step_size > 1:
        raise ValueError(
            f"step_size {step_size:g} is above 1, the whole range of a pixel{_meant(step_size)}"
        )


def _meant(value: float) -> str:
    if value > GREY:
        return "; pixels are in [0, 1]"
    return f"; for {value:g} grey levels write {value:g}/{GREY} = {value / GREY:.4g}"
