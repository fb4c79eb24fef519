"""Targeted PGD for three classes: the ratio of torchattacks' targeted APGD takes four logits.

An untargeted loss follows whichever class is nearest at the moment; a search that keeps to one
class at a time gets past where two pull in turns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.norms import Eps, per_sample, project, random_start, steepest_ascent
from benchmark.attacks.view import AttackView


@dataclass(frozen=True, kw_only=True)
class TargetedPGD(BudgetAttack):
    """Ascends one other logit minus the true one, for each of the ``targets`` highest in turn.

    A sample leaves when it falls, unless the defense is stochastic. Costs a pass a step and target.
    """

    steps: int = 50
    targets: int = 2

    def __post_init__(self) -> None:
        if min(self.steps, self.targets) < 1:
            raise ValueError("steps and targets must be at least 1")

    def run(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`.BudgetAttack.run`; where it failed, the last iterate."""
        radius = per_sample(eps, x)
        others = view.logits(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        x_adv = x.clone()
        rows = torch.arange(len(x), device=x.device)
        for place in range(min(self.targets, others.shape[1] - 1)):
            start = random_start(x[rows], radius[rows].flatten(), self.norm, generator)
            x_adv[rows] = start
            for _ in range(self.steps):
                if not len(rows):
                    return x_adv
                target = others[rows, place]

                def lead(logits: Tensor, true: Tensor, target: Tensor = target) -> Tensor:
                    pair = logits.gather(1, torch.stack([target, true], 1))
                    return pair[:, 0] - pair[:, 1]

                _, logits, gradient = view.select(rows).gradient(x_adv[rows], y[rows], lead)
                step = 2.5 / self.steps * radius[rows] * steepest_ascent(gradient, self.norm)
                moved = project(x_adv[rows] + step, x[rows], radius[rows].flatten(), self.norm)
                fooled = logits.argmax(1) != y[rows]
                if view.stochastic:
                    fooled = torch.zeros_like(fooled)
                x_adv[rows[~fooled]] = moved[~fooled]
                rows = rows[~fooled]
            if not view.stochastic and len(rows):
                rows = rows[view.select(rows).logits(x_adv[rows]).argmax(1) == y[rows]]
        return x_adv
