"""The Square attack, by answers only (Andriushchenko et al. 2020).

https://arxiv.org/abs/1912.00049.

A random search in l-inf or l2: it changes a square of the image, and keeps the change where the
model's answer says that the margin rose. It asks for no gradient.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.losses import margin, towards
from benchmark.attacks.norms import Eps, length, per_sample, project
from benchmark.attacks.pgd import Best
from benchmark.attacks.square_shapes import bumps, l2_start, windows
from benchmark.attacks.targets import UNTARGETED, Target, check_target, targets_of
from benchmark.attacks.view import AttackView

HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After which of 10,000 queries the share of the changed pixels is halved."""


@dataclass(frozen=True, kw_only=True)
class Square(BudgetAttack):
    """Square in l-inf or l2.

    At most ``n_queries`` forwards a sample and restart; ``p`` is the share of the pixels in the
    first squares, halved as the queries go by. ``target`` is as in
    :mod:`benchmark.attacks.targets`. A sample leaves once it is misclassified, unless the defense
    is stochastic.
    """

    needs_gradient: ClassVar[bool] = False

    n_queries: int = 5000
    restarts: int = 1
    p: float = 0.8
    target: Target = UNTARGETED

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"it searches in linf and l2, got norm {self.norm!r}")
        if self.n_queries < 1 or self.restarts < 1 or not 0 < self.p <= 1:
            raise ValueError("n_queries and restarts must be at least 1, and p in (0, 1]")
        check_target(self.target)

    def run(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`.BudgetAttack.run`; where it failed, the iterate of the highest margin."""
        radius = per_sample(eps, x)
        best = Best(x, early_stop=True, stochastic=view.stochastic)
        aim = targets_of(view, x, y, self.target)
        for _ in range(self.restarts):
            x_hat = self._start(x, radius, generator)
            highest = torch.full((len(x),), -torch.inf, device=x.device)
            rows, candidate, part = best.remaining, x_hat, view
            for query in range(self.n_queries):
                if len(rows) == 0:
                    return best.x
                if query:
                    # Drawn for the whole batch: a sample's squares do not depend on the others.
                    candidate = self._changed(x_hat, x, radius, query, generator)
                part = view.select(rows) if query == 0 or len(rows) != part.rows else part
                logits = part.logits(candidate[rows])
                loss = towards("margin", None if aim is None else aim[rows])
                f = loss(logits, y[rows])
                higher = f > highest[rows]
                better = rows[higher]
                x_hat[better], highest[better] = candidate[better], f[higher].to(highest)
                score = margin(logits, y[rows])
                rows = rows[best.update(rows, candidate[rows], score, logits, y[rows])]
        return best.x

    def _start(self, x: Tensor, radius: Tensor, rng: torch.Generator) -> Tensor:
        """Return stripes of eps in l-inf, a grid of bumps in l2."""
        if self.norm == "linf":
            stripes = _signs((len(x), x.shape[1], 1, x.shape[3]), x, rng)
            return (x + radius * stripes).clamp(0, 1)
        delta = l2_start(x, rng)
        unit = delta / per_sample(length(delta, "l2").clamp_min(1e-12), x)
        return project(x + radius * unit, x, radius.flatten(), "l2")

    def _changed(
        self, x_hat: Tensor, x: Tensor, radius: Tensor, query: int, rng: torch.Generator
    ) -> Tensor:
        """Change one square of each image ``x_hat``."""
        n, c, h, w = x.shape
        share = self.p / 2 ** sum(query * 10000 // self.n_queries > at for at in HALVED_AT)
        side = round(math.sqrt(share * h * w))
        if self.norm == "linf":
            side = min(max(side, 1), h, w)
            inside = windows(x, side, rng)
            delta = torch.where(inside, 2 * radius * _signs((n, c, 1, 1), x, rng), 0)
            return project(x_hat + delta, x, radius.flatten(), "linf")
        side = min(max(side, 3) | 1, h, w)
        return self._moved(x_hat, x, radius, side, rng)

    def _moved(
        self, x_hat: Tensor, x: Tensor, radius: Tensor, side: int, rng: torch.Generator
    ) -> Tensor:
        """Move the length that one window has to another, and put a bump there."""
        n, c = x.shape[:2]
        delta = x_hat - x
        here, there = windows(x, side, rng), windows(x, side, rng)
        both = here | there
        dims = (2, 3)
        old = torch.where(here, delta, 0)
        old = old / old.square().sum(dims, keepdim=True).sqrt().clamp_min(1e-12)
        new = old + bumps(here, side, rng) * _signs((n, c, 1, 1), x, rng)
        new = new / new.square().sum(dims, keepdim=True).sqrt().clamp_min(1e-12)
        unused = (radius.square() - per_sample(length(delta, "l2").square(), x)).clamp_min(0) / c
        freed = torch.where(both, delta, 0).square().sum(dims, keepdim=True)
        delta = torch.where(both, 0, delta) + new * (unused + freed).sqrt()
        unit = delta / per_sample(length(delta, "l2").clamp_min(1e-12), x)
        return project(x + radius * unit, x, radius.flatten(), "l2")


@dataclass(frozen=True, kw_only=True)
class SquareL2(Square):
    """Square in l2 under a name of its own."""

    norm: str = "l2"


def _signs(shape: tuple[int, ...], x: Tensor, rng: torch.Generator) -> Tensor:
    """Return -1 or 1 with equal odds."""
    return (torch.rand(shape, generator=rng, device=x.device) < 0.5).to(x.dtype) * 2 - 1
