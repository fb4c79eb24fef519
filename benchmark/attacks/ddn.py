"""Decoupled direction and norm (Rony et al. 2019, https://arxiv.org/abs/1811.09600), in l2.

The direction follows the gradient; the norm grows by a factor as long as the model is right and
shrinks by one where it is fooled, so that the iterates swing about the boundary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.base import MinimalAttack
from benchmark.attacks.closest import Closest, annealed, farthest
from benchmark.attacks.losses import LOSSES, towards
from benchmark.attacks.norms import length, per_sample, steepest_ascent
from benchmark.attacks.targets import UNTARGETED, Target, check_target, targets_of
from benchmark.attacks.view import AttackView

LAST_STEP = 0.01
"""The length of the last step of the direction; the first is ``step_size``."""


@dataclass(frozen=True, kw_only=True)
class DDN(MinimalAttack):
    """DDN in l2.

    ``gamma`` is by what share the norm changes at each step, from ``initial_norm`` on, and
    ``step_size`` the length of the direction's first step. ``loss`` and ``target`` are as in
    :class:`benchmark.attacks.apgd.APGD`. Costs each sample ``steps`` forwards and backwards and a
    forward for the last iterate; an image that is misclassified as it is costs one of each.
    """

    norm: str = "l2"
    steps: int = 300
    gamma: float = 0.05
    initial_norm: float = 1.0
    step_size: float = 1.0
    loss: str = "cross_entropy"
    target: Target = UNTARGETED

    def __post_init__(self) -> None:
        if self.norm != "l2":
            raise ValueError(f"it searches in l2 only, got norm {self.norm!r}")
        if self.steps < 1 or not 0 < self.gamma < 1:
            raise ValueError("steps must be at least 1, and gamma between 0 and 1")
        if not min(self.initial_norm, self.step_size) > 0:
            raise ValueError("initial_norm and step_size must be above 0")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        check_target(self.target)

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`.MinimalAttack.run`; where it fails, the closest attempt."""
        found, aim = Closest(x, self.norm), targets_of(view, x, y, self.target)
        rows, part = torch.arange(len(x), device=x.device), view
        delta = torch.zeros_like(x)
        epsilon = torch.full((len(x),), self.initial_norm, device=x.device, dtype=x.dtype)
        clean, labels = x, y
        for k in range(self.steps):
            loss = towards(self.loss, None if aim is None else aim[rows])
            _, logits, g = part.gradient(clean + delta, labels, loss)
            fooled, _ = found.offer(rows, clean, clean + delta, logits, labels)
            if k == 0 and fooled.any():
                rows, g = (~fooled).nonzero().flatten(), g[~fooled]
                clean, labels, delta, epsilon = x[rows], y[rows], delta[rows], epsilon[rows]
                part, fooled = view.select(rows), fooled[rows]
                if len(rows) == 0:
                    break
            g = steepest_ascent(g, self.norm)
            lost = (g == 0).flatten(1).all(1)
            if lost.any():  # where there is no slope, any direction is as good
                noise = torch.randn(g.shape, generator=generator, device=x.device, dtype=x.dtype)
                g = torch.where(per_sample(lost.float(), g) > 0, steepest_ascent(noise, "l2"), g)
            alpha = annealed(self.step_size, LAST_STEP * self.step_size, k / self.steps)
            delta = delta + alpha * g
            epsilon = epsilon * torch.where(fooled, 1 - self.gamma, 1 + self.gamma)
            epsilon = epsilon.minimum(farthest(clean, self.norm))
            delta = delta * per_sample(epsilon / length(delta, "l2").clamp_min(1e-12), delta)
            delta = (clean + delta).clamp(0, 1) - clean
        if len(rows):
            found.offer(rows, clean, clean + delta, part.logits(clean + delta), labels)
        return found.x
