"""Checks whether another attack at the same budget finds more than the run's own did.

Carlini et al. 2019 (https://arxiv.org/abs/1902.06705, section 4) list the sanity checks. Where each
threshold comes from, and what honest models show, is on the check's page under docs/checks.
"""

from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.norms import project, steepest_ascent, unit_ball
from benchmark.attacks.pgd import PGD
from benchmark.audit.budgets import Budget, budget
from benchmark.audit.case import Case, Finding, alarm_if
from benchmark.audit.gradient_measurements import gradients, short_attack
from benchmark.audit.measurements import (
    ASKED_OFTEN,
    asked,
    fooled_by,
    misclassified,
    most_of,
    seed_for,
)
from benchmark.audit.registration import check
from benchmark.seeding import generator

LONGER_GAIN = 0.1
BLACK_BOX_GAIN = 0.1
RANDOM_GAIN = 0.05

DRAWS = 10


def _robust_images(case: Case, at: Budget) -> tuple[Tensor, Tensor, float]:
    """Return images that no attack fooled at a budget, their labels, and their share of those
    asked. Where the run says nothing of it, those that the short attack did not fool."""
    most = most_of(case)
    if at.attack:
        rows = at.robust.nonzero().flatten()
        share = len(rows) / max(1, int(case.correct.sum()))
        return case.x[rows[:most]], case.y[rows[:most]], share
    x, y = asked(case, ASKED_OFTEN)
    if case.once(gradients).missing:
        return x, y, 1.0
    robust = ~misclassified(case, case.once(short_attack).best, y)
    return x[robust], y[robust], float(robust.double().mean())


def _nothing_left(name: str, at: Budget) -> Finding:
    evidence = f"no image is right at eps {at.eps:g} ({at.norm}): there is nothing left to gain"
    return Finding(name, "pass", 0.0, torch.nan, evidence)


def _gain(
    name: str,
    at: Budget,
    fooled: Tensor,
    share: float,
    threshold: float,
    how: str,
    reason: str,
    *,
    about_sweep: bool = False,
) -> Finding:
    """Return what another attack gained on images that withstood the run's, as a share of all.

    It is ``about_sweep`` where it tells that the attack chosen for the budget was too weak.
    """
    gain = float(fooled.double().mean()) * share
    evidence = (
        f"{how} fools {int(fooled.sum())} of {len(fooled)} images that were right at eps {at.eps:g}"
        f" ({at.norm}): {gain:.0%} of all; trusted up to {threshold:.0%}"
    )
    attack, library = (at.attack, at.library) if about_sweep else ("", "")
    return alarm_if(
        gain > threshold, name, gain, threshold, evidence, reason, attack, library=library
    )


@check("random-noise", level="basic", needs=["correct"], role="symptom")
def random_noise(case: Case) -> Finding:
    """Tell how many images withstood the attacks but not random noise of the same size."""
    name, at = "random-noise", case.once(budget)
    x, y, share = _robust_images(case, at)
    if not len(x):
        return _nothing_left(name, at)
    rng = generator(seed_for(case, name), x.device)
    fooled = torch.zeros_like(y, dtype=torch.bool)
    for _ in range(DRAWS):
        corner = steepest_ascent(unit_ball(x, at.norm, rng), at.norm)
        fooled |= misclassified(case, project(x + at.eps * corner, x, at.eps, at.norm), y)
    how = f"the best of {DRAWS} random perturbations"
    return _gain(name, at, fooled, share, RANDOM_GAIN, how, "random noise beats the attack")


LONGER = 100
RESTARTS = 3


@check(
    "longer-attack",
    level="full",
    needs=["correct", "gradient"],
    role="symptom",
    doubts_gradient=False,
)
def longer_attack(case: Case) -> Finding:
    """Tell how many images withstood the attacks but not more steps and restarts."""
    name, at = "longer-attack", case.once(budget)
    x, y, share = _robust_images(case, at)
    if not len(x):
        return _nothing_left(name, at)
    attack = PGD(steps=LONGER, restarts=RESTARTS, norm=at.norm)
    fooled = fooled_by(case, attack, x, y, at.eps, name)
    how = f"PGD of {LONGER} steps with {RESTARTS} starts"
    reason = "attack not converged"
    return _gain(name, at, fooled, share, LONGER_GAIN, how, reason, about_sweep=True)


QUERIES = 500


@check("black-box", level="full", needs=["correct"], role="symptom")
def black_box(case: Case) -> Finding:
    """Tell how many images that withstood the attacks fall to a search without gradients."""
    from benchmark.attacks.peers.torchattacks import named

    name, at = "black-box", case.once(budget)
    x, y, share = _robust_images(case, at)
    if not len(x):
        return _nothing_left(name, at)
    square: Any = named("Square")  # made from torchattacks' class, with its parameters
    attack = square(norm=at.norm, n_queries=QUERIES)
    how = f"Square with {QUERIES} queries"
    fooled = fooled_by(case, attack, x, y, at.eps, name)
    reason = "black box beats the attack"
    return _gain(name, at, fooled, share, BLACK_BOX_GAIN, how, reason, about_sweep=True)
