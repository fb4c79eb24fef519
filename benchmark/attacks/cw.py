"""The l2 attack of Carlini and Wagner (2017, https://arxiv.org/abs/1608.04644).

It minimises ||x' - x||^2 + c f(x'), where f is positive as long as x' is not adversarial, and
searches for the smallest c that succeeds, per sample.

The box is kept by a change of variables, x' = (tanh(w) / s + 1) / 2. With the published s = 1 a
pixel that is exactly 0 or 1 stands at w = -+infinity and cannot move; implementations that start
it just inside leave it a slope near 1e-6, and on MNIST, where most pixels are saturated, they
fail. Here s < 1, and w is kept within [-artanh(s), artanh(s)], the preimage of the box: every
pixel starts exactly where it is and its slope is at least (1 - s^2) / (2 s).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.base import MinimalAttack
from benchmark.attacks.losses import margin
from benchmark.attacks.norms import per_sample
from benchmark.attacks.view import AttackView

SCALE = 0.5
"""s in the change of variables: a saturated pixel has three quarters of the slope of a grey one.

Measured on 64 MNIST images with 5 constants of 50 steps each, at learning rate 0.01: with s = 0.999
16 % of the images fall, with 0.9 40 %, with 0.5 all. At learning rate 0.05 all fall with each, at
median distances of 1.64, 1.56 and 1.56.
"""

STALL, LOOKS, SHORTEST = 3e-3, 20, 5
"""A sample stalls when its best objective falls by less than a share ``STALL`` over a look: one of
``LOOKS`` equal parts of the steps, but no fewer than ``SHORTEST`` iterations.

With 1e-3 the searches of 100 steps take 3 to 10 % more passes and end 0 to 0.2 % nearer. Looks of
two iterations take Adam's swings for a stall: 5 search steps of 50 then end 4 % farther on MNIST.
"""

CUT = 0.1
"""By what a sample's learning rate is multiplied at its first stall; the second ends the step.

Its steps were longer than its way. Cutting twice before the end costs 9 % (MNIST) to 25 % (CIFAR10)
more passes and brings median distances down by at most 1.4 %.
"""

MARGIN = 2.0
"""How much larger c is than what :func:`linearised` says is needed.

With 1.2 the constants fall short: the median on CIFAR10 is 0.096 in place of 0.083. Where c is far
too large, Adam bounces off the boundary and hardly slides along it.
"""

FIRST_RATE, NEXT_RATE = 0.2, 0.05
"""What bounds the learning rate, besides ``lr``, by the way that is to go.

It is at most ``FIRST_RATE`` times the largest move of a pixel that the linearised model asks for,
and where a step begins at an adversarial image, at most ``NEXT_RATE`` times that image's largest
move. Where boundaries are near (CIFAR10) the plain rate is several times too long; where they are
far (MNIST) ``lr`` is what counts.
"""

GAIN, SAME = 0.05, 3.0
"""When a sample's search ends: a step brought its distance down by less than a share ``GAIN``, or,
after two successes, the next c is within a factor of ``SAME`` of the last.

With 0.02 and 2 the searches take 2 to 9 % more passes and end within 0.2 % of the same medians.
"""

NEXT_STEPS = 0.7
"""The share of the steps that a search step has which begins at an adversarial image.

On the adversarially trained MNIST model, whose searches use their steps up, all of them take 7 %
more passes and end at the same median; with half of them it rises by 7 %.
"""

UNKNOWN_C = 1e-2
"""Where the search starts if the gradient at the image is 0."""

BETA1, BETA2, ADAM_EPS = 0.9, 0.999, 1e-8

TINY = 1e-12
"""A squared gradient below which nothing is estimated from it."""


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(MinimalAttack):
    """C&W in l2: Adam over up to ``steps`` iterations for each of up to ``search_steps`` c.

    c starts at ``initial_c``, or, left out, at what the linearised model needs; it then follows
    what the linearised model needs where the last step ended, within the bracket of constants
    known to fail and to suffice, per sample. A step starts at the nearest adversarial image found,
    before there is one where the last step ended; Adam's state starts anew. ``lr`` is the largest
    learning rate, in w. With ``abort_early`` a sample that stalls twice in a step leaves the batch
    for the rest of it, and one whose search has settled leaves the search. Success asks for a lead
    of at least ``confidence`` over the true class; with ``targeted``, ``y`` are the classes to
    reach. Costs each sample a forward and a backward at the image, one of each per iteration, and
    a forward for the last iterate of each search step that runs to its end.

    Measured on trained MNIST (undefended, adversarially trained) and CIFAR10 (undefended) models,
    on 64 images not used to choose the constants above, 5 search steps of 100 from c = 1
    at rate 0.01: 95, 161 and 74 forwards and backwards per image, at median distances of 1.60, 2.08
    and 0.084. Bisection alone, with every search step from the image, took 499, 488 and
    499, at 1.59, 2.29 and 0.087.
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

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`.MinimalAttack.run`; where it fails, the closest attempt."""
        nearest = Nearest(x)
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
            end, suffices, needed, move = self._descend(
                view, x, y, rows, start, tried, rate, last, nearest
            )
            constants.narrow(suffices, needed)
            if self.abort_early:
                gained = ~(nearest.distances >= (1 - GAIN) * distances)
                ratio = constants.c / tried
                same = had_solved & constants.solved & (ratio < SAME) & (ratio > 1 / SAME)
                rows = rows[((gained | nearest.distances.isinf()) & ~same)[rows]]
                if len(rows) == 0:
                    break
            solved = constants.solved
            start = torch.where(solved.view(-1, *[1] * (x.dim() - 1)), nearest.x, end)
            way = NEXT_RATE * (nearest.x - x).flatten(1).abs().amax(1)
            rate = self._rate(torch.where(solved, way, FIRST_RATE * move))
            last = torch.where(solved, NEXT_STEPS * self.steps, torch.inf)
        return nearest.x

    def lead(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return by how much the adversary leads (N,): positive where it has its will."""
        lead = margin(logits, y)
        return -lead if self.targeted else lead

    def _hinge(self, logits: Tensor, y: Tensor) -> Tensor:
        """f: how much of the lead is lacking, (N,), 0 where nothing is."""
        return (self.confidence - self.lead(logits, y)).clamp_min(0)

    def _rate(self, most: Tensor) -> Tensor:
        """Return ``lr`` or, where it is less and above 0, ``most`` (N,)."""
        return torch.where(most > 0, most, self.lr).clamp_max(self.lr)

    def _descend(
        self,
        view: AttackView,
        x: Tensor,
        y: Tensor,
        rows: Tensor,
        start: Tensor,
        c: Tensor,
        rate: Tensor,
        last: Tensor,
        nearest: "Nearest",
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One search step: minimise from ``start`` for the constants ``c`` (N,) of ``rows``.

        ``rate`` (N,) is the learning rate until the first stall, ``last`` (N,) the iteration after
        which a sample leaves.

        Returns the last iterates, which constants suffice, and what :func:`linearised` says where
        f was last above 0. c suffices where an iterate of the second half was
        adversarial. The first steps are as long as the learning rate and may cross a near boundary
        whatever c: taken as a success, they would send the search to ever smaller c, which leads
        nowhere near the boundary.
        """
        end, needed, move = start.clone(), torch.zeros_like(c), torch.zeros_like(c)
        last_fooled = torch.zeros_like(c)
        taken = torch.full_like(c, self.steps)
        part = view.select(rows)
        limit = torch.atanh(torch.tensor(SCALE, dtype=x.dtype)).item()
        x_adv, rate = start[rows], rate[rows]
        slowest = CUT * rate
        w = torch.atanh(SCALE * (2 * x_adv - 1))
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        before = torch.full_like(rate, torch.inf)
        lowest = before
        look = max(SHORTEST, self.steps // LOOKS)
        for t in range(1, self.steps + 1):
            f, logits, gradient = part.gradient(x_adv, y[rows], self._hinge)
            step = x_adv - x[rows]
            squared = step.flatten(1).square().sum(1)
            fooled = self._keep(nearest, rows, x_adv, squared, logits, y)
            last_fooled[rows[fooled]] = t
            enough, farthest = linearised(x_adv, x[rows], f, gradient)
            needed[rows] = torch.where(enough > 0, enough, needed[rows])
            move[rows] = torch.where(enough > 0, farthest, move[rows])
            lowest = lowest.minimum(squared + c[rows] * f)
            if t % look == 0:
                stalled = lowest >= (1 - STALL) * before
                before, lowest = lowest.minimum(before), torch.full_like(lowest, torch.inf)
                going = (~stalled | (rate > 1.5 * slowest)) & (t < last[rows])
                rate = torch.where(stalled, CUT * rate, rate).maximum(slowest)
                if self.abort_early and not going.all():
                    taken[rows[~going]] = t
                    end[rows[~going]] = x_adv[~going]
                    rows, w, m, v = rows[going], w[going], m[going], v[going]
                    x_adv, step, gradient = x_adv[going], step[going], gradient[going]
                    before, lowest = before[going], lowest[going]
                    rate, slowest = rate[going], slowest[going]
                    if len(rows) == 0:
                        break
                    part = view.select(rows)
            constants = per_sample(c[rows], x_adv)
            slope = (1 - (SCALE * (2 * x_adv - 1)).square()) / (2 * SCALE)
            direction = (2 * step + constants * gradient) * slope
            m = BETA1 * m + (1 - BETA1) * direction
            v = BETA2 * v + (1 - BETA2) * direction.square()
            update = (m / (1 - BETA1**t)) / ((v / (1 - BETA2**t)).sqrt() + ADAM_EPS)
            w = (w - per_sample(rate, w) * update).clamp(-limit, limit)
            x_adv = ((w.tanh() / SCALE + 1) / 2).clamp(0, 1)
        else:
            squared = (x_adv - x[rows]).flatten(1).square().sum(1)
            fooled = self._keep(nearest, rows, x_adv, squared, part.logits(x_adv), y)
            last_fooled[rows[fooled]] = self.steps + 1
            end[rows] = x_adv
        return end, last_fooled > taken / 2, needed, move

    def _keep(
        self,
        nearest: "Nearest",
        rows: Tensor,
        x_adv: Tensor,
        squared: Tensor,
        logits: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Offer the iterates of ``rows`` to ``nearest``; return which are adversarial."""
        lead = self.lead(logits, y[rows])
        fooled = (lead > 0) & (lead >= self.confidence)
        nearest.offer(rows, x_adv, squared, lead, fooled)
        return fooled


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
    """The nearest adversarial iterate per sample; before there is one, that with the best lead."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.clone()
        self._squared = torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)
        self._lead = torch.full_like(self._squared, -torch.inf)

    @property
    def distances(self) -> Tensor:
        """The l2 distance per sample (N,), infinite where nothing was found."""
        return self._squared.sqrt()

    def offer(
        self, rows: Tensor, x_adv: Tensor, squared: Tensor, lead: Tensor, fooled: Tensor
    ) -> None:
        """Take what is better among ``rows``: ``squared`` distances (n,) and leads (n,)."""
        nearer = fooled & (squared < self._squared[rows])
        none_yet = self._squared[rows].isinf()
        closer = ~fooled & none_yet & (lead > self._lead[rows])
        better = nearer | closer
        taken = rows[better]
        self.x[taken] = x_adv[better]
        self._lead[taken] = lead[better]
        self._squared[rows[nearer]] = squared[nearer]
