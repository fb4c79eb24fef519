"""The loop of the attacks that follow a direction within a ball: follow, step, project, repeat."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.norms import project, steepest_ascent
from benchmark.attacks.view import AttackView

Follow = Callable[[AttackView, Tensor, int], tuple[Tensor | None, Tensor]]
"""Takes a view of the rows (n,) that are still searched, these rows, and the step.

Returns which rows go on, (n,) bool or None for all, and for those a direction (m, C, H, W). Called
once more after the last step, where the direction is ignored.
"""

Length = Callable[[int, Tensor], Tensor | float]
"""Maps a step and eps (n, 1, 1, 1) to the step's length, in the norm's units."""


@dataclass(frozen=True)
class Ascent:
    """``steps`` steps along what is followed, of which ``momentum`` keeps a share of the last."""

    norm: str
    steps: int
    length: Length
    momentum: float = 0.0

    def run(
        self, view: AttackView, x_adv: Tensor, x: Tensor, eps: Tensor, rows: Tensor, follow: Follow
    ) -> Tensor:
        """Move ``x_adv[rows]`` in place, in the balls ``eps`` (N, 1, 1, 1) around ``x``.

        Returns the rows that went on to the end.
        """
        part, v = view.select(rows), torch.zeros_like(x)
        for t in range(self.steps + 1):
            going, g = follow(part, rows, t)
            if going is not None and not going.all():
                rows = rows[going]
                part = view.select(rows)
            if t == self.steps or len(rows) == 0:
                break
            if self.momentum:
                v[rows] = g = self.momentum * v[rows] + g
            step = self.length(t, eps[rows]) * steepest_ascent(g, self.norm)
            x_adv[rows] = project(x_adv[rows] + step, x[rows], eps[rows].flatten(), self.norm)
        return rows


def shrinking(steps: int) -> Length:
    """Return lengths that shrink along half a cosine from about a quarter of eps."""
    return lambda t, eps: (0.01 + 0.25 * (1 + math.cos(math.pi * t / steps)) / 2) * eps


def still_right(view: AttackView, logits: Tensor, y: Tensor) -> Tensor:
    """Tell which images (N,) the model still gets right; every image of a stochastic model.

    One draw that fools a stochastic model is no success.
    """
    return (logits.argmax(1) == y) | view.stochastic
