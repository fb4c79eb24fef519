"""How a defense is asked by the checks: which images, through which view, and its plain answers.

Everything is asked through the view that the run's attacks used (EOT, BPDA, inside the box), so
that a check judges the gradient that was followed.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.view import AttackView, attack_view
from benchmark.audit.case import Case
from benchmark.evaluation.scoring import ViewSettings, attack_batch
from benchmark.hashing import derive_seed
from benchmark.seeding import generator, seeded

ASKED = 32
"""Images asked by checks that need several passes, at most; docs/constants.md."""

ASKED_OFTEN = 16
"""The same where an image is asked twenty times and more."""

ASKED_UNDER_EOT, ASKED_OF_SEARCHING = 12, 8
"""The same under EOT, and of a defense that searches for its answer."""

STEPS = 20
"""Steps of a check's own short attack; half of them where the defense searches for its answer."""

DECIDED = 3
"""A stochastic defense has to be wrong so often in a row for an image to count as adversarial."""


def searches(case: Case) -> bool:
    """Tell whether the defense is of the costly kind that searches for its answer."""
    return case.bpda or (case.defense.gives == "gradients" and not case.defense.differentiable)


def most_of(case: Case) -> int:
    """Return how many images of ``case`` the checks ask at most."""
    if searches(case):
        return ASKED_OF_SEARCHING
    return ASKED_UNDER_EOT if case.eot > 1 else ASKED


def steps_of(case: Case) -> int:
    """Return the steps of a check's own short attack."""
    return STEPS // 2 if searches(case) else STEPS


def view_of(case: Case, rows: int) -> AbstractContextManager[AttackView]:
    """Open the view that the run's attacks had, for a batch of ``rows`` images."""
    return attack_view(case.defense, rows, eot=case.eot, bpda=case.bpda, inside=case.inside)


def images(case: Case, most: int = ASKED) -> Tensor:
    """Return the first images, right or wrong."""
    return case.x[: min(most, most_of(case))]


def asked(case: Case, most: int = ASKED) -> tuple[Tensor, Tensor]:
    """Return the first images that the defense gets right, at most ``most``, and their labels."""
    x, y = case.attacked
    most = min(most, most_of(case))
    return x[:most], y[:most]


def seed_for(case: Case, *parts: object) -> int:
    """Return a seed of the audit of this case, for the purpose that ``parts`` name."""
    return derive_seed(case.seed, case.dataset, "audit", *parts)


# --- plain answers ------------------------------------------------------------------------------

SAME = 1e-3
"""Logits that differ by less, relative to their length, are the same; docs/constants.md."""

REPEATS = 4

FEW = 8
"""Images that tell whether a seed repeats the defense's noise."""

TWICE = "under one seed the defense answers twice differently"
"""Why a check that needs the same noise twice cannot tell."""


@torch.no_grad()
def logits(case: Case, x: Tensor, seed: int | None = None) -> Tensor:
    """Return the defense's logits; under ``seed`` a stochastic defense draws the same noise."""
    with nullcontext() if seed is None else seeded(seed, x.device):
        answer: Tensor = case.defense(x)
    return answer


def apart(one: Tensor, other: Tensor) -> Tensor:
    """Return how far two batches of logits (N, K) lie apart, relative to the first's length (N,).

    NaN and infinity count as one value: what is not finite in both is the same.
    """
    one, other = one.double().nan_to_num(), other.double().nan_to_num()
    length = torch.linalg.vector_norm(one, dim=1).clamp_min(1e-10)
    far: Tensor = torch.linalg.vector_norm(one - other, dim=1) / length
    return far


def same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two batches of logits (N, K) are the same up to :data:`SAME`."""
    return bool((apart(one, other) <= SAME).all())


def repeats(case: Case) -> Tensor:
    """Return the logits (R, N, K) of the same images, asked again and again."""
    x = images(case)
    return torch.stack([logits(case, x) for _ in range(REPEATS)])


def is_random(case: Case) -> bool:
    """Tell whether the same images get other logits when asked again, or the defense says so."""
    answers = case.once(repeats)
    differ = any(bool((apart(answers[0], other) > SAME).any()) for other in answers[1:])
    return differ or case.defense.stochastic


def repeatable(case: Case) -> bool:
    """Tell whether the defense answers twice alike under the same seed."""
    x, seed = images(case, FEW), seed_for(case, "still")
    return same(logits(case, x, seed), logits(case, x, seed))


def fooled_by(
    case: Case, attack: BudgetAttack, x: Tensor, y: Tensor, eps: float, purpose: str
) -> Tensor:
    """Return on which images (N,) bool ``attack`` fools the defense, seeded for a ``purpose``."""
    seed = seed_for(case, purpose)

    def search(view: AttackView, x: Tensor, y: Tensor) -> Tensor:
        with seeded(seed, x.device):
            return attack.run(view, x, y, eps=eps, generator=generator(seed, x.device))

    judged = attack_batch(
        *(case.defense, search, x, y),
        eps=eps,
        norm=attack.norm,
        n_classes=case.defense.info.n_classes,
        settings=ViewSettings(case.eot, case.bpda, case.inside),
    )
    return misclassified(case, judged.x_adv, y, judged.success.to(y.device))


def misclassified(case: Case, x: Tensor, y: Tensor, first: Tensor | None = None) -> Tensor:
    """Return which images (N,) bool the defense gets wrong, and not by one lucky draw.

    ``first`` are the wrong answers of the first draw, where it was asked already.
    """
    wrong = case.defense.predict(x) != y if first is None else first.clone()
    for _ in range(DECIDED - 1 if case.defense.stochastic else 0):
        rows = wrong.nonzero().flatten()
        if len(rows):
            wrong[rows] = case.defense.predict(x[rows]) != y[rows]
    return wrong
