"""Checks across budgets: a larger ball holds no fewer adversarial images, and the largest all.

Carlini et al. 2019 (https://arxiv.org/abs/1902.06705, section 4) list the sanity checks. Where each
threshold comes from, and what honest models show, is on the check's page under docs/checks.
"""

import math
from collections.abc import Sequence
from itertools import combinations

from torch import Tensor

from benchmark.attacks.pgd import PGD
from benchmark.audit.budgets import budget, worst_case
from benchmark.audit.case import Case, Curve, Finding, alarm_if, undecided
from benchmark.audit.measurements import (
    ASKED_OFTEN,
    asked,
    fooled_by,
    steps_of,
)
from benchmark.audit.registration import check
from benchmark.results.audit_words import Answer

REACHED = 0.1
FLAT = 0.9

BROAD = {("linf", 1): 0.4, ("linf", 3): 8 / 255, ("l2", 1): 5.0, ("l2", 3): 1.0}
"""Budgets that no model is known to bear without losing a tenth of its accuracy, by norm and
channels: those of l2 for 28 x 28 and 32 x 32 pixels, growing with the root of the number."""

UNBOUNDED_ASKED = 16


@check("unbounded-attack", level="basic", needs=["correct", "gradient"], role="symptom")
def unbounded_attack(case: Case) -> Finding:
    """Tell how many images stay right in a ball that holds every image."""
    name = "unbounded-attack"
    x, y = asked(case, UNBOUNDED_ASKED)
    attack = PGD(steps=steps_of(case))
    right = float((~fooled_by(case, attack, x, y, 1.0, name)).double().mean())
    evidence = (
        f"at eps 1 (linf), which holds every image, {right:.0%} of {len(x)} images are still right"
        f" after {attack.steps} steps of PGD; trusted up to {REACHED:.0%}"
    )
    return alarm_if(right > REACHED, name, right, REACHED, evidence, "unbounded attack fails")


@check("flat-in-eps", level="basic", needs=["curves"], role="symptom", doubts_gradient=False)
def flat_in_eps(case: Case) -> Sequence[Finding]:
    """Tell whether the accuracy hardly falls with eps, for each attack and for all together."""
    kept = [(curve, _kept(case, curve)) for curve in case.curves]
    told = [(curve, share) for curve, share in kept if share is not None]
    falls = any(share < FLAT for _, share in told)
    if worst_case(case) is None or not told:
        evidence = "no sweep has a budget above 0 and an image that is right without an attack"
        return [undecided("flat-in-eps", evidence, FLAT)]
    return [_flatness(case, curve, share, another_falls=falls) for curve, share in told]


def _kept(case: Case, curve: Curve) -> float | None:
    """Return the share of the clean accuracy that is left at the largest eps."""
    accuracy = curve.robust_accuracy
    clean = float(case.correct[: curve.success.shape[1]].double().mean())
    clean = accuracy[0] if curve.eps[0] == 0 else clean
    return accuracy[-1] / clean if clean and curve.eps[-1] > 0 else None


def _flatness(case: Case, curve: Curve, kept: float, *, another_falls: bool) -> Finding:
    eps, n = curve.eps[-1], curve.success.shape[1]
    broad = _broad(case, curve.norm)
    evidence = (
        f"{curve.attack} ({curve.library}) leaves {kept:.0%} of the clean accuracy at its largest"
        f" eps, {eps:g} ({curve.norm}, n={n}); trusted below {FLAT:.0%}"
    )
    answer: tuple[Answer, str] = "alarm", "flat in eps"
    if kept < FLAT:
        answer = "pass", ""
    elif another_falls:
        evidence += "; another attack of the run makes it fall"
        answer = "note", "flat in eps under this attack"
    elif eps < broad * (1 - 1e-6):
        evidence += f"; an honest model may keep as much up to {broad:g}"
        answer = "undecided", ""
    kind, reason = answer
    name, attack, library = "flat-in-eps", curve.attack, curve.library
    return Finding(name, kind, kept, FLAT, evidence, reason, attack, library=library)


def _broad(case: Case, norm: str) -> float:
    channels, height, width = case.x.shape[1:]
    grey = 1 if channels == 1 else 3
    if norm == "linf":
        return BROAD[norm, grey]
    values = case.x[0].numel()
    if norm == "l0":
        return float(values)  # every image
    length = BROAD["l2", grey] * math.sqrt(height * width) / (28 if grey == 1 else 32)
    # The l1 ball that holds the l2 ball.
    return length if norm == "l2" else length * math.sqrt(values)


SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""The budgets at which the accuracy must not rise, as shares of the largest."""

RISE_STEPS = 5
CHANCE = 0.01
"""With what probability chance may bring about a rise, over all pairs of budgets."""

FEWEST_RISING = 10
"""Images that are adversarial in the smaller ball alone from which on that is more than chance."""


@check("rises-with-eps", level="basic", needs=["correct", "gradient"], role="symptom")
def rises_with_eps(case: Case) -> Finding:
    """Tell whether fewer images are fooled in a large ball than in a smaller one within it."""
    name, at = "rises-with-eps", case.once(budget)
    x, y = asked(case, ASKED_OFTEN)
    if len(x) < FEWEST_RISING:
        return undecided(name, f"{len(x)} images are too few to tell a rise from chance")
    largest = max([at.eps, *(eps for c in case.curves if c.norm == at.norm for eps in c.eps)])
    attack = PGD(steps=RISE_STEPS, norm=at.norm)
    # From scratch and from the same starts at each eps: nothing is taken over.
    wrong = {
        eps: fooled_by(case, attack, x, y, eps, name)
        for eps in (share * largest for share in SHARES)
    }
    pairs = list(combinations(wrong, 2))
    threshold = CHANCE / len(pairs)
    p, small, large = min((_chance(wrong[s], wrong[m]), s, m) for s, m in pairs)
    counts = [int(wrong[eps].sum()) for eps in (small, large)]
    evidence = (
        f"{RISE_STEPS} steps of PGD from scratch fool {counts[0]} of {len(x)} images at eps"
        f" {small:g} and {counts[1]} at {large:g} ({at.norm}; p {p:.2g} for a rise of the"
        f" accuracy); trusted from {threshold:.2g}"
    )
    return alarm_if(p < threshold, name, p, threshold, evidence, "accuracy rises with eps")


def _chance(smaller: Tensor, larger: Tensor) -> float:
    """Return the probability of at least as many images that are wrong in the smaller ball alone,
    were both balls alike: the one-sided exact test of McNemar."""
    only_smaller, only_larger = int((smaller & ~larger).sum()), int((larger & ~smaller).sum())
    n = only_smaller + only_larger
    return float(sum(math.comb(n, k) for k in range(only_smaller, n + 1)) / 2**n)
