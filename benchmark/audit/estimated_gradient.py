"""An attack that estimates the gradient from answers alone.

For a defense whose gradient is missing or false where nothing can be bridged. Evolution strategies
(Ilyas et al. 2018, https://arxiv.org/abs/1804.08598; Uesato et al. 2018,
https://arxiv.org/abs/1802.05666, with random signs: SPSA): the loss's differences between pairs of
points x + sigma u and x - sigma u, averaged along u. Of d pixels, some hundred such pairs see
little; two priors of Ilyas et al. 2018 (https://arxiv.org/abs/1807.07978) make up for it: a
gradient is alike in neighbouring pixels, so u is constant on tiles, and alike from step to step, so
the estimates are summed up over time.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.losses import margin
from benchmark.attacks.norms import Eps, per_sample, project, random_start, steepest_ascent
from benchmark.attacks.view import AttackView


@dataclass(frozen=True, kw_only=True)
class EvolutionStrategies(BudgetAttack):
    """Ascends the margin along gradients estimated from ``probes`` pairs of answers per step.

    The probes' standard deviation is what the search sees across: steps and waves of a defense that
    are narrower look smooth to it. It is ``sigma``, in pixel units, and ``shares`` of eps, for each
    pair of probes in turn. ``tiles`` per side are what u is constant on, for each part of the
    search in turn; ``momentum`` is the share of the last estimate that is kept. Steps shrink along
    half a cosine from a quarter of eps. A sample leaves when it falls, unless the defense is
    stochastic. Costs 2 ``probes`` + 1 forwards a step.
    """

    needs_gradient: ClassVar[bool] = False

    steps: int = 50
    probes: int = 10
    sigma: float = 0.05
    shares: tuple[float, ...] = (0.5, 0.25)
    tiles: tuple[int, ...] = (7, 14)
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if min(self.steps, self.probes, *self.tiles) < 1 or not min(self.sigma, *self.shares) > 0:
            raise ValueError(
                "steps, probes and tiles must be at least 1, and sigma and its shares above 0"
            )

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
            estimate = self._estimate(part, x_adv[rows], y[rows], radius[rows], t, generator)
            speed[rows] = self.momentum * speed[rows] + estimate
            length = 0.01 + 0.25 * (1 + math.cos(math.pi * t / self.steps)) / 2
            step = length * radius[rows] * steepest_ascent(speed[rows], self.norm)
            x_adv[rows] = project(x_adv[rows] + step, x[rows], radius[rows].flatten(), self.norm)
        return x_adv

    def _estimate(
        self,
        view: AttackView,
        x: Tensor,
        y: Tensor,
        radius: Tensor,
        t: int,
        rng: torch.Generator,
    ) -> Tensor:
        side = self.tiles[t * len(self.tiles) // self.steps]
        if self.norm == "l2":  # a share of its length, spread over all pixels
            radius = radius / x[0].numel() ** 0.5
        sigmas = [torch.full_like(radius, self.sigma), *(share * radius for share in self.shares)]
        total = torch.zeros_like(x)
        for probe in range(self.probes):
            sigma = sigmas[(t + probe) % len(sigmas)]
            tiles = torch.randn(len(x), x.shape[1], side, side, generator=rng, device=x.device)
            u = F.interpolate(tiles.to(x.dtype), size=x.shape[2:])
            above = margin(view.logits(x + sigma * u), y)
            below = margin(view.logits(x - sigma * u), y)
            rise = (above - below).nan_to_num(0.0, 0.0, 0.0)
            total += per_sample(rise, x) * u
        # One scale for every step: what counts in the sum over time is the direction.
        unit: Tensor = total / total.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, 1, 1, 1)
        return unit
