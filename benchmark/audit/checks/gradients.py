"""Checks of the gradient that the attacks follow: is there one, and does it point anywhere?

Athalye et al. 2018 (https://arxiv.org/abs/1802.00420) name what hides a gradient: shattering,
randomness, vanishing. Each check asks for one sign of it. Where the run's attacks took a stand-in's
gradient (BPDA), that one is asked, and only for what an attack needs of it: that steps along it
raise the loss.

Where each threshold comes from, and what honest models show, is on the check's page under
docs/checks.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.losses import margin
from benchmark.attacks.norms import project, steepest_ascent, unit_ball
from benchmark.attacks.view import attack_view, clamps_input
from benchmark.audit.case import Finding, Subject, alarm_if
from benchmark.audit.measurements import (
    FRACTIONS,
    NO_GRADIENT,
    SCALES,
    Differences,
    asked,
    budget,
    differences,
    gradients,
    seed_for,
    still,
    strides,
    unanswerable,
)
from benchmark.audit.registration import check
from benchmark.seeding import generator, seeded

FEW = 8
"""So many images tell what is true of all or of none."""

TINY = torch.finfo(torch.float32).tiny
"""Below, float32 drops digits, and a division by N more drops the rest."""

ZERO = 0.05
"""AutoAttack (https://arxiv.org/abs/2003.01690) warns at the first image; one of 32 may be a dead
network's bad luck. Honest models: none."""

SATURATED = 0.1
SIZES = (0.5, 2.0)
WRONG_SIGN = 0.1
DIRECTED = 0.7
BETTER_STEPS = 0.8
KEPT = 0.5
UNKEPT = 0.25
ALONG = 0.6

WORKED = 0.05
"""An attack that leaves no more of the images standing, which the model gets right, has worked."""


@check("missing-gradient", level="basic", needs=["standing"])
def missing_gradient(subject: Subject) -> Finding:
    """Tell whether the logits lead back to the image at all."""
    name, n = "missing-gradient", len(asked(subject)[0])
    found = subject.once(gradients)
    if found.error:
        evidence = f"no gradient of {n} images reaches them: {found.error}"
        return Finding(name, "alarm", 1.0, 0.0, evidence, "no gradient")
    if subject.bpda and _is_missing(subject):
        evidence = (
            f"the defense passes no gradient to its images (n={min(n, FEW)}); the run's attacks"
            " take a stand-in's (BPDA)"
        )
        return Finding(name, "note", 1.0, 0.0, evidence, "no gradient of its own")
    return Finding(name, "pass", 0.0, 0.0, f"a gradient reaches each of {n} images")


def _is_missing(subject: Subject) -> bool:
    """Tell whether the defense has no gradient without a stand-in: none at all, or zero."""
    x, y = asked(subject, FEW)
    with attack_view(subject.defense, len(x), inside=subject.inside) as view:
        try:
            return not view.gradient(x, y, margin)[2].any()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return True


@check("nan-gradient", level="basic", needs=["standing"])
def nan_gradient(subject: Subject) -> Finding:
    """Tell how many images' gradients hold entries that are no number."""
    name, found = "nan-gradient", subject.once(gradients)
    if found.error:
        return Finding(name, "undecided", torch.nan, 0.0, NO_GRADIENT)
    both = torch.cat([found.margin.flatten(1), found.cross_entropy.flatten(1)], 1)
    broken = ~both.isfinite().all(1)
    share, n = float(broken.double().mean()), len(broken)
    evidence = f"the gradients of {int(broken.sum())} of {n} images hold NaN or infinity"
    return alarm_if(share > 0, name, share, 0.0, evidence, "gradient is no number")


@check("zero-gradient", level="basic", needs=["standing"])
def zero_gradient(subject: Subject) -> Finding:
    """Tell how many images' margin gradients are zero."""
    name, found = "zero-gradient", subject.once(gradients)
    if unanswered := unanswerable(name, subject):
        return unanswered
    size = found.margin.flatten(1).abs()
    whole = size.amax(1) < TINY
    share, n = float(whole.double().mean()), len(whole)
    details = {"zero_entries": float((size == 0).double().mean())}
    evidence = (
        f"the margin gradients of {int(whole.sum())} of {n} images are zero or underflow in float32"
        f" (of all their entries {details['zero_entries']:.0%} are exactly zero)"
    )
    return alarm_if(share > ZERO, name, share, ZERO, evidence, "zero gradient", details=details)


@check("saturated-loss", level="basic", needs=["standing"])
def saturated_loss(subject: Subject) -> Finding:
    """Tell how often the cross-entropy's gradient is lost in float32 where the margin's is not."""
    name, found = "saturated-loss", subject.once(gradients)
    if unanswered := unanswerable(name, subject):
        return unanswered
    alive = found.margin.flatten(1).abs().amax(1) >= TINY
    lost = alive & (found.cross_entropy.flatten(1).abs().amax(1) < TINY)
    share, n = float(lost.double().mean()), len(lost)
    gap = float(found.gap.median())
    evidence = (
        f"the cross-entropy's gradient underflows on {int(lost.sum())} of {n} images whose margin"
        f" gradient is alive; the true logit leads by {gap:.3g} (median)"
    )
    details = {"median_gap": gap}
    return alarm_if(
        share > SATURATED,
        name,
        share,
        SATURATED,
        evidence,
        "loss saturated",
        details=details,
    )


@check("edge-gradient", level="basic", needs=["standing"])
def edge_gradient(subject: Subject) -> Finding:
    """Tell whether gradients vanish only where a pixel is 0 or 1, as behind a clamp."""
    name = "edge-gradient"
    if unanswered := unanswerable(name, subject):
        return unanswered
    x, y = asked(subject, FEW)
    with attack_view(subject.defense, len(x), eot=subject.eot, bpda=subject.bpda) as view:
        clamps = clamps_input(view, x, y, margin)
    if not clamps:
        return Finding(
            name,
            "pass",
            0.0,
            0.0,
            f"pixels at the box's edge have gradients as others have (n={len(x)})",
        )
    evidence = (
        "every pixel that is 0 or 1 has a gradient of exactly zero, and not just inside the box"
        f" (n={len(x)})"
    )
    if subject.inside:
        evidence += f"; the run's attacks took gradients {subject.inside:g} inside"
        return Finding(name, "note", 1.0, 0.0, evidence, "clamped input")
    return Finding(name, "alarm", 1.0, 0.0, evidence, "gradient lost at the box's edge")


# --- against differences -------------------------------------------------------------------------


def _comparable(name: str, subject: Subject) -> Differences | Finding:
    """Return the differences, or why they say nothing about the gradient."""
    if unanswered := unanswerable(name, subject):
        return unanswered
    if subject.bpda:
        evidence = (
            "the attacks follow a stand-in's gradient (BPDA), which has no differences to meet"
        )
        return Finding(name, "pass", torch.nan, torch.nan, evidence)
    found = subject.once(differences)
    if not found.still:
        evidence = (
            "under one seed the defense answers twice differently: differences hold its noise"
        )
        return Finding(name, "undecided", torch.nan, torch.nan, evidence)
    if not found.length.all():
        evidence = f"{int((found.length == 0).sum())} of {len(found.length)} gradients are zero"
        return Finding(name, "undecided", torch.nan, torch.nan, evidence)
    return found


@check("gradient-size", level="basic", needs=["standing"])
def gradient_size(subject: Subject) -> Finding:
    """Compare the gradient's size with finite differences along its own sign."""
    name = "gradient-size"
    found = _comparable(name, subject)
    if isinstance(found, Finding):
        return found
    ratios = (found.along / found.length).median(1).values
    ratio = float(min(ratios, key=lambda value: abs(float(value) - 1)))
    evidence = (
        f"the loss rises {ratio:.3g} times as fast along the gradient's sign as autograd says"
        f" (median of {len(found.length)} images, the best of steps {_steps()});"
        f" trusted between {SIZES[0]:g} and {SIZES[1]:g}"
    )
    threshold = SIZES[0] if ratio < 1 else SIZES[1]
    wrong = 0 <= ratio < SIZES[0] or ratio > SIZES[1]
    return alarm_if(wrong, name, ratio, threshold, evidence, "gradient of the wrong size")


@check("gradient-sign", level="basic", needs=["standing"])
def gradient_sign(subject: Subject) -> Finding:
    """Tell how often the loss falls along its gradient."""
    name = "gradient-sign"
    found = _comparable(name, subject)
    if isinstance(found, Finding):
        return found
    falls = float((found.along < 0).double().mean(1).min())
    evidence = (
        f"along its gradient's sign the loss of {falls:.0%} of {len(found.length)} images falls"
        f" (at the kindest of steps {_steps()}); trusted up to {WRONG_SIGN:.0%}"
    )
    return alarm_if(
        falls > WRONG_SIGN, name, falls, WRONG_SIGN, evidence, "gradient of the wrong sign"
    )


@check("gradient-directions", level="basic", needs=["standing"])
def gradient_directions(subject: Subject) -> Finding:
    """Compare the gradient with finite differences in random directions."""
    name = "gradient-directions"
    found = _comparable(name, subject)
    if isinstance(found, Finding):
        return found
    size = found.expected.square().mean(1, keepdim=True).sqrt()
    expected = (found.expected / size).flatten()
    agreement = float(
        max(F.cosine_similarity(expected, (at / size).flatten(), dim=0) for at in found.measured)
    )
    n, directions = found.expected.shape
    evidence = (
        f"slopes in {directions} random directions at {n} images agree with autograd's by a cosine"
        f" of {agreement:.2f} (the best of steps {_steps()}); trusted from {DIRECTED:g}"
    )
    return alarm_if(
        agreement < DIRECTED, name, agreement, DIRECTED, evidence, "gradient not predictive"
    )


def _steps() -> str:
    return ", ".join(f"{scale:g}" for scale in SCALES)


RIVALS = 8
"""Random steps that a step along the gradient has to beat."""


@check("gradient-steps", level="basic", needs=["standing"])
def gradient_steps(subject: Subject) -> Finding:
    """Tell how often a step along the gradient beats random steps of the same length."""
    name = "gradient-steps"
    found = subject.once(gradients)
    if unanswered := unanswerable(name, subject):
        return unanswered
    if not subject.once(still):
        evidence = "under one seed the defense answers twice differently: its noise decides too"
        return Finding(name, "undecided", torch.nan, BETTER_STEPS, evidence)
    x, y = asked(subject)
    at = subject.once(budget)
    seed, reach = seed_for(subject, name), at.eps / 4
    rng = generator(seed, x.device)
    with attack_view(subject.defense, len(x), bpda=subject.bpda, inside=subject.inside) as view:

        def loss(direction: Tensor) -> Tensor:
            with seeded(seed, x.device):
                return margin(view.logits(project(x + reach * direction, x, reach, at.norm)), y)

        own = loss(steepest_ascent(found.margin, at.norm))
        rivals = torch.stack(
            [loss(steepest_ascent(unit_ball(x, at.norm, rng), at.norm)) for _ in range(RIVALS)]
        )
    share = float((own > rivals.amax(0)).double().mean())
    evidence = (
        f"one step of {reach:.3g} ({at.norm}) along the gradient raises the loss more than the best"
        f" of {RIVALS} random steps on {share:.0%} of {len(x)} images; trusted from"
        f" {BETTER_STEPS:.0%}, chance is {1 / (RIVALS + 1):.0%}"
    )
    reason = "stand-in's gradient not predictive" if subject.bpda else "gradient not predictive"
    return alarm_if(share < BETTER_STEPS, name, share, BETTER_STEPS, evidence, reason)


@check("gradient-scale", level="basic", needs=["standing"])
def gradient_scale(subject: Subject) -> Finding:
    """Compare gradients inside the ball with what the loss does across shares of eps."""
    name = "gradient-scale"
    if unanswered := unanswerable(name, subject):
        return unanswered
    if subject.bpda:
        evidence = (
            "the attacks follow a stand-in's gradient (BPDA), which has no differences to meet"
        )
        return Finding(name, "pass", torch.nan, torch.nan, evidence)
    at = subject.once(budget)
    left = int(at.standing.sum()) / max(1, int(subject.correct.sum()))
    if at.attack and left <= WORKED:
        evidence = (
            f"the run's attack left {left:.0%} standing at eps {at.eps:g} ({at.norm}), at most"
            f" {WORKED:.0%}: the gradient led it there"
        )
        return Finding(name, "pass", 0.0, UNKEPT, evidence)
    found = subject.once(strides)
    if not found.still:
        evidence = (
            "under one seed the defense answers twice differently: differences hold its noise"
        )
        return Finding(name, "undecided", torch.nan, torch.nan, evidence)
    if not (found.kept.isfinite().all() and found.expected.any(1).all()):
        evidence = "gradients inside the ball are zero, NaN or infinite: they promise nothing"
        return Finding(name, "undecided", torch.nan, torch.nan, evidence)
    # Across half of eps an honest model bends, too; there the sign alone is told.
    near = found.kept[:-1].amin(0)
    broken = (near < KEPT) | (found.kept[-1] <= 0)
    share, n = float(broken.double().mean()), len(broken)
    size = found.expected.square().mean(1, keepdim=True).sqrt()
    cosine = float(
        F.cosine_similarity(
            (found.expected / size).flatten(), (found.measured / size).flatten(), dim=0
        )
    )
    rises = ", ".join(f"{value:.0%}" for value in found.kept.median(1).values.tolist())
    evidence = (
        f"inside the ball of eps {at.eps:g} ({at.norm}) the loss rises by {rises} of what the"
        f" gradient promises across {_shares()} of eps (medians); by less than {KEPT:.0%} on"
        f" {share:.0%} of {n} images, trusted up to {UNKEPT:.0%}; in random directions they agree"
        f" by a cosine of {cosine:.2f}, trusted from {ALONG:g}"
    )
    details = {"cosine": cosine}
    reason = "gradient not predictive at the scale of eps"
    wrong = share > UNKEPT or cosine < ALONG
    return alarm_if(wrong, name, share, UNKEPT, evidence, reason, details=details)


def _shares() -> str:
    return ", ".join(f"1/{round(1 / share)}" for share in FRACTIONS)
