"""Checks whether there is a gradient that attacks can follow: missing, NaN, zero, or drowned.

Athalye et al. 2018 (https://arxiv.org/abs/1802.00420) name what hides a gradient: shattering,
randomness, vanishing. Where the run's attacks took a surrogate's gradient (BPDA), that one is
asked. Where each threshold comes from, and what honest models show, is on the check's page under
docs/checks.
"""

import torch

from benchmark.attacks.losses import margin
from benchmark.attacks.view import MissingGradientError, attack_view, clamps_input
from benchmark.audit.case import Case, Finding, alarm_if, undecided
from benchmark.audit.gradient_measurements import gradients
from benchmark.audit.measurements import FEW, asked
from benchmark.audit.registration import check

TINY = torch.finfo(torch.float32).tiny
"""Below, float32 drops digits, and a division by N more drops the rest."""

ZERO = 0.05
SATURATED = 0.1


@check(
    "missing-gradient",
    level="basic",
    needs=["correct", "model"],
    remedies=["no gradient", "no averaging"],
)
def missing_gradient(case: Case) -> Finding:
    """Tell whether the logits lead back to the image at all."""
    name, n = "missing-gradient", len(asked(case)[0])
    if case.once(gradients).missing:
        evidence = f"no graph leads from the logits of {n} images back to them"
        return Finding(name, "alarm", 1.0, 0.0, evidence, "no gradient")
    if case.bpda and _none_of_its_own(case):
        evidence = (
            f"the defense passes no gradient to its images (n={min(n, FEW)}); the run's attacks"
            " take a surrogate's (BPDA)"
        )
        return Finding(name, "note", 1.0, 0.0, evidence, "no gradient of its own")
    return Finding(name, "pass", 0.0, 0.0, f"a gradient reaches each of {n} images")


def _none_of_its_own(case: Case) -> bool:
    """Tell whether the defense has no gradient without a surrogate: none at all, or zero."""
    x, y = asked(case, FEW)
    with attack_view(case.defense, len(x), inside=case.inside) as view:
        try:
            return not view.gradient(x, y, margin)[2].any()
        except MissingGradientError:
            return True


@check("nan-gradient", level="basic", needs=["correct", "model"])
def nan_gradient(case: Case) -> Finding:
    """Tell how many images' gradients hold entries that are NaN or infinite."""
    name, found = "nan-gradient", case.once(gradients)
    if found.missing:
        return undecided(name, found.unusable, 0.0)
    both = torch.cat([found.margin.flatten(1), found.cross_entropy.flatten(1)], 1)
    broken = ~both.isfinite().all(1)
    share, n = float(broken.double().mean()), len(broken)
    evidence = f"the gradients of {int(broken.sum())} of {n} images hold NaN or infinity"
    return alarm_if(share > 0, name, share, 0.0, evidence, "gradient NaN or infinite")


@check("zero-gradient", level="basic", needs=["correct", "gradient"], remedies=["no averaging"])
def zero_gradient(case: Case) -> Finding:
    """Tell how many images' margin gradients are zero."""
    size = case.once(gradients).margin.flatten(1).abs()
    whole = size.amax(1) < TINY
    share, n = float(whole.double().mean()), len(whole)
    details = {"zero_entries": float((size == 0).double().mean())}
    evidence = (
        f"the margin gradients of {int(whole.sum())} of {n} images are zero or underflow in float32"
        f" (of all their entries {details['zero_entries']:.0%} are exactly zero)"
    )
    return alarm_if(
        share > ZERO, "zero-gradient", share, ZERO, evidence, "zero gradient", details=details
    )


@check("saturated-loss", level="basic", needs=["correct", "gradient"])
def saturated_loss(case: Case) -> Finding:
    """Tell how often the cross-entropy's gradient is lost in float32 where the margin's is not."""
    found = case.once(gradients)
    alive = found.margin.flatten(1).abs().amax(1) >= TINY
    lost = alive & (found.cross_entropy.flatten(1).abs().amax(1) < TINY)
    share, n = float(lost.double().mean()), len(lost)
    gap = float(found.gap.median())
    evidence = (
        f"the cross-entropy's gradient underflows on {int(lost.sum())} of {n} images whose margin"
        f" gradient is alive; the true logit leads by {gap:.3g} (median)"
    )
    alarm, reason = share > SATURATED, "loss saturated"
    details = {"median_gap": gap}
    return alarm_if(alarm, "saturated-loss", share, SATURATED, evidence, reason, details=details)


@check("edge-gradient", level="basic", needs=["correct", "gradient"])
def edge_gradient(case: Case) -> Finding:
    """Tell whether gradients vanish only where a pixel is 0 or 1, as behind a clamp."""
    name = "edge-gradient"
    x, y = asked(case, FEW)
    with attack_view(case.defense, len(x), eot=case.eot, bpda=case.bpda) as view:
        clamps = clamps_input(view, x, y, margin)
    if not clamps:
        evidence = f"pixels at the box's edge have gradients as others have (n={len(x)})"
        return Finding(name, "pass", 0.0, 0.0, evidence)
    evidence = (
        "every pixel that is 0 or 1 has a gradient of exactly zero, and not just inside the box"
        f" (n={len(x)})"
    )
    if case.inside:
        evidence += f"; the run's attacks took gradients {case.inside:g} inside"
        return Finding(name, "note", 1.0, 0.0, evidence, "clamped input")
    return Finding(name, "alarm", 1.0, 0.0, evidence, "gradient lost at the box's edge")
