"""Targeted PGD for models of three classes: torchattacks' targeted APGD needs four logits.

An untargeted loss follows whichever class is nearest at the moment, and may swing between two; this
search keeps to one class at a time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.ascent import Ascent, still_right
from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.norms import Eps, per_sample, random_start
from benchmark.attacks.view import AttackView


@dataclass(frozen=True, kw_only=True)
class TargetedPGD(BudgetAttack):
    """Ascends one other logit minus the true one, for each of the ``targets`` highest in turn.

    A sample leaves once it is misclassified, unless the defense is stochastic. Costs a pass a step
    and target.
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
        ascent = Ascent(self.norm, self.steps, lambda _, r: 2.5 / self.steps * r)
        x_adv, rows = x.clone(), torch.arange(len(x), device=x.device)
        for place in range(min(self.targets, others.shape[1] - 1)):
            if len(rows) == 0:
                break
            x_adv[rows] = random_start(x[rows], radius[rows].flatten(), self.norm, generator)

            def follow(
                part: AttackView, rows: Tensor, t: int, place: int = place
            ) -> tuple[Tensor | None, Tensor]:
                now, target = x_adv[rows], others[rows, place]

                def lead(logits: Tensor, true: Tensor) -> Tensor:
                    pair = logits.gather(1, torch.stack([target, true], 1))
                    return pair[:, 0] - pair[:, 1]

                if t < self.steps:
                    _, logits, g = part.gradient(now, y[rows], lead)
                elif view.stochastic:
                    return None, now
                else:
                    logits, g = part.logits(now), now
                going = still_right(view, logits, y[rows])
                return going, g[going]

            rows = ascent.run(view, x_adv, x, radius, rows, follow)
        return x_adv
