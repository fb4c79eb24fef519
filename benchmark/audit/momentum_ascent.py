"""What the attacks share that estimate a gradient from several points around every iterate."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.ascent import Ascent, shrinking, still_right
from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.norms import Eps, per_sample, random_start
from benchmark.attacks.view import AttackView


@dataclass(frozen=True, kw_only=True)
class MomentumAscent(BudgetAttack):
    """Ascends the margin along estimates of its gradient, summed up over the steps.

    ``momentum`` is the share of the last estimates that is kept. Steps shrink along half a cosine
    from a quarter of eps. A sample leaves once it is misclassified, unless the defense is
    stochastic: a forward a step, besides what the estimate costs.
    """

    steps: int = 50
    momentum: float

    @abstractmethod
    def estimate(
        self, view: AttackView, x: Tensor, y: Tensor, eps: Tensor, t: int, rng: torch.Generator
    ) -> Tensor:
        """Return the direction (N, C, H, W) at the iterates ``x`` of step ``t``.

        ``eps`` is (N, 1, 1, 1).
        """

    def run(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`.BudgetAttack.run`; where it failed, the last iterate."""
        radius = per_sample(eps, x)
        x_adv = random_start(x, eps, self.norm, generator)

        def follow(part: AttackView, rows: Tensor, t: int) -> tuple[Tensor | None, Tensor]:
            going = None
            if not view.stochastic:
                going = still_right(view, part.logits(x_adv[rows]), y[rows])
                part, rows = part.select(going.nonzero().flatten()), rows[going]
            if t == self.steps or len(rows) == 0:
                return going, x[rows]
            return going, self.estimate(part, x_adv[rows], y[rows], radius[rows], t, generator)

        ascent = Ascent(self.norm, self.steps, shrinking(self.steps), self.momentum)
        ascent.run(view, x_adv, x, radius, torch.arange(len(x), device=x.device), follow)
        return x_adv


def unit(direction: Tensor) -> Tensor:
    """Return ``direction`` (N, C, H, W) scaled to length 1 per image."""
    length = direction.flatten(1).norm(dim=1).clamp_min(1e-30)
    scaled: Tensor = direction / length.view(-1, 1, 1, 1)
    return scaled
