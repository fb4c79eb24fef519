"""What several checks of the gradient look at, measured once: gradients, differences, an attack."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.attacks.losses import cross_entropy, margin
from benchmark.attacks.norms import per_sample, project, random_start, steepest_ascent, unit_ball
from benchmark.attacks.view import AttackView, MissingGradientError, attack_view
from benchmark.audit.budgets import Budget, budget
from benchmark.audit.case import Case
from benchmark.audit.measurements import ASKED_OFTEN, asked, seed_for, steps_of, view_of
from benchmark.seeding import generator, seeded


@dataclass(frozen=True)
class Gradients:
    """Loss gradients (N, C, H, W) at the first images that are right, or that there are none.

    ``gap`` (N,) is the true logit minus the best other one. Where no graph leads to the images
    (``missing``) all are NaN.
    """

    cross_entropy: Tensor
    margin: Tensor
    gap: Tensor
    missing: bool = False

    @property
    def unusable(self) -> str:
        """Why nothing can be said of these gradients; "" where they are finite."""
        if self.missing:
            return "no gradient reaches the image: there is nothing to follow"
        if not self.margin.isfinite().all():
            return "the gradient holds NaN or infinity: there is nothing to follow"
        return ""


def gradients(case: Case) -> Gradients:
    """Take the gradients of the cross-entropy and the margin; 2 passes an image."""
    x, y = asked(case)
    try:
        with view_of(case, len(x)) as view, seeded(seed_for(case, "gradients"), x.device):
            view.drops = False
            by_margin = view.gradient(x, y, margin)
            by_entropy = view.gradient(x, y, cross_entropy)
    except MissingGradientError:
        nothing = torch.full_like(x, torch.nan)
        return Gradients(nothing, nothing, nothing[:, 0, 0, 0], missing=True)
    return Gradients(by_entropy[2], by_margin[2], -by_margin[0])


def same_noise_loss(view: AttackView, y: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    """Return the margin (N,) as a fixed function of the images: every query draws the same noise.

    A stochastic defense that is seeded alike needs no averaging.
    """

    def loss(x: Tensor) -> Tensor:
        with seeded(seed, x.device):
            return margin(view.logits(x), y)

    return loss


# --- gradients against differences ---------------------------------------------------------------

SCALES = (1e-4, 1e-3, 1e-2)
"""Steps per pixel, of which a gradient has to agree at one; docs/constants.md."""

DIRECTIONS = 4
"""Random directions per image, each a sign per pixel."""


@dataclass(frozen=True)
class Differences:
    """Slopes of the margin loss as autograd has them and as central differences have them.

    ``length`` (N,) is autograd's slope along the gradient's own sign, ``along`` (S, N) the
    difference at each of the S scales. ``expected`` (N, K) are autograd's slopes in K random
    directions and ``measured`` (S, N, K) the differences. ``repeatable`` tells whether the same
    images gave the same logits under the same seed: else the noise does not cancel.
    """

    length: Tensor
    along: Tensor
    expected: Tensor
    measured: Tensor
    repeatable: bool


def differences(case: Case) -> Differences:
    """Compare slopes just inside the box; 2 S (K + 1) forwards and 1 pass an image."""
    x, y = asked(case, ASKED_OFTEN)
    x = x.clamp(2 * SCALES[-1], 1 - 2 * SCALES[-1])
    seed = seed_for(case, "differences")
    rng = generator(seed, x.device)
    with attack_view(case.defense, len(x), inside=case.inside) as view:
        loss = same_noise_loss(view, y, seed)
        with seeded(seed, x.device):
            gradient = view.gradient(x, y, margin)[2]
        repeatable = torch.equal(loss(x), loss(x))
        own = gradient.sign()
        draws = torch.randint(0, 2, (DIRECTIONS, *x.shape), generator=rng, device=x.device)
        signs = draws.to(x) * 2 - 1

        def slope(direction: Tensor, scale: float) -> Tensor:
            return (loss(x + scale * direction) - loss(x - scale * direction)) / (2 * scale)

        along = torch.stack([slope(own, scale) for scale in SCALES])
        measured = torch.stack(
            [torch.stack([slope(sign, scale) for sign in signs], 1) for scale in SCALES]
        )
    expected = (gradient * signs).flatten(2).sum(2).T
    return Differences(gradient.flatten(1).abs().sum(1), along, expected, measured, repeatable)


# --- gradients at the scale of eps ---------------------------------------------------------------

FRACTIONS = (1 / 8, 1 / 4, 1 / 2)
"""Steps as shares of eps: what an attack moves by at a time."""

PLACES = 3
"""Points of the ball that are looked at, drawn within half of eps: an attack stays at the stored
image for one step only."""


@dataclass(frozen=True)
class Strides:
    """What the margin loss does across shares of eps, inside the ball.

    ``kept`` (F, N) is the rise along the gradient's own direction across each of the F fractions,
    as a share of what the gradient promised, over all places of an image. ``expected`` and
    ``measured`` (N, P) are the rises in one random direction at each place, across a quarter of
    eps. ``repeatable`` is as in :class:`Differences`.
    """

    kept: Tensor
    expected: Tensor
    measured: Tensor
    repeatable: bool


def strides(case: Case) -> Strides:
    """Compare gradients in the ball with what steps of shares of eps do; P (2 F + 2) forwards and P
    passes an image."""
    x, y = asked(case, ASKED_OFTEN)
    at = case.once(budget)
    seed = seed_for(case, "strides")
    rng = generator(seed, x.device)
    with attack_view(case.defense, len(x), inside=case.inside) as view:
        loss = same_noise_loss(view, y, seed)

        def rise(point: Tensor, gradient: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            """Return what the gradient promises (N,) from one side to the other, and the rise."""
            above, below = (point + step).clamp(0, 1), (point - step).clamp(0, 1)
            promise = (gradient * (above - below)).flatten(1).double().sum(1)
            return promise, loss(above).double() - loss(below).double()

        repeatable = torch.equal(loss(x), loss(x))
        promised = torch.zeros(len(FRACTIONS), len(x), dtype=torch.float64, device=x.device)
        risen = torch.zeros_like(promised)
        beside = []
        for _ in range(PLACES):
            point = project(x + at.eps / 2 * unit_ball(x, at.norm, rng), x, at.eps, at.norm)
            with seeded(seed, x.device):
                gradient = view.gradient(point, y, margin)[2]
            own = steepest_ascent(gradient, at.norm)
            for i, share in enumerate(FRACTIONS):
                promise, risen_by = rise(point, gradient, share * at.eps * own)
                promised[i] += promise
                risen[i] += risen_by
            other = steepest_ascent(unit_ball(x, at.norm, rng), at.norm)
            beside.append(rise(point, gradient, at.eps / 4 * other))
    kept = risen / promised.clamp_min(torch.finfo(torch.float64).tiny)
    expected, measured = (torch.stack(part, 1) for part in zip(*beside, strict=True))
    return Strides(kept, expected, measured, repeatable)


# --- a short attack, step by step ----------------------------------------------------------------


@dataclass(frozen=True)
class ShortAttack:
    """A short PGD, iterate by iterate: ``loss`` (T + 1, N) the margin, ``fooled`` (T + 1, N) bool.

    ``best`` (N, C, H, W) are the iterates that the attack would return.
    """

    loss: Tensor
    fooled: Tensor
    best: Tensor
    budget: Budget


def short_attack(case: Case) -> ShortAttack:
    """Ascend the cross-entropy as the run's PGD does; T passes and 1 forward an image."""
    x, y = asked(case, ASKED_OFTEN)
    steps = steps_of(case)
    at = case.once(budget)
    seed = seed_for(case, "climb")
    losses, fooled = [], []
    with view_of(case, len(x)) as view, seeded(seed, x.device):
        x_adv = best = random_start(x, at.eps, at.norm, generator(seed, x.device))
        for step in range(steps + 1):
            last = step == steps
            if last:
                logits = view.logits(x_adv)
            else:
                _, logits, gradient = view.gradient(x_adv, y, cross_entropy)
            losses.append(margin(logits, y))
            fooled.append(logits.argmax(1) != y)
            best = torch.where(per_sample(fooled[-1].to(x), x) > 0, x_adv, best)
            if not last:
                x_adv = x_adv + 2.5 * at.eps / steps * steepest_ascent(gradient, at.norm)
                x_adv = project(x_adv, x, at.eps, at.norm)
    ever = torch.stack(fooled).any(0)
    best = torch.where(per_sample(ever.to(x), x) > 0, best, x_adv)
    return ShortAttack(torch.stack(losses), torch.stack(fooled), best, at)
