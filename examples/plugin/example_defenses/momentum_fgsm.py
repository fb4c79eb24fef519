"""The momentum iterative FGSM (Dong et al. 2018, https://arxiv.org/abs/1710.06081)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark import AttackView, BudgetAttack
from benchmark.attacks.losses import cross_entropy
from benchmark.attacks.norms import Eps, per_sample, project, steepest_ascent
from benchmark.attacks.pgd import Best


@dataclass(frozen=True, kw_only=True)
class MomentumFGSM(BudgetAttack):
    """Steps of eps / T along g = mu g + gradient / |gradient|_1, with T ``steps`` and mu
    ``momentum``; the sign of g in l-inf, its direction in l2 (``norm``).

    Nothing is drawn. The best iterate is returned, where the paper returns the last.
    """

    steps: int = 10
    momentum: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.momentum >= 0:
            raise ValueError(
                "steps must be at least 1 and momentum at least 0, got"
                f" {self.steps} and {self.momentum}"
            )

    def run(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`benchmark.BudgetAttack.run`."""
        alpha = per_sample(eps, x) / self.steps  # eps is a number, or one per image
        best = Best(x, early_stop=False, stochastic=view.stochastic)
        x_adv, g, rows = x, torch.zeros_like(x), torch.arange(len(x), device=x.device)
        for _ in range(self.steps):
            loss, logits, gradient = view.gradient(x_adv, y, cross_entropy)
            best.update(rows, x_adv, loss, logits, y)
            length = gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
            g = self.momentum * g + gradient / length.clamp_min(1e-30)
            x_adv = project(x_adv + alpha * steepest_ascent(g, self.norm), x, eps, self.norm)
        logits = view.logits(x_adv)
        best.update(rows, x_adv, cross_entropy(logits, y), logits, y)
        return best.x
