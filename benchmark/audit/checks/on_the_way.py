"""Checks of what happens along an attack: one that works raises the loss and keeps what it finds.

Pintor et al. 2022 (https://arxiv.org/abs/2106.09947) measure both along an attack's path. Where
each threshold comes from, and what honest models show, is on the check's page under docs/checks.
"""

from benchmark.audit.case import Case, Finding, alarm_if
from benchmark.audit.gradient_measurements import short_attack
from benchmark.audit.measurements import ASKED_OFTEN, asked
from benchmark.audit.registration import check

INHOUSE = "inhouse"
"""The library whose attacks return the best iterate; docs/attack-libraries.md has the others."""

RISING = 0.9
LOST = 0.1


@check("rising-loss", level="basic", needs=["correct", "gradient"], role="symptom")
def rising_loss(case: Case) -> Finding:
    """Tell how often the loss ends higher than it began along a short attack."""
    name, found = "rising-loss", case.once(short_attack)
    rises = (found.loss[-1] > found.loss[0]) | found.fooled[0]
    share, n = float(rises.double().mean()), len(rises)
    gained = float((found.loss[-1] - found.loss[0]).median())
    evidence = (
        f"over {len(found.loss) - 1} steps at eps {found.budget.eps:g} ({found.budget.norm}) the"
        f" margin loss of {share:.0%} of {n} images rises (median by {gained:.3g}); trusted from"
        f" {RISING:.0%}"
    )
    return alarm_if(share < RISING, name, share, RISING, evidence, "loss does not rise")


@check("lost-on-the-way", level="basic", needs=["correct", "gradient"], role="symptom")
def lost_on_the_way(case: Case) -> Finding:
    """Tell how often an attack fools the model on its way and not at its end."""
    name, found = "lost-on-the-way", case.once(short_attack)
    _, y = asked(case, ASKED_OFTEN)
    ever = found.fooled.any(0)
    lost = float((ever & ~found.fooled[-1]).double().mean())
    # The harness scores what the attack returns: the best iterate must hold there, too.
    unconfirmed = float((ever & (case.defense.predict(found.best) == y)).double().mean())
    last_only = [curve for curve in case.curves if curve.library != INHOUSE]
    n = len(y)
    evidence = (
        f"of {n} images at eps {found.budget.eps:g} {lost:.0%} fool the model at some step and not"
        f" at the last, and {unconfirmed:.0%} do so for the attack and not for predict; trusted up"
        f" to {LOST:.0%}"
    )
    details = {"last_iterate": lost, "unconfirmed": unconfirmed}
    if case.defense.stochastic:
        evidence += "; a single draw of a stochastic defense is no success: the last one counts"
        return Finding(name, "pass", lost, LOST, evidence, details=details)
    worst = max(lost, unconfirmed)
    reason = "success lost on the way"
    attack = library = ""
    if unconfirmed <= LOST < lost and last_only:
        attack, library = last_only[0].attack, last_only[0].library
    elif unconfirmed <= LOST < lost and case.curves:
        evidence += "; the run's attacks return the best iterate"
        return Finding(name, "note", worst, LOST, evidence, reason, details=details)
    return alarm_if(worst > LOST, name, worst, LOST, evidence, reason, attack, details, library)
