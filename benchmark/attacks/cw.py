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

from benchmark.attack import MinimalAttack
from benchmark.losses import margin
from benchmark.norms import per_sample
from benchmark.view import AttackView

SCALE = 0.5
"""s in the change of variables: a saturated pixel has three quarters of the slope of a grey one.

Measured on 64 MNIST images with 5 constants of 50 steps each, at learning rate 0.01: with s = 0.999
16 % of the images fall, with 0.9 40 %, with 0.5 all. At learning rate 0.05 all fall with each, at
median distances of 1.64, 1.56 and 1.56.
"""

CUT = 0.1
"""By what a stalled sample's learning rate is multiplied: its steps were longer than its way.

Adam moves every pixel by about the learning rate, however near the boundary is. Measured on 32
CIFAR10 images that need a median distance of 0.11, with 5 constants of 50 to 100 steps at learning
rate 0.01: a constant rate ends at 0.16 and loses most samples to the early abort, cutting at 0.11.
Where distances are long it changes nothing (MNIST: 1.40 and 1.39).
"""

SLOWEST = CUT**2
"""The share of the learning rate at which a further stall ends a sample's search step."""

BETA1, BETA2, ADAM_EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(MinimalAttack):
    """C&W in l2: Adam over ``steps`` iterations for each of ``search_steps`` constants c.

    c starts at ``initial_c``, is multiplied by ten until it succeeds, and is then bisected, per
    sample. ``lr`` is Adam's learning rate in w; its state starts anew with each c. A sample whose
    objective has not fallen by 0.01 % over a tenth of the steps goes on at a tenth of the learning
    rate; one that stalls at a hundredth of it, too, leaves the batch for the rest of that search
    step (``abort_early``). Success asks for a lead of at least ``confidence`` over the
    true class; with ``targeted``, ``y`` are the classes to reach. A search step costs each sample
    one forward and one backward per iteration, and one forward for the last iterate.
    """

    norm: str = "l2"
    steps: int = 1000
    search_steps: int = 9
    initial_c: float = 1e-2
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
        if not (self.initial_c > 0 and self.lr > 0 and self.confidence >= 0):
            raise ValueError("initial_c and lr must be above 0, confidence at least 0")

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`benchmark.attack.MinimalAttack.run`; where it fails, the closest attempt."""
        nearest = Nearest(x)
        constants = Constants(x, self.initial_c)
        for _ in range(self.search_steps):
            constants.narrow(self._descend(view, x, y, constants.c, nearest))
        return nearest.x

    def lead(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return by how much the adversary leads (N,): positive where it has its will."""
        lead = margin(logits, y)
        return -lead if self.targeted else lead

    def _hinge(self, logits: Tensor, y: Tensor) -> Tensor:
        """f: how much of the lead is lacking, (N,), 0 where nothing is."""
        return (self.confidence - self.lead(logits, y)).clamp_min(0)

    def _descend(
        self, view: AttackView, x: Tensor, y: Tensor, c: Tensor, nearest: "Nearest"
    ) -> Tensor:
        """One search step: minimise for the constants ``c`` (N,); return for which they suffice.

        That is where an iterate of the second half was adversarial. The first step is as long as
        the learning rate and may cross a near boundary whatever c: taken as a success, it would
        send the search to ever smaller c, which leads nowhere near the boundary.
        """
        last_fooled = torch.zeros(len(x), device=x.device)
        taken = torch.full_like(last_fooled, self.steps)
        rows = torch.arange(len(x), device=x.device)
        part = view.select(rows)
        limit = torch.atanh(torch.tensor(SCALE, dtype=x.dtype)).item()
        w = torch.atanh(SCALE * (2 * x - 1))
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        x_adv, before = x, torch.full_like(c, torch.inf)
        rate = torch.full_like(c, self.lr)
        check = max(1, self.steps // 10)
        for t in range(1, self.steps + 1):
            f, logits, gradient = part.gradient(x_adv, y[rows], self._hinge)
            step = x_adv - x[rows]
            squared = step.flatten(1).square().sum(1)
            fooled = self._keep(nearest, rows, x_adv, squared, logits, y)
            last_fooled[rows[fooled]] = t
            objective = squared + c[rows] * f
            if t % check == 0:
                stalled = objective >= 0.9999 * before
                before = objective
                going = ~stalled | (rate > 1.5 * SLOWEST * self.lr)
                rate = torch.where(stalled, CUT * rate, rate).clamp_min(SLOWEST * self.lr)
                if self.abort_early and not going.all():
                    taken[rows[~going]] = t
                    rows, w, m, v = rows[going], w[going], m[going], v[going]
                    x_adv, step, gradient = x_adv[going], step[going], gradient[going]
                    before, rate = before[going], rate[going]
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
        return last_fooled > taken / 2

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


class Constants:
    """The search for the smallest c that suffices, per sample: ``c`` (N,) is the next to try."""

    def __init__(self, x: Tensor, initial: float) -> None:
        self.c = torch.full((len(x),), initial, device=x.device, dtype=x.dtype)
        self._lower = torch.zeros_like(self.c)
        self._upper = torch.full_like(self.c, torch.inf)

    def narrow(self, suffices: Tensor) -> None:
        """Go on from which of ``c`` suffice (N,): times ten until one does, then by bisection."""
        self._upper = torch.where(suffices, self.c, self._upper)
        self._lower = torch.where(suffices, self._lower, self.c)
        middle = (self._lower + self._upper) / 2
        self.c = torch.where(self._upper.isfinite(), middle, self.c * 10)


class Nearest:
    """The nearest adversarial iterate per sample; before there is one, that with the best lead."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.clone()
        self._squared = torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)
        self._lead = torch.full_like(self._squared, -torch.inf)

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
