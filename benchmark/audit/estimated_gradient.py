"""An attack that estimates the gradient from answers alone.

For a defense whose gradient is missing or false where nothing can be bridged. Evolution strategies
(Ilyas et al. 2018, https://arxiv.org/abs/1804.08598; Uesato et al. 2018,
https://arxiv.org/abs/1802.05666, with random signs: SPSA): the loss's differences between pairs of
points x + sigma u and x - sigma u, averaged along u. Of d pixels, some hundred such pairs see
little; two priors of Ilyas et al. 2018 (https://arxiv.org/abs/1807.07978) make up for it: a
gradient is alike in neighbouring pixels, so u is constant on tiles, and alike from step to step, so
the estimates are summed up over time.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.losses import margin
from benchmark.attacks.norms import per_sample, spread
from benchmark.attacks.view import AttackView
from benchmark.audit.momentum_ascent import MomentumAscent, unit


@dataclass(frozen=True, kw_only=True)
class EvolutionStrategies(MomentumAscent):
    """Follows gradients estimated from ``probes`` pairs of answers per step.

    A pair's standard deviation is ``sigma``, in pixel units, or one of ``shares`` of eps, in turn:
    steps and waves of a defense that are narrower look smooth. ``tiles`` per side are what u is
    constant on, for each part of the search in turn. Costs 2 ``probes`` + 1 forwards a step.
    """

    needs_gradient: ClassVar[bool] = False

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

    def estimate(
        self, view: AttackView, x: Tensor, y: Tensor, eps: Tensor, t: int, rng: torch.Generator
    ) -> Tensor:
        """See :meth:`.MomentumAscent.estimate`: one scale for every step, as they are summed up."""
        side = self.tiles[t * len(self.tiles) // self.steps]
        eps = spread(eps, x, self.norm)
        sigmas = [torch.full_like(eps, self.sigma), *(share * eps for share in self.shares)]
        total = torch.zeros_like(x)
        for probe in range(self.probes):
            sigma = sigmas[(t + probe) % len(sigmas)]
            tiles = torch.randn(len(x), x.shape[1], side, side, generator=rng, device=x.device)
            u = F.interpolate(tiles.to(x.dtype), size=x.shape[2:])
            above = margin(view.logits(x + sigma * u), y)
            below = margin(view.logits(x - sigma * u), y)
            rise = (above - below).nan_to_num(0.0, 0.0, 0.0)
            total += per_sample(rise, x) * u
        return unit(total)
