"""The l2 attack of Carlini and Wagner (2017, https://arxiv.org/abs/1608.04644).

It minimises ||x' - x||^2 + c f(x'), where f is positive as long as x' is not adversarial, and
searches for the smallest c that succeeds, per sample.

The box is kept by a change of variables, x' = (tanh(w) / s + 1) / 2. With the published s = 1 a
pixel that is exactly 0 or 1 lies at w = -+infinity and cannot move; implementations that start
it just inside leave it a slope near 1e-6, and on MNIST, where most pixels are saturated, they
fail. Here s < 1, and w is kept within [-artanh(s), artanh(s)], the preimage of the box: every
pixel starts exactly where it is and its slope is at least (1 - s^2) / (2 s).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.attacks.base import MinimalAttack
from benchmark.attacks.losses import margin
from benchmark.attacks.norms import per_sample
from benchmark.attacks.targets import UNTARGETED, Target, check_target, targets_of
from benchmark.attacks.view import AttackView

SCALE = 0.5
"""s in the change of variables. Where this and the numbers below come from: docs/constants.md."""

STALL, LOOKS, SHORTEST = 3e-3, 20, 5
"""A sample stalls when its best objective falls by less than a share ``STALL`` over a look: one of
``LOOKS`` equal parts of the steps, but no fewer than ``SHORTEST`` iterations."""

CUT = 0.1
"""By what a sample's learning rate is multiplied at its first stall; the second ends the step."""

MARGIN = 2.0
"""How much larger c is than what :func:`linearised` says is needed."""

FIRST_RATE, NEXT_RATE = 0.2, 0.05
"""Bounds of the learning rate, besides ``lr``, relative to the way that is to go.

``FIRST_RATE`` times the largest move of a pixel that the linearised model asks for, or, where a
step begins at an adversarial image, ``NEXT_RATE`` times that image's largest move.
"""

GAIN, SAME = 0.05, 3.0
"""When a sample's search ends: a step brought its distance down by less than a share ``GAIN``, or,
after two successes, the next c is within a factor of ``SAME`` of the last."""

NEXT_STEPS = 0.7
"""The share of the steps that a search step has which begins at an adversarial image."""

UNKNOWN_C = 1e-2
"""Where the search starts if the gradient at the image is 0."""

BETA1, BETA2, ADAM_EPS = 0.9, 0.999, 1e-8

TINY = 1e-12
"""A squared gradient below which nothing is estimated from it."""


@dataclass(frozen=True, kw_only=True)
class CWSettings(MinimalAttack):
    """The settings of C&W, here and in other libraries.

    Up to ``steps`` iterations at learning rate ``lr`` for each of up to ``search_steps`` constants
    c, of which ``initial_c`` is the first. Success asks for a lead of at least ``confidence`` over
    the true class; with ``targeted``, ``y`` are the classes to reach.
    """

    norm: str = "l2"
    steps: int = 1000
    search_steps: int = 9
    initial_c: float | None = None
    lr: float = 0.01
    confidence: float = 0.0
    targeted: bool = False
    abort_early: bool = True

    def __post_init__(self) -> None:
        if self.norm != "l2":
            raise ValueError(f"it searches in l2 only, got norm {self.norm!r}")
        if self.steps < 1 or self.search_steps < 1:
            raise ValueError(
                "steps and search_steps must be at least 1,"
                f" got {self.steps} and {self.search_steps}"
            )
        if self.initial_c is not None and not self.initial_c > 0:
            raise ValueError(f"initial_c must be above 0 or left out, got {self.initial_c}")
        if not (self.lr > 0 and self.confidence >= 0):
            raise ValueError("lr must be above 0, confidence at least 0")


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(CWSettings):
    """C&W in l2, with Adam.

    c starts at ``initial_c``, or, left out, at what the linearised model needs; it then follows
    what the linearised model needs where the last step ended, within the bracket of constants
    known to fail and to suffice, per sample. A step starts at the nearest adversarial image found,
    before there is one where the last step ended; Adam's state starts again. ``lr`` is the largest
    learning rate, in w. With ``abort_early`` a sample that stalls twice in a step leaves the batch
    for the rest of it, and one whose search has settled leaves the search. With a ``target``
    (:mod:`benchmark.attacks.targets`) it searches the nearest image of that class (a forward).
    Costs each sample a forward and a backward at the image, one of each per iteration, and a
    forward for the last iterate of each search step that runs to its end.
    """

    target: Target = UNTARGETED

    def __post_init__(self) -> None:
        super().__post_init__()
        check_target(self.target)
        if self.targeted and self.target != UNTARGETED:
            raise ValueError("give targeted, for labels to reach, or target, not both")

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`.MinimalAttack.run`; where it fails, the closest attempt."""
        aim = targets_of(view, x, y, self.target)
        if aim is not None:
            towards = replace(self, targeted=True, target=UNTARGETED)
            return towards.run(view, x, aim, generator=generator)
        nearest = Nearest(x, self.confidence)
        f, _, gradient = view.gradient(x, y, self._hinge)
        needed, move = linearised(x, x, f, gradient)
        constants = Constants(x, UNKNOWN_C if self.initial_c is None else self.initial_c)
        if self.initial_c is None:
            constants.c = torch.where(needed > 0, MARGIN * needed, constants.c)
        start, rate = x, self._rate(FIRST_RATE * move)
        last = torch.full_like(f, torch.inf)
        rows = torch.arange(len(x), device=x.device)
        for _ in range(self.search_steps):
            tried, had_solved, distances = constants.c, constants.solved, nearest.distances
            state = _Iterates.at(start, x, y, tried, rate, last).selected(rows)
            end = self._descend(view, state, _Ends.of(start), nearest)
            constants.narrow(end.suffices, end.needed)
            solved = constants.solved
            if self.abort_early:
                gained = ~(nearest.distances >= (1 - GAIN) * distances)
                ratio = constants.c / tried
                same = had_solved & solved & (ratio < SAME) & (ratio > 1 / SAME)
                rows = rows[((gained | nearest.distances.isinf()) & ~same)[rows]]
                if len(rows) == 0:
                    break
            start = torch.where(per_sample(solved, x) > 0, nearest.x, end.x_adv)
            way = NEXT_RATE * (nearest.x - x).flatten(1).abs().amax(1)
            rate = self._rate(torch.where(solved, way, FIRST_RATE * end.move))
            last = torch.where(solved, NEXT_STEPS * self.steps, torch.inf)
        return nearest.x

    def _lead(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return by how much the adversary leads (N,): positive where it succeeds."""
        lead = margin(logits, y)
        return -lead if self.targeted else lead

    def _hinge(self, logits: Tensor, y: Tensor) -> Tensor:
        """f: how much of the lead is lacking, (N,), 0 where nothing is."""
        return (self.confidence - self._lead(logits, y)).clamp_min(0)

    def _rate(self, most: Tensor) -> Tensor:
        """Return ``lr`` or, where it is less and above 0, ``most`` (N,)."""
        return torch.where(most > 0, most, self.lr).clamp_max(self.lr)

    def _descend(
        self, view: AttackView, now: "_Iterates", ends: "_Ends", nearest: "Nearest"
    ) -> "_Ends":
        """One search step from ``now``; returns ``ends``, filled in where a sample left."""
        part = view.select(now.rows)
        look = max(SHORTEST, self.steps // LOOKS)
        for t in range(1, self.steps + 1):
            f, logits, gradient = part.gradient(now.x_adv, now.y, self._hinge)
            now.judge(nearest, self._lead(logits, now.y), t)
            now.follow(f, gradient)
            if t % look == 0:
                going = now.look() & (t < now.last)
                if self.abort_early and not going.all():
                    ends.put(now.selected(~going), t)
                    now, gradient = now.selected(going), gradient[going]
                    if len(now.rows) == 0:
                        return ends
                    part = view.select(now.rows)
            now.step(gradient, t)
        now.judge(nearest, self._lead(part.logits(now.x_adv), now.y), self.steps + 1)
        ends.put(now, self.steps)
        return ends


@dataclass
class _Iterates:
    """The samples (n,) that a search step still moves, with Adam's state; ``rows`` (int64).

    ``rate`` is a sample's learning rate until the first stall and ``slowest`` that after it;
    ``last`` the iteration after which it leaves. ``best`` is the lowest objective up to the last
    look, ``lowest`` that since. ``fooled`` is the last iteration whose iterate was adversarial, 0
    before; ``needed`` and ``move`` are what :func:`linearised` said where f was last above 0.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    x_adv: Tensor
    w: Tensor
    m: Tensor
    v: Tensor
    c: Tensor
    rate: Tensor
    slowest: Tensor
    last: Tensor
    best: Tensor
    lowest: Tensor
    fooled: Tensor
    needed: Tensor
    move: Tensor

    @classmethod
    def at(
        cls, x_adv: Tensor, x: Tensor, y: Tensor, c: Tensor, rate: Tensor, last: Tensor
    ) -> "_Iterates":
        """Begin a search step at ``x_adv`` with the constants ``c``."""
        w = torch.atanh(SCALE * (2 * x_adv - 1))
        none, high, zero = torch.zeros_like(w), torch.full_like(c, torch.inf), torch.zeros_like(c)
        rows = torch.arange(len(x), device=x.device)
        adam, objective = (w, none, none), (high, high)
        return cls(rows, x, y, x_adv, *adam, c, rate, CUT * rate, last, *objective, *[zero] * 3)

    def selected(self, index: Tensor) -> "_Iterates":
        return _Iterates(**{name: value[index] for name, value in vars(self).items()})

    @property
    def squared(self) -> Tensor:
        """The squared l2 distances (n,)."""
        return (self.x_adv - self.x).flatten(1).square().sum(1)

    def judge(self, nearest: "Nearest", lead: Tensor, t: int) -> None:
        """Offer the iterates, at which the adversary leads by ``lead`` (n,), to ``nearest``."""
        fooled = nearest.offer(self.rows, self.x_adv, self.squared, lead)
        self.fooled = torch.where(fooled, t, self.fooled)

    def follow(self, f: Tensor, gradient: Tensor) -> None:
        """Note the objective, and what the linear model of f says."""
        enough, farthest = linearised(self.x_adv, self.x, f, gradient)
        self.needed = torch.where(enough > 0, enough, self.needed)
        self.move = torch.where(enough > 0, farthest, self.move)
        self.lowest = self.lowest.minimum(self.squared + self.c * f)

    def look(self) -> Tensor:
        """Cut the rate of samples that stall (n,); return which have not stalled twice."""
        stalled = self.lowest >= (1 - STALL) * self.best
        going = ~stalled | (self.rate > 1.5 * self.slowest)
        self.best = self.lowest.minimum(self.best)
        self.lowest = torch.full_like(self.lowest, torch.inf)
        self.rate = torch.where(stalled, CUT * self.rate, self.rate).maximum(self.slowest)
        return going

    def step(self, gradient: Tensor, t: int) -> None:
        """Take Adam's step ``t`` in w along f's ``gradient`` (n, C, H, W) in x'."""
        slope = (1 - (SCALE * (2 * self.x_adv - 1)).square()) / (2 * SCALE)
        c = per_sample(self.c, self.x)
        direction = (2 * (self.x_adv - self.x) + c * gradient) * slope
        self.m = BETA1 * self.m + (1 - BETA1) * direction
        self.v = BETA2 * self.v + (1 - BETA2) * direction.square()
        update = (self.m / (1 - BETA1**t)) / ((self.v / (1 - BETA2**t)).sqrt() + ADAM_EPS)
        limit = torch.atanh(torch.tensor(SCALE, dtype=self.x.dtype)).item()
        self.w = (self.w - per_sample(self.rate, self.w) * update).clamp(-limit, limit)
        self.x_adv = ((self.w.tanh() / SCALE + 1) / 2).clamp(0, 1)


@dataclass
class _Ends:
    """Where a search step ended, per sample of the batch (N,): the start where it took no part.

    c ``suffices`` where an iterate of the second half was adversarial. The first steps are as long
    as the learning rate and may cross a near boundary whatever c: taken as a success, they would
    send the search to ever smaller c, which leads nowhere near the boundary.
    """

    x_adv: Tensor
    suffices: Tensor
    needed: Tensor
    move: Tensor

    @classmethod
    def of(cls, start: Tensor) -> "_Ends":
        zero = torch.zeros(len(start), device=start.device, dtype=start.dtype)
        return cls(start.clone(), zero.bool(), zero, zero.clone())

    def put(self, left: _Iterates, t: int) -> None:
        """Take over the samples that leave after iteration ``t``."""
        self.x_adv[left.rows] = left.x_adv
        self.suffices[left.rows] = left.fooled > t / 2
        self.needed[left.rows], self.move[left.rows] = left.needed, left.move


def linearised(x_adv: Tensor, x: Tensor, f: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the c that the linear model of f at ``x_adv`` needs (n,), and its largest move (n,).

    Where f is f(x_adv) + g (x' - x_adv), ||x' - x||^2 + c f is least at x - c g / 2, and f is 0
    there from c = 2 (f(x_adv) - g (x_adv - x)) / ||g||^2 on; for any larger c the boundary stays
    the best. Pixels that the box holds back do not count in g. A change of variables moves no
    minimum. Both are 0 where f or the gradient is 0, or where the model needs none.
    """
    held = ((x_adv <= 0) & (gradient > 0)) | ((x_adv >= 1) & (gradient < 0))
    g = gradient.masked_fill(held, 0).flatten(1)
    lacking = f - (g * (x_adv - x).flatten(1)).sum(1)
    squared = g.square().sum(1)
    known = (f > 0) & (lacking > 0) & (squared > TINY)
    c = torch.where(known, 2 * lacking / squared.clamp_min(TINY), 0)
    return c, c / 2 * g.abs().amax(1)


class Constants:
    """The search for the smallest c that suffices, per sample: ``c`` (N,) is the next to try."""

    def __init__(self, x: Tensor, initial: float) -> None:
        self.c = torch.full((len(x),), initial, device=x.device, dtype=x.dtype)
        self._lower = torch.zeros_like(self.c)
        self._upper = torch.full_like(self.c, torch.inf)

    @property
    def solved(self) -> Tensor:
        """For which samples a constant has sufficed (N,)."""
        return self._upper.isfinite()

    def narrow(self, suffices: Tensor, needed: Tensor | None = None) -> None:
        """Go on from which of ``c`` suffice (N,).

        Where ``needed`` (N,) is above 0, ``MARGIN`` times as much is next, if it is more than what
        has failed; at most what has sufficed and, before anything has, at least twice the last.
        Elsewhere: times ten until one suffices, then by bisection.
        """
        self._upper = torch.where(suffices, self.c, self._upper)
        self._lower = torch.where(suffices, self._lower, self.c)
        middle = (self._lower + self._upper) / 2
        following = torch.where(self.solved, middle, self.c * 10)
        if needed is not None:
            guess = MARGIN * needed
            guess = torch.where(self.solved, guess.minimum(self._upper), guess.maximum(2 * self.c))
            within = (needed > 0) & (guess > self._lower)
            following = torch.where(within, guess, following)
        self.c = following


class Nearest:
    """The nearest adversarial iterate per sample; before there is one, that with the best lead.

    Adversarial is an iterate with a lead above 0 and of at least ``confidence``.
    """

    def __init__(self, x: Tensor, confidence: float) -> None:
        self.x = x.clone()
        self.confidence = confidence
        self._squared = torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)
        self._lead = torch.full_like(self._squared, -torch.inf)

    @property
    def distances(self) -> Tensor:
        """The l2 distance per sample (N,), infinite where nothing was found."""
        return self._squared.sqrt()

    def offer(self, rows: Tensor, x_adv: Tensor, squared: Tensor, lead: Tensor) -> Tensor:
        """Take what is better among ``rows``; return which are adversarial (n,).

        ``squared`` (n,) are l2 distances and ``lead`` (n,) the adversary's leads.
        """
        fooled = (lead > 0) & (lead >= self.confidence)
        nearer = fooled & (squared < self._squared[rows])
        none_yet = self._squared[rows].isinf()
        closer = ~fooled & none_yet & (lead > self._lead[rows])
        better = nearer | closer
        taken = rows[better]
        self.x[taken] = x_adv[better]
        self._lead[taken] = lead[better]
        self._squared[rows[nearer]] = squared[nearer]
        return fooled
