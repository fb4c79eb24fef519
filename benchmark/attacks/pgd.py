"""Projected gradient descent (Madry et al. 2017, https://arxiv.org/abs/1706.06083)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.ascent import Ascent
from benchmark.attacks.base import Attack, SweepAttack
from benchmark.attacks.eps_descent import Descent
from benchmark.attacks.losses import LOSSES, towards
from benchmark.attacks.norms import Eps, per_sample, random_start
from benchmark.attacks.targets import UNTARGETED, Target, check_target, targets_of
from benchmark.attacks.view import AttackView
from benchmark.config.eps import check_step

FEWEST_STEPS = 10
"""With fewer steps a sweep runs the attack at each eps (docs/constants.md)."""


@dataclass(frozen=True, kw_only=True)
class PGDSettings(Attack):
    """The settings of PGD, here and in other libraries.

    ``loss`` is what it ascends: cross_entropy, margin or dlr (:mod:`benchmark.attacks.losses`).
    ``step_size`` is in the norm's units; None means 2.5 eps / steps, which can reach and follow
    the ball's border at any eps (Madry et al. 2017, section 5). With ``random_start`` each restart
    begins at a uniform point of the ball, otherwise at the image. With ``early_stop`` a sample
    leaves the batch once it is misclassified. With ``return_last`` only the last iterate of a
    restart counts: it may be worse than one seen on the way.
    """

    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    early_stop: bool = True
    loss: str = "cross_entropy"
    return_last: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(
                f"steps and restarts must be at least 1, got {self.steps} and {self.restarts}"
            )
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be above 0 or left out, got {self.step_size}")
        check_step(self.step_size, self.norm)
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")


@dataclass(frozen=True, kw_only=True)
class PGD(PGDSettings, SweepAttack):
    """PGD in l-inf (sign steps), l2 (normalised steps) or l1 (sparse sign steps).

    With a ``target`` (:mod:`benchmark.attacks.targets`) it moves to that class, for a forward more.

    Where one search serves a sweep (:mod:`benchmark.attacks.eps_descent`), a ``step_size`` of None
    means steps that shrink. Of a stochastic defense no sample leaves early and the last iterate
    counts: the best of many noisy losses is above all a lucky draw (docs/constants.md). Each step
    costs every sample in the batch a forward and a backward, and each restart a forward more, for
    its last iterate.
    """

    target: Target = UNTARGETED

    def __post_init__(self) -> None:
        super().__post_init__()
        check_target(self.target)

    def run(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`benchmark.attacks.base.BudgetAttack.run`."""
        radius, aim = per_sample(eps, x), targets_of(view, x, y, self.target)
        best = Best(x, early_stop=self.early_stop, stochastic=view.stochastic)
        last_only = self.return_last or view.stochastic
        ascent = Ascent(self.norm, self.steps, lambda _, r: self.step_size or 2.5 / self.steps * r)
        x_adv = x.clone()

        def follow(part: AttackView, rows: Tensor, t: int) -> tuple[Tensor | None, Tensor]:
            now, labels = x_adv[rows], y[rows]
            loss = towards(self.loss, None if aim is None else aim[rows])
            if t == self.steps:
                logits = part.logits(now)
                value, g = loss(logits, labels), now
            else:
                value, logits, g = part.gradient(now, labels, loss)
                if last_only:
                    return None, g
            going = best.update(rows, now, value, logits, labels)
            return (None, g) if going.all() else (going, g[going])

        for _ in range(self.restarts):
            rows = best.remaining
            if len(rows) == 0:
                break
            x_adv[rows] = x[rows]
            if self.random_start:
                x_adv[rows] = random_start(x[rows], radius[rows].flatten(), self.norm, generator)
            ascent.run(view, x_adv, x, radius, rows, follow)
        return best.x

    @property
    def serves_sweeps(self) -> bool:
        """True if it has no target, may stop early and has at least ``FEWEST_STEPS`` steps.

        A sweep's search stops at the first adversarial image, so it cannot take every step or
        return the last iterate; with few steps it finds other images than a run at each eps does.
        """
        free = self.target == UNTARGETED and self.early_stop and not self.return_last
        return free and self.steps >= FEWEST_STEPS

    def descend(self, view: AttackView, x: Tensor, y: Tensor, **sweep: Any) -> Tensor:
        """See :meth:`benchmark.attacks.base.SweepAttack.descend`."""
        search = Descent(
            norm=self.norm,
            loss=LOSSES[self.loss],
            steps=self.steps,
            restarts=self.restarts,
            step_size=self.step_size,
            random_start=self.random_start,
        )
        return search.run(view, x, y, **sweep)


@dataclass(frozen=True, kw_only=True)
class PGDL2(PGD):
    """PGD in l2 under a name of its own, so that one run can hold both."""

    norm: str = "l2"


@dataclass(frozen=True, kw_only=True)
class FGSM(PGD):
    """The fast gradient sign method (https://arxiv.org/abs/1412.6572): PGD with one full step."""

    steps: int = 1
    random_start: bool = False


class Best:
    """The best iterate per sample: one that fools the model, else the highest loss so far.

    Of a stochastic model only the loss counts: one draw that fools it is no success.
    """

    def __init__(self, x: Tensor, *, early_stop: bool, stochastic: bool = False) -> None:
        self.x = x.clone()
        self.early_stop = early_stop and not stochastic
        self.stochastic = stochastic
        # The view's losses are float32, whatever the images are.
        self._loss = torch.full((len(x),), -torch.inf, device=x.device, dtype=torch.float32)
        self._fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    @property
    def remaining(self) -> Tensor:
        """The rows (int64) that are worth another step."""
        if self.early_stop:
            return (~self._fooled).nonzero().flatten()
        return torch.arange(len(self.x), device=self.x.device)

    def update(
        self, rows: Tensor, x_adv: Tensor, loss: Tensor, logits: Tensor, labels: Tensor
    ) -> Tensor:
        """Keep what improved among ``rows``; return the mask of those rows that go on."""
        fooled = logits.argmax(1) != labels
        if self.stochastic:
            fooled = torch.zeros_like(fooled)
        was_fooled = self._fooled[rows]
        higher = loss > self._loss[rows]
        better = (fooled & ~was_fooled) | (higher & (fooled == was_fooled))
        taken = rows[better]
        self.x[taken] = x_adv[better]
        self._loss[taken] = loss[better]
        self._fooled[taken] = fooled[better]
        return ~fooled if self.early_stop else torch.ones_like(fooled)
