"""Fast minimum-norm attacks (Pintor et al. 2021, https://arxiv.org/abs/2102.12827).

Each step follows the margin's gradient and projects onto a ball whose radius epsilon is adapted:
to the distance at which the linearised model says that the boundary lies, until there is an
adversarial iterate; from there on by a factor, down where the iterate is adversarial and up where
it is not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.base import MinimalAttack
from benchmark.attacks.closest import Closest, annealed, farthest
from benchmark.attacks.losses import towards
from benchmark.attacks.norms import ORDERS, dual_length, project, steepest_ascent
from benchmark.attacks.targets import UNTARGETED, Target, check_target, targets_of
from benchmark.attacks.view import AttackView

LAST_STEP, LAST_GAMMA = 0.01, 0.001
"""What the step size, as a share of the first, and gamma come down to along half a cosine."""


@dataclass(frozen=True, kw_only=True)
class FMN(MinimalAttack):
    """FMN in l2 or another norm.

    ``step_size`` is the Euclidean length of the first step, in every norm, and ``gamma`` the first
    share by which epsilon changes. ``target`` is as in :mod:`benchmark.attacks.targets`. Costs each
    sample ``steps`` forwards and backwards and a forward for the last iterate; an image that is
    misclassified as it is costs one of each.
    """

    norm: str = "l2"
    steps: int = 300
    step_size: float = 1.0
    gamma: float = 0.05
    target: Target = UNTARGETED

    def __post_init__(self) -> None:
        if self.norm not in ORDERS:
            raise ValueError(f"norm must be one of {', '.join(ORDERS)}, got {self.norm!r}")
        if self.steps < 1 or not self.step_size > 0 or not 0 < self.gamma < 1:
            raise ValueError(
                "steps must be at least 1, step_size above 0 and gamma between 0 and 1"
            )
        check_target(self.target)

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`.MinimalAttack.run`; where it fails, the closest attempt."""
        found, aim = Closest(x, self.norm), targets_of(view, x, y, self.target)
        rows, part = torch.arange(len(x), device=x.device), view
        clean, labels, x_k = x, y, x
        epsilon = torch.full_like(found.far, 1.0 if self.norm == "l0" else torch.inf)
        for k in range(self.steps):
            loss = towards("margin", None if aim is None else aim[rows])
            f, logits, g = part.gradient(x_k, labels, loss)
            fooled, far = found.offer(rows, clean, x_k, logits, labels)
            if k == 0 and fooled.any():
                rows = (~fooled).nonzero().flatten()
                f, g, far = f[rows], g[rows], far[rows]
                clean, labels, x_k, epsilon = x[rows], y[rows], x[rows], epsilon[rows]
                part, fooled = view.select(rows), fooled[rows]
                if len(rows) == 0:
                    break
            gamma = annealed(self.gamma, LAST_GAMMA, k / self.steps)
            alpha = annealed(self.step_size, LAST_STEP * self.step_size, k / self.steps)
            epsilon = self._radius(epsilon, fooled, found.far[rows], gamma, far, f, g)
            epsilon = epsilon.minimum(farthest(clean, self.norm))
            x_k = project(x_k + alpha * steepest_ascent(g, "l2"), clean, epsilon, self.norm)
        if len(rows):
            found.offer(rows, clean, x_k, part.logits(x_k), labels)
        return found.x

    def _radius(
        self,
        epsilon: Tensor,
        fooled: Tensor,
        best: Tensor,
        gamma: float,
        far: Tensor,
        f: Tensor,
        g: Tensor,
    ) -> Tensor:
        """Return the next radius (n,); ``best`` are the distances of the nearest found so far."""
        smaller, larger = epsilon * (1 - gamma), epsilon * (1 + gamma)
        if self.norm == "l0":  # a whole number, which changes by at least one
            smaller = smaller.floor().minimum(epsilon - 1)
            larger = larger.floor().maximum(epsilon + 1)
            return torch.where(fooled, smaller.minimum(best), larger).clamp_min(1)
        linear = far + f.abs() / dual_length(g, self.norm).clamp_min(1e-12)
        # Rounding may leave an iterate on the boundary, where the linear model asks for no more.
        searching = torch.where(best.isinf(), linear.maximum(far * (1 + gamma)), larger)
        return torch.where(fooled, smaller.minimum(best), searching)


@dataclass(frozen=True, kw_only=True)
class FMNLinf(FMN):
    """FMN in l-inf under a name of its own."""

    norm: str = "linf"


@dataclass(frozen=True, kw_only=True)
class FMNL1(FMN):
    """FMN in l1 under a name of its own."""

    norm: str = "l1"


@dataclass(frozen=True, kw_only=True)
class FMNL0(FMN):
    """FMN in l0 under a name of its own."""

    norm: str = "l0"
