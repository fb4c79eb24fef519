"""sigma-zero (Cina et al. 2025, https://arxiv.org/abs/2402.01879): few changed values, in l0.

It descends the hinge of the margin plus a smooth stand-in for the count of changed values, and sets
changes below a threshold tau to 0; tau grows where the iterate is adversarial and falls elsewhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.base import MinimalAttack
from benchmark.attacks.closest import Closest, annealed
from benchmark.attacks.losses import towards
from benchmark.attacks.norms import per_sample
from benchmark.attacks.targets import UNTARGETED, Target, check_target, targets_of
from benchmark.attacks.view import AttackView

BETA1, BETA2, ADAM_EPS = 0.9, 0.999, 1e-8

LAST_RATE = 0.1
"""What the learning rate comes down to, as a share of the first, along half a cosine."""

THRESHOLD, THRESHOLD_STEP = 0.3, 0.01
"""The first tau, and by how much it changes per step, as a share of the learning rate."""


@dataclass(frozen=True, kw_only=True)
class SigmaZero(MinimalAttack):
    """sigma-zero in l0, which counts the entries of the array that change.

    ``lr`` is the first learning rate and ``sigma`` how smooth the stand-in is: a change of
    sigma**0.5 counts as half a value. ``target`` is as in :mod:`benchmark.attacks.targets`. Costs
    each sample ``steps`` forwards and backwards and a forward for the last iterate; an image that
    is misclassified as it is costs one of each.
    """

    norm: str = "l0"
    steps: int = 1000
    lr: float = 1.0
    sigma: float = 1e-3
    target: Target = UNTARGETED

    def __post_init__(self) -> None:
        if self.norm != "l0":
            raise ValueError(f"it searches in l0 only, got norm {self.norm!r}")
        if self.steps < 1 or not min(self.lr, self.sigma) > 0:
            raise ValueError("steps must be at least 1, and lr and sigma above 0")
        check_target(self.target)

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`.MinimalAttack.run`; where it fails, the closest attempt."""
        found, aim = Closest(x, self.norm), targets_of(view, x, y, self.target)
        rows, part = torch.arange(len(x), device=x.device), view
        clean, labels = x, y
        delta, m, v = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        tau = torch.full_like(found.far, THRESHOLD)
        for k in range(self.steps):
            loss = towards("margin", None if aim is None else aim[rows])
            f, logits, g = part.gradient(clean + delta, labels, loss)
            fooled, _ = found.offer(rows, clean, clean + delta, logits, labels)
            if k == 0 and fooled.any():
                rows, f, g = (~fooled).nonzero().flatten(), f[~fooled], g[~fooled]
                clean, labels, tau = x[rows], y[rows], tau[rows]
                delta, m, v = delta[rows], m[rows], v[rows]
                part, fooled = view.select(rows), fooled[rows]
                if len(rows) == 0:
                    break
            hinge = torch.where(per_sample(f, g) < 0, -g, 0)
            descent = hinge + count_slope(delta, self.sigma)
            descent = descent / per_sample(descent.flatten(1).abs().amax(1).clamp_min(1e-12), g)
            m = BETA1 * m + (1 - BETA1) * descent
            v = BETA2 * v + (1 - BETA2) * descent.square()
            scale = (v / (1 - BETA2 ** (k + 1))).sqrt() + ADAM_EPS
            eta = annealed(self.lr, LAST_RATE * self.lr, max(0, k - 1) / self.steps)
            delta = delta - eta * (m / (1 - BETA1 ** (k + 1))) / scale
            delta = (clean + delta).clamp(0, 1) - clean
            eta = annealed(self.lr, LAST_RATE * self.lr, k / self.steps)
            change = THRESHOLD_STEP * eta
            tau = (tau + torch.where(fooled, change, -change)).clamp(0, 1)
            delta = torch.where(delta.abs() < per_sample(tau, delta), 0, delta)
        if len(rows):
            found.offer(rows, clean, clean + delta, part.logits(clean + delta), labels)
        return found.x


def count_slope(delta: Tensor, sigma: float) -> Tensor:
    """Return the gradient of the mean over the entries of delta^2 / (delta^2 + sigma)."""
    slope = 2 * delta * sigma / (delta.square() + sigma).square()
    return slope / delta[0].numel()
