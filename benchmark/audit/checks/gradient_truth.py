"""Checks whether the gradient points anywhere: does the loss rise along it as autograd says?

Where the run's attacks took a surrogate's gradient (BPDA), only that steps along it raise the loss
is asked of it. Where each threshold comes from, and what honest models show, is on the check's page
under docs/checks.
"""

from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.norms import project, steepest_ascent, unit_ball
from benchmark.attacks.view import attack_view
from benchmark.audit.budgets import budget
from benchmark.audit.case import Case, Finding, alarm_if, undecided
from benchmark.audit.gradient_measurements import (
    FRACTIONS,
    SCALES,
    Differences,
    Strides,
    differences,
    gradients,
    same_noise_loss,
    strides,
)
from benchmark.audit.measurements import TWICE, asked, repeatable, seed_for
from benchmark.audit.registration import check
from benchmark.seeding import generator

Compared = TypeVar("Compared", Differences, Strides)

SIZES = (0.5, 2.0)
WRONG_SIGN = 0.1
DIRECTED = 0.7
BETTER_STEPS = 0.8
KEPT = 0.5
UNKEPT = 0.25
ALONG = 0.6

WORKED = 0.05
"""An attack that leaves no larger share of the images that the model gets right has worked."""

RIVALS = 8
"""Random steps that a step along the gradient has to beat."""

STEPS = ", ".join(f"{scale:g}" for scale in SCALES)
SHARES = ", ".join(f"1/{round(1 / share)}" for share in FRACTIONS)


def _of_a_surrogate(name: str) -> Finding:
    evidence = "the attacks follow a surrogate's gradient (BPDA), which has no differences to meet"
    return Finding(name, "pass", torch.nan, torch.nan, evidence)


def _repeatable(name: str, found: Compared) -> Compared | Finding:
    """Return what was measured, unless noise was, too."""
    return found if found.repeatable else undecided(name, f"{TWICE}: differences hold its noise")


def _comparable(name: str, case: Case) -> Differences | Finding:
    """Return the differences, or why they say nothing about the gradient."""
    if case.bpda:
        return _of_a_surrogate(name)
    found = _repeatable(name, case.once(differences))
    if isinstance(found, Differences) and not found.length.all():
        zero = int((found.length == 0).sum())
        return undecided(name, f"{zero} of {len(found.length)} gradients are zero")
    return found


def _cosine(expected: Tensor, measured: Tensor) -> float:
    """Return the cosine of slopes (N, K), each image's scaled by the expected ones' size."""
    size = expected.square().mean(1, keepdim=True).sqrt()
    pair = (expected / size).flatten(), (measured / size).flatten()
    return float(F.cosine_similarity(*pair, dim=0))


@check("gradient-size", level="basic", needs=["correct", "gradient"])
def gradient_size(case: Case) -> Finding:
    """Compare the gradient's size with finite differences along its own sign."""
    name = "gradient-size"
    found = _comparable(name, case)
    if isinstance(found, Finding):
        return found
    ratios = (found.along / found.length).median(1).values
    ratio = float(min(ratios, key=lambda value: abs(float(value) - 1)))
    evidence = (
        f"the loss rises {ratio:.3g} times as fast along the gradient's sign as autograd says"
        f" (median of {len(found.length)} images, the best of steps {STEPS});"
        f" trusted between {SIZES[0]:g} and {SIZES[1]:g}"
    )
    threshold = SIZES[0] if ratio < 1 else SIZES[1]
    wrong = 0 <= ratio < SIZES[0] or ratio > SIZES[1]
    return alarm_if(wrong, name, ratio, threshold, evidence, "gradient of the wrong size")


@check("gradient-sign", level="basic", needs=["correct", "gradient"])
def gradient_sign(case: Case) -> Finding:
    """Tell how often the loss falls along its gradient."""
    name = "gradient-sign"
    found = _comparable(name, case)
    if isinstance(found, Finding):
        return found
    falls = float((found.along < 0).double().mean(1).min())
    evidence = (
        f"along its gradient's sign the loss of {falls:.0%} of {len(found.length)} images falls"
        f" (at the kindest of steps {STEPS}); trusted up to {WRONG_SIGN:.0%}"
    )
    reason = "gradient of the wrong sign"
    return alarm_if(falls > WRONG_SIGN, name, falls, WRONG_SIGN, evidence, reason)


@check("gradient-directions", level="basic", needs=["correct", "gradient"])
def gradient_directions(case: Case) -> Finding:
    """Compare the gradient with finite differences in random directions."""
    name = "gradient-directions"
    found = _comparable(name, case)
    if isinstance(found, Finding):
        return found
    agreement = max(_cosine(found.expected, at) for at in found.measured)
    n, directions = found.expected.shape
    evidence = (
        f"slopes in {directions} random directions at {n} images agree with autograd's by a cosine"
        f" of {agreement:.2f} (the best of steps {STEPS}); trusted from {DIRECTED:g}"
    )
    reason = "gradient not predictive"
    return alarm_if(agreement < DIRECTED, name, agreement, DIRECTED, evidence, reason)


@check("gradient-steps", level="basic", needs=["correct", "gradient"])
def gradient_steps(case: Case) -> Finding:
    """Tell how often a step along the gradient beats random steps of the same length."""
    name, found = "gradient-steps", case.once(gradients)
    if not case.once(repeatable):
        return undecided(name, f"{TWICE}: its noise decides too", BETTER_STEPS)
    x, y = asked(case)
    at = case.once(budget)
    seed, reach = seed_for(case, name), at.eps / 4
    rng = generator(seed, x.device)
    with attack_view(case.defense, len(x), bpda=case.bpda, inside=case.inside) as view:
        loss = same_noise_loss(view, y, seed)

        def risen(direction: Tensor) -> Tensor:
            step = reach * steepest_ascent(direction, at.norm)
            return loss(project(x + step, x, reach, at.norm))

        own = risen(found.margin)
        rivals = torch.stack([risen(unit_ball(x, at.norm, rng)) for _ in range(RIVALS)])
    share = float((own > rivals.amax(0)).double().mean())
    evidence = (
        f"one step of {reach:.3g} ({at.norm}) along the gradient raises the loss more than the best"
        f" of {RIVALS} random steps on {share:.0%} of {len(x)} images; trusted from"
        f" {BETTER_STEPS:.0%}, chance is {1 / (RIVALS + 1):.0%}"
    )
    reason = "surrogate's gradient not predictive" if case.bpda else "gradient not predictive"
    return alarm_if(share < BETTER_STEPS, name, share, BETTER_STEPS, evidence, reason)


@check(
    "gradient-scale",
    level="basic",
    needs=["correct", "gradient"],
    remedies=["more averaging"],
)
def gradient_scale(case: Case) -> Finding:
    """Compare gradients inside the ball with what the loss does across shares of eps."""
    name = "gradient-scale"
    if case.bpda:
        return _of_a_surrogate(name)
    at = case.once(budget)
    left = int(at.robust.sum()) / max(1, int(case.correct.sum()))
    if at.attack and left <= WORKED:
        evidence = (
            f"the run's attack left {left:.0%} of the images right at eps {at.eps:g} ({at.norm}),"
            f" at most {WORKED:.0%}: the gradient led it there"
        )
        return Finding(name, "pass", 0.0, UNKEPT, evidence)
    found = _repeatable(name, case.once(strides))
    if isinstance(found, Finding):
        return found
    if not (found.kept.isfinite().all() and found.expected.any(1).all()):
        return undecided(
            name, "gradients inside the ball are zero, NaN or infinite: they promise nothing"
        )
    # Across half of eps an honest model bends, too; there the sign alone is told.
    near = found.kept[:-1].amin(0)
    broken = (near < KEPT) | (found.kept[-1] <= 0)
    share, n = float(broken.double().mean()), len(broken)
    cosine = _cosine(found.expected, found.measured)
    rises = ", ".join(f"{value:.0%}" for value in found.kept.median(1).values.tolist())
    evidence = (
        f"inside the ball of eps {at.eps:g} ({at.norm}) the loss rises by {rises} of what the"
        f" gradient promises across {SHARES} of eps (medians); by less than {KEPT:.0%} on"
        f" {share:.0%} of {n} images, trusted up to {UNKEPT:.0%}; in random directions they agree"
        f" by a cosine of {cosine:.2f}, trusted from {ALONG:g}"
    )
    reason = "gradient not predictive at the scale of eps"
    wrong, details = share > UNKEPT or cosine < ALONG, {"cosine": cosine}
    return alarm_if(wrong, name, share, UNKEPT, evidence, reason, details=details)
