"""ALMA (Rony et al. 2021, https://arxiv.org/abs/2011.11857): an augmented Lagrangian, in l2.

It minimises ||delta|| subject to the difference of logits ratio being on the other side, through
the penalty P2 of the paper, whose multiplier mu and sharpness rho are adapted per sample.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.base import MinimalAttack
from benchmark.attacks.closest import Closest
from benchmark.attacks.losses import towards
from benchmark.attacks.norms import length, per_sample
from benchmark.attacks.targets import UNTARGETED, Target, check_target, targets_of
from benchmark.attacks.view import AttackView

TOLERANCE = 1e-5
"""How far on the other side the ratio has to be, lest the search ends on a tie."""

ALPHA = 0.9
"""What is kept of mu, of the squared gradients and of the momentum from step to step."""

CHECK, TAU, GAMMA = 10, 0.95, 1.2
"""The steps between two checks; rho grows by ``GAMMA`` where the ratio has not fallen below
``TAU`` times its last value."""

LAST_RATE = 0.01
"""What the learning rate comes down to after the first success, as a share of the first."""

MU_RANGE = (1e-6, 1e12)


@dataclass(frozen=True, kw_only=True)
class ALMA(MinimalAttack):
    """ALMA in l2.

    ``first_step`` is how far the first step goes, per sample, which sets the learning rate (the
    paper's epsilon). ``target`` is as in :mod:`benchmark.attacks.targets`. Costs each sample
    ``steps`` forwards and backwards and a forward for the last iterate; an image that is
    misclassified as it is costs one of each.
    """

    norm: str = "l2"
    steps: int = 300
    first_step: float = 0.5
    target: Target = UNTARGETED

    def __post_init__(self) -> None:
        if self.norm != "l2":
            raise ValueError(f"it searches in l2 only, got norm {self.norm!r}")
        if self.steps < 1 or not self.first_step > 0:
            raise ValueError("steps must be at least 1, and first_step above 0")
        check_target(self.target)

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`.MinimalAttack.run`; where it fails, the closest attempt."""
        found, aim = Closest(x, self.norm), targets_of(view, x, y, self.target)
        rows, part = torch.arange(len(x), device=x.device), view
        s = _Multipliers.of(x, y, self.steps)
        for k in range(self.steps):
            loss = towards("dlr", None if aim is None else aim[rows])
            f, logits, g = part.gradient(s.x_k, s.y, loss)
            fooled, _ = found.offer(rows, s.x, s.x_k, logits, s.y)
            if k == 0 and fooled.any():
                rows, f, g = (~fooled).nonzero().flatten(), f[~fooled], g[~fooled]
                s, part, fooled = s.selected(rows), view.select(rows), fooled[rows]
                if len(rows) == 0:
                    break
            h = TOLERANCE - f  # the constraint: at most 0
            s.adapt(k, h, fooled)
            descent = -per_sample(penalty_slope(h, s.rho, s.mu), g) * g
            if k == 0:
                lost = (descent == 0).flatten(1).all(1)
                noise = torch.randn(g.shape, generator=generator, device=x.device, dtype=x.dtype)
                descent = torch.where(per_sample(lost.float(), g) > 0, noise, descent)
                s.rate = rate_for(s.x, descent, self.first_step)
            else:
                delta = s.x_k - s.x
                descent = descent + delta / per_sample(length(delta, "l2").clamp_min(1e-12), delta)
            s.step(k, self.steps, descent)
        if len(rows):
            found.offer(rows, s.x, s.x_k, part.logits(s.x_k), s.y)
        return found.x


@dataclass
class _Multipliers:
    """The samples (n,) of the search, with RMSprop's state.

    ``h_check`` is the constraint at the last check of ``rho``, and ``since`` the step of the first
    success, a number beyond the steps before there is one.
    """

    x: Tensor
    y: Tensor
    x_k: Tensor
    squares: Tensor
    momentum: Tensor
    mu: Tensor
    rho: Tensor
    h_check: Tensor
    since: Tensor
    rate: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, steps: int) -> "_Multipliers":
        one = torch.ones(len(x), device=x.device, dtype=x.dtype)
        still, moving = torch.ones_like(x), torch.zeros_like(x)
        return cls(x, y, x, still, moving, one, one, one, (steps + 1) * one, one)

    def selected(self, index: Tensor) -> "_Multipliers":
        return _Multipliers(**{name: value[index] for name, value in vars(self).items()})

    def adapt(self, k: int, h: Tensor, fooled: Tensor) -> None:
        """Adapt mu and rho to the constraint ``h`` (n,) at step ``k``, counted from 0."""
        if k == 0:
            self.h_check = h
            return
        if (k + 1) % CHECK == 0:
            before = self.since <= k
            sharper = ~before & (h >= TAU * self.h_check)
            self.rho = torch.where(sharper, GAMMA * self.rho, self.rho)
            self.h_check = h
        slope = penalty_slope(h, self.rho, self.mu)
        self.mu = (ALPHA * self.mu + (1 - ALPHA) * slope).clamp(*MU_RANGE)
        self.since = torch.where(fooled & (self.since > k), k, self.since)

    def step(self, k: int, steps: int, descent: Tensor) -> None:
        """Take RMSprop's step with momentum against the Lagrangian's gradient ``descent``."""
        share = (k - self.since).clamp_min(0) / (steps - self.since)
        rate = per_sample(self.rate * LAST_RATE**share, self.x)
        self.squares = ALPHA * self.squares + (1 - ALPHA) * descent.square()
        self.momentum = ALPHA * self.momentum + descent / (self.squares.sqrt() + 1e-8)
        self.x_k = (self.x_k - rate * self.momentum).clamp(0, 1)


def penalty_slope(h: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """Return the derivative in ``h`` of the penalty P2(h, rho, mu), all (n,).

    P2 is mu h + mu rho h^2 + rho^2 h^3 / 6 where h is at least 0, and mu h / (1 - rho h) below.
    """
    above = mu + 2 * mu * rho * h + rho.square() * h.square() / 2
    return torch.where(h >= 0, above, mu / (1 - rho * h.clamp_max(0)).square())


def rate_for(x: Tensor, descent: Tensor, way: float) -> Tensor:
    """Return the rates (n,) at which a step against ``descent`` goes ``way`` in l2, in the box.

    Where the box does not let it go as far, the largest that is tried.
    """
    low = torch.zeros(len(x), device=x.device, dtype=x.dtype)
    high = torch.full_like(low, 2.0**40)
    for _ in range(70):
        # By the geometric mean as long as the scale is unknown, then by halves.
        middle = torch.where(low > 0, (low * high).sqrt(), high / 2**4)
        moved = (x - per_sample(middle, x) * descent).clamp(0, 1) - x
        far = length(moved, "l2") > way
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    return low
