"""Checks of what attacks achieve: an attack that worked leaves marks that a failed one does not.

Carlini et al. 2019 (https://arxiv.org/abs/1902.06705, section 4) list the sanity checks, Pintor et
al. 2022 (https://arxiv.org/abs/2106.09947) measure some of them along an attack's path. The checks
look at the run's own sweeps, and attack again where those cannot tell.

Where each threshold comes from, and what honest models show, is on the check's page under
docs/checks.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.norms import project, steepest_ascent, unit_ball
from benchmark.attacks.pgd import PGD
from benchmark.attacks.view import AttackView
from benchmark.audit.case import Curve, Finding, Subject, alarm_if
from benchmark.audit.measurements import (
    ASKED_OFTEN,
    Budget,
    asked,
    budget,
    climb,
    gradients,
    most_of,
    seed_for,
    steps_of,
    unanswerable,
    worst_case,
)
from benchmark.audit.registration import check
from benchmark.evaluation.scoring import ViewSettings, attack_batch
from benchmark.seeding import generator, seeded

INHOUSE = "inhouse"
"""The library whose attacks return the best iterate; docs/attack-libraries.md has the others."""

RISING = 0.9
LOST = 0.1
REACHED = 0.1
LONGER_GAIN = 0.1
BLACK_BOX_GAIN = 0.1
RANDOM_GAIN = 0.05
FLAT = 0.9

BROAD = {("linf", 1): 0.4, ("linf", 3): 8 / 255, ("l2", 1): 5.0, ("l2", 3): 1.0}
"""Budgets that no model is known to bear without losing a tenth of its accuracy, by norm and
channels: those of l2 for 28 x 28 and 32 x 32 pixels, growing with the root of the number."""

DECIDED = 3
"""So many answers of a stochastic defense must all be wrong for an image to have fallen."""


def _fell(subject: Subject, x: Tensor, y: Tensor, fell: Tensor | None = None) -> Tensor:
    """Return which images (N,) bool the defense gets wrong, and not by one lucky draw.

    ``fell`` are the answers of the first draw, where it was asked already.
    """
    fell = subject.defense.predict(x) != y if fell is None else fell.clone()
    for _ in range(DECIDED - 1 if subject.defense.stochastic else 0):
        rows = fell.nonzero().flatten()
        if len(rows):
            fell[rows] = subject.defense.predict(x[rows]) != y[rows]
    return fell


def _fell_to(
    subject: Subject, attack: BudgetAttack, x: Tensor, y: Tensor, eps: float, name: str
) -> Tensor:
    """Return which images (N,) bool ``attack`` turns within ``eps``, for the check ``name``."""
    seed = seed_for(subject, name)

    def search(view: AttackView, x: Tensor, y: Tensor) -> Tensor:
        with seeded(seed, x.device):
            return attack.run(view, x, y, eps=eps, generator=generator(seed, x.device))

    judged = attack_batch(
        *(subject.defense, search, x, y),
        eps=eps,
        norm=attack.norm,
        n_classes=subject.defense.info.n_classes,
        settings=ViewSettings(subject.eot, subject.bpda, subject.inside),
    )
    return _fell(subject, judged.x_adv, y, judged.success.to(y.device))


# --- along an attack -----------------------------------------------------------------------------


@check("rising-loss", level="basic", needs=["standing"], role="symptom")
def rising_loss(subject: Subject) -> Finding:
    """Tell how often the loss ends higher than it began along a short attack."""
    name = "rising-loss"
    if unanswered := unanswerable(name, subject):
        return unanswered
    found = subject.once(climb)
    rises = (found.loss[-1] > found.loss[0]) | found.fooled[0]
    share, n = float(rises.double().mean()), len(rises)
    gained = float((found.loss[-1] - found.loss[0]).median())
    evidence = (
        f"over {len(found.loss) - 1} steps at eps {found.budget.eps:g} ({found.budget.norm}) the"
        f" margin loss of {share:.0%} of {n} images rises (median by {gained:.3g}); trusted from"
        f" {RISING:.0%}"
    )
    return alarm_if(share < RISING, name, share, RISING, evidence, "loss does not rise")


@check("lost-on-the-way", level="basic", needs=["standing"], role="symptom")
def lost_on_the_way(subject: Subject) -> Finding:
    """Tell how often an attack fools the model on its way and not at its end."""
    name = "lost-on-the-way"
    if unanswered := unanswerable(name, subject):
        return unanswered
    found = subject.once(climb)
    _, y = asked(subject, ASKED_OFTEN)
    ever = found.fooled.any(0)
    lost = float((ever & ~found.fooled[-1]).double().mean())
    # The harness scores what the attack returns: the best iterate must hold there, too.
    unconfirmed = float((ever & (subject.defense.predict(found.best) == y)).double().mean())
    last_only = [curve for curve in subject.curves if curve.library != INHOUSE]
    n = len(y)
    evidence = (
        f"of {n} images at eps {found.budget.eps:g} {lost:.0%} fool the model at some step and not"
        f" at the last, and {unconfirmed:.0%} do so for the attack and not for predict; trusted up"
        f" to {LOST:.0%}"
    )
    details = {"last_iterate": lost, "unconfirmed": unconfirmed}
    if subject.defense.stochastic:
        evidence += (
            "; of a stochastic defense one draw is no success, and the attack takes the last"
        )
        return Finding(name, "pass", lost, LOST, evidence, details=details)
    worst = max(lost, unconfirmed)
    reason = "success lost on the way"
    if unconfirmed > LOST:
        return Finding(name, "alarm", worst, LOST, evidence, reason, details=details)
    if lost > LOST and (last_only or not subject.curves):
        found_in = last_only[0] if last_only else None
        attack, library = (found_in.attack, found_in.library) if found_in else ("", "")
        return Finding(name, "alarm", worst, LOST, evidence, reason, attack, details, library)
    if lost > LOST:
        evidence += "; the run's attacks return the best iterate"
        return Finding(name, "note", worst, LOST, evidence, reason, details=details)
    return Finding(name, "pass", worst, LOST, evidence, details=details)


# --- other budgets -------------------------------------------------------------------------------

UNBOUNDED_ASKED = 16


@check("unbounded-attack", level="basic", needs=["standing"], role="symptom")
def unbounded_attack(subject: Subject) -> Finding:
    """Tell how many images stand in a ball that holds every image."""
    name = "unbounded-attack"
    if unanswered := unanswerable(name, subject):
        return unanswered
    x, y = asked(subject, UNBOUNDED_ASKED)
    attack = PGD(steps=steps_of(subject))
    stands = float((~_fell_to(subject, attack, x, y, 1.0, name)).double().mean())
    evidence = (
        f"at eps 1 (linf), which holds every image, {stands:.0%} of {len(x)} images stand after"
        f" {attack.steps} steps of PGD; trusted up to {REACHED:.0%}"
    )
    return alarm_if(stands > REACHED, name, stands, REACHED, evidence, "unbounded attack fails")


@check("flat-in-eps", level="basic", needs=["curves"], role="symptom", doubts_gradient=False)
def flat_in_eps(subject: Subject) -> Sequence[Finding]:
    """Tell whether the accuracy hardly falls with eps, for each attack and for all together."""
    together = worst_case(subject)
    others = [curve for curve in subject.curves if _kept(subject, curve) is not None]
    falls = any((_kept(subject, curve) or 0.0) < FLAT for curve in others)
    found = [_flatness(subject, curve, alone=falls) for curve in others]
    if together is None or not found:
        evidence = "no sweep has a budget above 0 and an image that stands without attack"
        return [Finding("flat-in-eps", "undecided", torch.nan, FLAT, evidence)]
    return found


def _kept(subject: Subject, curve: Curve) -> float | None:
    """Return the share of the clean accuracy that is left at the largest eps."""
    accuracy = curve.robust_accuracy
    clean = float(subject.correct[: curve.success.shape[1]].double().mean())
    clean = accuracy[0] if curve.eps[0] == 0 else clean
    return accuracy[-1] / clean if clean and curve.eps[-1] > 0 else None


def _flatness(subject: Subject, curve: Curve, *, alone: bool) -> Finding:
    kept = _kept(subject, curve)
    assert kept is not None
    eps, n = curve.eps[-1], curve.success.shape[1]
    broad = _broad(subject, curve.norm)
    what = f"{curve.attack} ({curve.library})"
    evidence = (
        f"{what} leaves {kept:.0%} of the clean accuracy at its largest eps, {eps:g} ({curve.norm},"
        f" n={n}); trusted below {FLAT:.0%}"
    )

    def answer(kind: str, reason: str = "") -> Finding:
        about = {"attack": curve.attack, "library": curve.library}
        return Finding("flat-in-eps", kind, kept, FLAT, evidence, reason, **about)  # type: ignore[arg-type]

    if kept < FLAT:
        return answer("pass")
    if alone:
        evidence += "; another attack of the run makes it fall"
        return answer("note", "flat in eps under this attack")
    if eps < broad * (1 - 1e-6):
        evidence += f"; an honest model may keep as much up to {broad:g}"
        return answer("undecided")
    return answer("alarm", "flat in eps")


def _broad(subject: Subject, norm: str) -> float:
    channels, height, width = subject.x.shape[1:]
    grey = 1 if channels == 1 else 3
    side = 28 if grey == 1 else 32
    scale = (height * width) ** 0.5 / side if norm == "l2" else 1.0
    return BROAD[norm, grey] * scale


SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""The budgets at which the accuracy must not rise, as shares of the largest."""

RISE_STEPS = 5
CHANCE = 0.01
"""With what probability chance may bring about a rise, over all pairs of budgets."""

FEWEST_RISING = 10
"""So many images, all fallen in the smaller ball alone, are more than chance."""


@check("rises-with-eps", level="basic", needs=["standing"], role="symptom")
def rises_with_eps(subject: Subject) -> Finding:
    """Tell whether fewer images fall in a large ball than in a smaller one within it."""
    name, at = "rises-with-eps", subject.once(budget)
    if unanswered := unanswerable(name, subject):
        return unanswered
    x, y = asked(subject, ASKED_OFTEN)
    if len(x) < FEWEST_RISING:
        evidence = f"{len(x)} images are too few to tell a rise from chance"
        return Finding(name, "undecided", torch.nan, torch.nan, evidence)
    largest = max([at.eps, *(eps for c in subject.curves if c.norm == at.norm for eps in c.eps)])
    attack = PGD(steps=RISE_STEPS, norm=at.norm)
    fell = {}
    for eps in (share * largest for share in SHARES):
        # From scratch and from the same starts at each eps: nothing is taken over.
        fell[eps] = _fell_to(subject, attack, x, y, eps, name)
    pairs = list(combinations(fell, 2))
    threshold = CHANCE / len(pairs)
    rises = [(_chance(fell[small], fell[large]), small, large) for small, large in pairs]
    p, small, large = min(rises)
    counts = [int(fell[eps].sum()) for eps in (small, large)]
    evidence = (
        f"{RISE_STEPS} steps of PGD from scratch turn {counts[0]} of {len(x)} images at eps"
        f" {small:g} and {counts[1]} at {large:g} ({at.norm}; p {p:.2g} for a rise of the"
        f" accuracy); trusted from {threshold:.2g}"
    )
    return alarm_if(p < threshold, name, p, threshold, evidence, "accuracy rises with eps")


def _chance(smaller: Tensor, larger: Tensor) -> float:
    """Return how probable so many images are that fell in the smaller ball alone, were both alike:
    the one-sided exact test of McNemar.
    """
    only_smaller, only_larger = int((smaller & ~larger).sum()), int((larger & ~smaller).sum())
    n = only_smaller + only_larger
    return float(sum(math.comb(n, k) for k in range(only_smaller, n + 1)) / 2**n)


# --- other attacks at the same budget ------------------------------------------------------------

DRAWS = 10


def _stood(subject: Subject, at: Budget) -> tuple[Tensor, Tensor, float]:
    """Return images that stood at a budget, their labels, and their share of those asked.

    Where the run says nothing of it, those that stand after the short attack.
    """
    most = most_of(subject)
    if at.attack:
        rows = at.standing.nonzero().flatten()
        share = len(rows) / max(1, int(subject.correct.sum()))
        return subject.x[rows[:most]], subject.y[rows[:most]], share
    x, y = asked(subject, ASKED_OFTEN)
    if subject.once(gradients).error:
        return x, y, 1.0
    stands = ~_fell(subject, subject.once(climb).best, y)
    return x[stands], y[stands], float(stands.double().mean())


def _nothing(name: str, at: Budget) -> Finding:
    evidence = f"no image stands at eps {at.eps:g} ({at.norm}): there is nothing left to gain"
    return Finding(name, "pass", 0.0, torch.nan, evidence)


def _gain(
    name: str,
    at: Budget,
    fell: Tensor,
    share: float,
    threshold: float,
    how: str,
    reason: str,
    *,
    about_sweep: bool = False,
) -> Finding:
    """Return what another attack gained on images that stood, in shares of all images asked.

    It is ``about_sweep`` where it tells that the attack chosen for the budget fell short.
    """
    gain = float(fell.double().mean()) * share
    evidence = (
        f"{how} turns {int(fell.sum())} of {len(fell)} images that stood at eps {at.eps:g}"
        f" ({at.norm}): {gain:.0%} of all; trusted up to {threshold:.0%}"
    )
    attack, library = (at.attack, at.library) if about_sweep else ("", "")
    return alarm_if(
        gain > threshold, name, gain, threshold, evidence, reason, attack, library=library
    )


@check("random-noise", level="basic", needs=["standing"], role="symptom")
def random_noise(subject: Subject) -> Finding:
    """Tell how many images that withstood the attacks fall to random noise of the same size."""
    name, at = "random-noise", subject.once(budget)
    x, y, share = _stood(subject, at)
    if not len(x):
        return _nothing(name, at)
    rng = generator(seed_for(subject, name), x.device)
    fell = torch.zeros_like(y, dtype=torch.bool)
    for _ in range(DRAWS):
        corner = steepest_ascent(unit_ball(x, at.norm, rng), at.norm)
        fell |= _fell(subject, project(x + at.eps * corner, x, at.eps, at.norm), y)
    how = f"the best of {DRAWS} random perturbations"
    return _gain(name, at, fell, share, RANDOM_GAIN, how, "random noise beats the attack")


LONGER = 100
RESTARTS = 3


@check("longer-attack", level="full", needs=["standing"], role="symptom", doubts_gradient=False)
def longer_attack(subject: Subject) -> Finding:
    """Tell how many images that withstood the attacks fall to more steps and restarts."""
    name, at = "longer-attack", subject.once(budget)
    if unanswered := unanswerable(name, subject):
        return unanswered
    x, y, share = _stood(subject, at)
    if not len(x):
        return _nothing(name, at)
    attack = PGD(steps=LONGER, restarts=RESTARTS, norm=at.norm)
    how = f"PGD of {LONGER} steps with {RESTARTS} starts"
    fell = _fell_to(subject, attack, x, y, at.eps, name)
    reason = "attack not converged"
    return _gain(name, at, fell, share, LONGER_GAIN, how, reason, about_sweep=True)


QUERIES = 500


@check("black-box", level="full", needs=["standing"], role="symptom")
def black_box(subject: Subject) -> Finding:
    """Tell how many images that withstood the attacks fall to a search without gradients."""
    from benchmark.attacks.peers.torchattacks import named

    name, at = "black-box", subject.once(budget)
    x, y, share = _stood(subject, at)
    if not len(x):
        return _nothing(name, at)
    square: Any = named("Square")  # made from torchattacks' class, with its parameters
    how = f"Square with {QUERIES} queries"
    fell = _fell_to(subject, square(norm=at.norm, n_queries=QUERIES), x, y, at.eps, name)
    reason = "black box beats the attack"
    return _gain(name, at, fell, share, BLACK_BOX_GAIN, how, reason, about_sweep=True)
