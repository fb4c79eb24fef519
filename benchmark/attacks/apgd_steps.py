"""How APGD steps: the state of its ascent, and how it adapts its step sizes.

In l-inf and l2 the step is halved at checkpoints (Croce and Hein 2020,
https://arxiv.org/abs/2003.01690), in l1 it follows how sparse the best point is (Croce and Hein
2021, https://arxiv.org/abs/2103.01208). The symbols are the papers'.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmark.attacks.norms import distance, project, steepest_ascent

ALPHA = 0.75
"""The share of a step that follows the gradient; the rest goes on as the last step went."""

FIRST, SHORTER, SHORTEST = 0.22, 0.03, 0.06
"""The periods between checkpoints, as shares of the steps: the first, by how much each is shorter
than the last, and the shortest."""

L1_PERIOD, L1_CUT, L1_RANGE = 0.04, 1.5, 10.0
"""In l1: the period, by what the step is divided where the support does not shrink, and by what at
most."""

L1_FIRST, L1_SHARE, L1_SHRUNK = 0.2, 1.5, 0.95
"""In l1: the share of the entries that the first steps move, how many times fewer entries later
ones move than the best point has changed, and which share of these counts as fewer."""


@dataclass
class Iterates:
    """The samples (n,) that a run still moves; ``rows`` (int64) are their places in the batch.

    ``aim`` are the classes to reach, ``eps`` (n, 1, 1, 1) the balls. ``x_k`` and ``x_last`` are the
    last two iterates, ``g`` and ``f`` the loss's gradient and the loss at ``x_k``; ``x_max`` is the
    best iterate, with its loss ``f_max`` and gradient ``g_max``. ``eta`` (n, 1, 1, 1) is the step
    size. ``rises`` counts steps that raised the loss since the last
    checkpoint, whose ``f_max`` is ``f_check``; ``cut`` tells whether it shortened the step.
    In l1, ``support`` is how many entries the best point had changed there, and ``share`` which
    share of the entries a step moves.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    aim: Tensor
    eps: Tensor
    x_k: Tensor
    x_last: Tensor
    g: Tensor
    x_max: Tensor
    g_max: Tensor
    f: Tensor
    f_max: Tensor
    eta: Tensor
    rises: Tensor
    f_check: Tensor
    cut: Tensor
    support: Tensor
    share: Tensor

    @classmethod
    def at(
        cls, rows: Tensor, start: Tensor, x: Tensor, y: Tensor, aim: Tensor, eps: Tensor
    ) -> "Iterates":
        """Begin at ``start``, where the first :meth:`observe` takes a look."""
        none, zero = torch.zeros_like(x), torch.zeros(len(x), device=x.device)
        low = torch.full_like(zero, -torch.inf)
        points = (start, start, none, start, none)
        return cls(rows, x, y, aim, eps, *points, low, low, eps, zero, low, zero == 0, zero, zero)

    def selected(self, index: Tensor) -> "Iterates":
        """Return the samples ``index``, a mask or places."""
        return Iterates(**{name: value[index] for name, value in vars(self).items()})

    def restarted(self) -> "Iterates":
        """Begin again at the best iterate."""
        return Iterates.at(self.rows, self.x_max, self.x, self.y, self.aim, self.eps)

    def observe(self, f: Tensor, g: Tensor) -> None:
        """Take the loss (n,) and its gradient at ``x_k``."""
        self.rises = self.rises + (f > self.f)
        higher = f > self.f_max
        self.x_max = _where(higher, self.x_k, self.x_max)
        self.g_max = _where(higher, g, self.g_max)
        self.f_max = torch.where(higher, f, self.f_max)
        self.f, self.g = f, g

    def go_back(self, which: Tensor) -> None:
        """Go on from the best iterate, where ``which`` (n,)."""
        self.x_k = _where(which, self.x_max, self.x_k)
        self.g = _where(which, self.g_max, self.g)


class Steps(Protocol):
    """A norm's rule: how to begin, where to go and what to do after every step."""

    def begin(self, s: Iterates) -> None:
        """Set the first step sizes."""

    def advance(self, s: Iterates, k: int) -> None:
        """Take step ``k``, counted from 0."""

    def check(self, s: Iterates, k: int) -> None:
        """Look at what step ``k``, counted from 1, has come to."""


class Halving:
    """The rule in l-inf and l2: momentum, and a step that is halved at checkpoints.

    A step is halved where fewer than a share ``rho`` of the last steps raised the loss, or where
    the best loss stayed what it was although the last checkpoint left the step as it was.
    """

    def __init__(self, norm: str, steps: int, rho: float) -> None:
        self.norm, self.rho = norm, rho
        self.period = max(int(FIRST * steps), 1)
        self.shorter, self.shortest = max(int(SHORTER * steps), 1), max(int(SHORTEST * steps), 1)
        self.checked = 0

    def begin(self, s: Iterates) -> None:
        """Start with steps as long as the ball is wide."""
        s.eta, s.f_check, s.rises = 2 * s.eps, s.f_max, torch.zeros_like(s.f)

    def advance(self, s: Iterates, k: int) -> None:
        """Take step ``k``, counted from 0."""
        alpha = ALPHA if k else 1.0
        eps = s.eps.flatten()
        z = project(s.x_k + s.eta * steepest_ascent(s.g, self.norm), s.x, eps, self.norm)
        moved = s.x_k + alpha * (z - s.x_k) + (1 - alpha) * (s.x_k - s.x_last)
        s.x_last, s.x_k = s.x_k, project(moved, s.x, eps, self.norm)

    def check(self, s: Iterates, k: int) -> None:
        """Look at what step ``k``, counted from 1, has come to."""
        if k < self.checked + self.period:
            return
        few = s.rises <= self.rho * self.period
        stuck = ~s.cut & (s.f_check >= s.f_max)
        s.cut = few | stuck
        s.f_check, s.rises = s.f_max, torch.zeros_like(s.rises)
        s.eta = _where(s.cut, s.eta / 2, s.eta)
        s.go_back(s.cut)
        self.checked, self.period = k, max(self.period - self.shorter, self.shortest)


class Sparse:
    """The rule in l1: sign steps on the largest entries of the gradient, without momentum.

    How many entries follows from how many the best point has changed. Where that number falls the
    step starts again at eps and at the best point, elsewhere it gets shorter. A ``warm`` start
    tells by itself how sparse the steps should be. Entries that the box holds back do not count
    among the largest, unlike in the paper: where most pixels are black they would be most of them.
    """

    def __init__(self, steps: int, *, warm: bool) -> None:
        self.period, self.warm = max(int(L1_PERIOD * steps), 1), warm

    def begin(self, s: Iterates) -> None:
        """Start with steps as long as the ball is wide."""
        s.eta = s.eps
        s.support = torch.full_like(s.f, float(s.x[0].numel()))
        s.share = torch.full_like(s.f, L1_FIRST)
        if self.warm:
            s.support = distance(s.x_k, s.x, "l0").to(s.f)
            s.share = s.support / s.x[0].numel() / L1_SHARE

    def advance(self, s: Iterates, k: int) -> None:
        """Take step ``k``, counted from 0."""
        held = ((s.x_k <= 0) & (s.g < 0)) | ((s.x_k >= 1) & (s.g > 0))
        g, entries = s.g.masked_fill(held, 0).flatten(1), s.x[0].numel()
        place = ((1 - s.share) * entries).clamp(0, entries - 1).long()
        least = g.abs().sort(dim=1).values.gather(1, place[:, None])
        sign = torch.where(g.abs() >= least, g.sign(), 0)
        direction = (sign / sign.abs().sum(1, keepdim=True).clamp_min(1)).view_as(s.x)
        s.x_k = project(s.x_k + s.eta * direction, s.x, s.eps.flatten(), "l1")

    def check(self, s: Iterates, k: int) -> None:
        """Look at what step ``k``, counted from 1, has come to."""
        if k % self.period:
            return
        support = distance(s.x_max, s.x, "l0").to(s.f)
        fewer = support < L1_SHRUNK * s.support
        s.share, s.support = support / s.x[0].numel() / L1_SHARE, support
        shorter = torch.maximum(s.eta / L1_CUT, s.eps / L1_RANGE)
        s.eta = _where(fewer, s.eps, shorter)
        s.go_back(fewer)


def _where(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Choose per image."""
    return torch.where(mask.view(-1, 1, 1, 1), one, other)
