"""An attack along gradients averaged over noise of the size of the budget.

A gradient can be that of a function nobody cares about: waves in the image, in the features or in
the logits whose slopes drown the model's, and which are too short to move an answer by much. Of
what happens across a share of eps the gradient says little then; the mean gradient over noise of
that size is the gradient of the model as seen through the noise, in which waves shorter than it are
gone (randomised smoothing; as EOT, Athalye et al. 2018 (https://arxiv.org/abs/1707.07397), with the
attacker's own noise). On a model without waves it costs more and finds what PGD finds.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.losses import margin
from benchmark.attacks.norms import Eps, per_sample, project, random_start, steepest_ascent
from benchmark.attacks.view import AttackView


@dataclass(frozen=True, kw_only=True)
class SmoothedGradient(BudgetAttack):
    """Ascends the margin along the mean gradient at ``draws`` noisy copies of every iterate.

    ``width`` is half of the noise's, as a share of eps, and narrower by up to a half from step to
    step, so that no wave fits it every time; ``momentum`` is the share of the last means that is
    kept, each scaled to length 1. Steps shrink along half a cosine from a quarter of eps. A sample
    leaves when it falls, unless the defense is stochastic. Costs ``draws`` passes and one forward a
    step.
    """

    steps: int = 50
    draws: int = 8
    width: float = 0.5
    momentum: float = 0.75

    def __post_init__(self) -> None:
        if min(self.steps, self.draws) < 1 or not self.width > 0:
            raise ValueError("steps and draws must be at least 1, and width above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")

    def run(
        self, view: AttackView, x: Tensor, y: Tensor, *, eps: Eps, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`.BudgetAttack.run`; where it failed, the last iterate."""
        radius = per_sample(eps, x)
        x_adv = random_start(x, eps, self.norm, generator)
        speed = torch.zeros_like(x)
        rows = torch.arange(len(x), device=x.device)
        part = view
        for t in range(self.steps + 1):
            if not view.stochastic:
                stands = part.logits(x_adv[rows]).argmax(1) == y[rows]
                rows = rows[stands]
                part = view.select(rows)
            if t == self.steps or len(rows) == 0:
                break
            mean = self._mean(part, x_adv[rows], y[rows], radius[rows], generator)
            speed[rows] = self.momentum * speed[rows] + mean
            length = 0.01 + 0.25 * (1 + math.cos(math.pi * t / self.steps)) / 2
            step = length * radius[rows] * steepest_ascent(speed[rows], self.norm)
            x_adv[rows] = project(x_adv[rows] + step, x[rows], radius[rows].flatten(), self.norm)
        return x_adv

    def _mean(
        self, view: AttackView, x: Tensor, y: Tensor, radius: Tensor, rng: torch.Generator
    ) -> Tensor:
        """Return the mean gradient (N, C, H, W), scaled to length 1."""

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=rng, device=x.device, dtype=x.dtype)

        width = self.width * (0.5 + 0.5 * uniform(1)) * radius
        if self.norm == "l2":  # of as long a noise as the width says, spread over all pixels
            width = width * (3 / x[0].numel()) ** 0.5
        place, total = uniform(*x.shape), torch.zeros_like(x)
        for draw in range(self.draws):
            # Every pixel passes through its whole width in equal steps, from a place of its own.
            noise = 2 * ((place + draw / self.draws) % 1) - 1
            # Back from the box's edge, not clamped: those would all see the edge's own slope.
            moved = 1 - (1 - (x + width * noise).abs()).abs()
            slope = view.gradient(moved.clamp(0, 1), y, margin)[2]
            total += slope.nan_to_num(0, 0, 0)
        # Scaled by the largest entry first, as a gradient may be tiny.
        total = total / total.flatten(1).abs().amax(1).clamp_min(1e-38).view(-1, 1, 1, 1)
        unit: Tensor = total / total.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, 1, 1, 1)
        return unit
