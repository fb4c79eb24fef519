"""Auto-PGD (Croce and Hein 2020, https://arxiv.org/abs/2003.01690): PGD that sets its own steps.

In l1 it is that of Croce and Hein (2021, https://arxiv.org/abs/2103.01208), which searches in three
times and twice the ball first. How it steps: :mod:`benchmark.attacks.apgd_steps`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.apgd_steps import Halving, Iterates, Sparse, Steps
from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.losses import LOSSES, Loss, margin, towards
from benchmark.attacks.norms import Eps, length, per_sample, project
from benchmark.attacks.pgd import Best
from benchmark.attacks.targets import UNTARGETED, Target, check_target, targets_of, wrong_classes
from benchmark.attacks.view import AttackView

NORMS = ("linf", "l2", "l1")

WIDER = ((3.0, 0.3), (2.0, 0.3))
"""The wider balls in which a search in l1 begins: how many times eps, and which share of the
steps (Croce and Hein 2021)."""


@dataclass(frozen=True, kw_only=True)
class APGD(BudgetAttack):
    """Auto-PGD in l-inf, l2 or l1.

    ``loss`` is what it ascends: cross_entropy, margin or dlr (:mod:`benchmark.attacks.losses`).
    With ``n_targets`` it moves to each of that many likeliest wrong classes in turn, with
    ``target`` to one class (:mod:`benchmark.attacks.targets`). Each of ``restarts`` begins at a
    random point of the ball's border. ``rho`` is the share of the steps that have to raise the
    loss, lest the step is halved.

    A sample leaves once it is misclassified, unless ``early_stop`` is False or the defense is
    stochastic; of a stochastic one the last iterate counts, as in PGD. A restart costs each sample
    a forward and a backward a step, and a forward for the last iterate (in l1 three); targets cost
    a forward.
    """

    steps: int = 100
    restarts: int = 1
    loss: str = "cross_entropy"
    n_targets: int = 0
    target: Target = UNTARGETED
    rho: float = 0.75
    early_stop: bool = True

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"it searches in {', '.join(NORMS)}, got norm {self.norm!r}")
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(
                f"steps and restarts must be at least 1, got {self.steps} and {self.restarts}"
            )
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.n_targets < 0 or not 0 < self.rho < 1:
            raise ValueError("n_targets must be at least 0, and rho between 0 and 1")
        check_target(self.target)
        if self.n_targets and self.target != UNTARGETED:
            raise ValueError("give n_targets or target, not both")

    def run(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`.BudgetAttack.run`; where it failed, the iterate of the highest loss.

        With targets that is the one that came closest to being misclassified.
        """
        return self.search(view, x, y, eps=eps, noise=lambda: self.noise(x, generator))

    def search(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, noise: Callable[[], Tensor]
    ) -> Tensor:
        """Do what :meth:`run` does from starts that ``noise`` draws, as :meth:`noise` does."""
        radius = per_sample(eps, x)
        best = Best(x, early_stop=self.early_stop, stochastic=view.stochastic)
        for aim in self._aims(view, x, y):
            for _ in range(self.restarts):
                # Drawn for the whole batch, so that they do not depend on which images have left.
                start = self._start(x, radius, noise())
                rows = best.remaining
                if len(rows) == 0:
                    return best.x
                to = y if aim is None else aim
                s = Iterates.at(rows, start[rows], x[rows], y[rows], to[rows], radius[rows])
                self._climb(view, s, best, targeted=aim is not None)
        return best.x

    def _aims(self, view: AttackView, x: Tensor, y: Tensor) -> Iterator[Tensor | None]:
        """Yield the classes (N,) to reach, one after the other; None where there are none."""
        if not self.n_targets:
            yield targets_of(view, x, y, self.target)
            return
        wrong = wrong_classes(view.logits(x), y)
        yield from wrong[:, : self.n_targets].unbind(1)

    def noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the directions of starts from ``x`` (N, C, H, W)."""
        options: dict[str, Any] = {"generator": generator, "device": x.device, "dtype": x.dtype}
        if self.norm == "linf":
            return 2 * torch.rand(x.shape, **options) - 1
        return torch.randn(x.shape, **options)

    def _start(self, x: Tensor, radius: Tensor, t: Tensor) -> Tensor:
        """Return points of the border: in l1 of the widest ball, the projection of the noise."""
        if self.norm == "l1":
            return project(x + t, x, (self._balls()[0][0] * radius).flatten(), "l1")
        return self._at_border(x, t, radius)

    def _at_border(self, x: Tensor, t: Tensor, radius: Tensor) -> Tensor:
        unit = t / per_sample(length(t, self.norm), x)
        return (x + radius * unit).clamp(0, 1)

    def _balls(self) -> list[tuple[float, int]]:
        """Return the balls in turn: how many times eps, and how many steps."""
        wider = [(times, math.ceil(share * self.steps)) for times, share in WIDER]
        left = self.steps - sum(steps for _, steps in wider)
        if self.norm != "l1" or left < 1:
            return [(1.0, self.steps)]
        return [*wider, (1.0, left)]

    def _climb(self, view: AttackView, s: Iterates, best: Best, *, targeted: bool) -> None:
        """Do one restart, and offer what lies within the ball to ``best``."""
        eps, balls = s.eps, self._balls()
        for times, steps in balls:
            s.eps = times * eps
            s.x_k = project(s.x_k, s.x, s.eps.flatten(), self.norm)
            rule: Steps = Halving(self.norm, steps, self.rho)
            if self.norm == "l1":
                rule = Sparse(steps, warm=len(balls) > 1)
            s = self._ascend(view, s, steps, rule, best if times == 1 else None, targeted=targeted)
            s = s.restarted()

    def _ascend(
        self,
        view: AttackView,
        s: Iterates,
        steps: int,
        rule: Steps,
        best: Best | None,
        *,
        targeted: bool,
    ) -> Iterates:
        """Take ``steps`` steps; return the samples that went on to the end."""
        part = view.select(s.rows)
        for k in range(steps + 1):
            loss: Loss = towards(self.loss, s.aim if targeted else None)
            if k < steps:
                f, logits, g = part.gradient(s.x_k, s.y, loss)
            else:
                logits, g = part.logits(s.x_k), s.g
                f = loss(logits, s.y)
            s.observe(f, g)
            if best is not None and (k == steps or not view.stochastic):
                score = margin(logits, s.y) if targeted else f
                going = best.update(s.rows, s.x_k, score, logits, s.y)
                if not going.all():
                    s = s.selected(going)
                    part = view.select(s.rows)
            if k == steps or len(s.rows) == 0:
                break
            if k == 0:
                rule.begin(s)
            else:
                rule.check(s, k)
            rule.advance(s, k)
        return s


@dataclass(frozen=True, kw_only=True)
class APGDL2(APGD):
    """APGD in l2 under a name of its own."""

    norm: str = "l2"


@dataclass(frozen=True, kw_only=True)
class APGDL1(APGD):
    """APGD in l1 under a name of its own."""

    norm: str = "l1"


@dataclass(frozen=True, kw_only=True)
class APGDTargeted(APGD):
    """APGD-T: the targeted difference of logits ratio for each of the nine likeliest classes."""

    loss: str = "dlr"
    n_targets: int = 9


@dataclass(frozen=True, kw_only=True)
class APGDTargetedL2(APGDTargeted):
    """APGD-T in l2 under a name of its own."""

    norm: str = "l2"


@dataclass(frozen=True, kw_only=True)
class APGDTargetedL1(APGDTargeted):
    """APGD-T in l1 under a name of its own."""

    norm: str = "l1"
