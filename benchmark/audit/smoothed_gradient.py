"""An attack along gradients averaged over noise of the size of the budget.

Waves in the image, the features or the logits can have slopes that drown the model's, and be too
short to move an answer by much: their gradient says little of what happens across a share of eps.
The mean gradient over noise of that size is the gradient of the model as seen through the noise,
without the waves (randomised smoothing; as EOT, Athalye et al. 2018,
https://arxiv.org/abs/1707.07397, with the attacker's own noise). On a model without waves it costs
more and finds what PGD finds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.losses import margin
from benchmark.attacks.norms import spread
from benchmark.attacks.view import AttackView
from benchmark.audit.momentum_ascent import MomentumAscent, unit


@dataclass(frozen=True, kw_only=True)
class SmoothedGradient(MomentumAscent):
    """Follows the mean gradient at ``draws`` noisy copies of every iterate.

    ``width`` is half of the noise's, as a share of eps, and narrower by up to a half from step to
    step, so that no wave fits it every time. Costs ``draws`` passes and one forward a step.
    """

    draws: int = 8
    width: float = 0.5
    momentum: float = 0.75

    def __post_init__(self) -> None:
        if min(self.steps, self.draws) < 1 or not self.width > 0:
            raise ValueError("steps and draws must be at least 1, and width above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {self.momentum}")

    def estimate(
        self, view: AttackView, x: Tensor, y: Tensor, eps: Tensor, t: int, rng: torch.Generator
    ) -> Tensor:
        """See :meth:`.MomentumAscent.estimate`: the mean gradient, scaled to length 1."""

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=rng, device=x.device, dtype=x.dtype)

        width = self.width * (0.5 + 0.5 * uniform(1)) * eps
        if (
            self.norm != "linf"
        ):  # noise of that length: uniform, its root mean square is width / 3**0.5
            width = 3**0.5 * spread(width, x, self.norm)
        place, total = uniform(*x.shape), torch.zeros_like(x)
        for draw in range(self.draws):
            # Every pixel passes through its whole width in equal steps, from a place of its own.
            noise = 2 * ((place + draw / self.draws) % 1) - 1
            # Reflected at the box's edge: clamped pixels would all see the slope at the edge.
            moved = 1 - (1 - (x + width * noise).abs()).abs()
            slope = view.gradient(moved.clamp(0, 1), y, margin)[2]
            total += slope.nan_to_num(0, 0, 0)
        # Scaled by the largest entry first, as a gradient may be tiny.
        return unit(total / total.flatten(1).abs().amax(1).clamp_min(1e-38).view(-1, 1, 1, 1))
