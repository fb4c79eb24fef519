"""Running the stronger attacks of :mod:`benchmark.audit.stronger_attacks`, one after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.loader import load_attack
from benchmark.audit.case import Case, Curve, Finding
from benchmark.audit.remaining_images import RemainingImages
from benchmark.audit.stronger_attacks import Effort, StrongerAttack, plan_attacks
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import first_line
from benchmark.evaluation.sweep import Outcome, sweep
from benchmark.hashing import derive_seed
from benchmark.machine_errors import fault_line, out_of_memory
from benchmark.progress import Progress
from benchmark.results.audit_words import STRONGER

SURPRISING = 0.05
"""The share of images that a short attack has to fool for the long one to follow."""


@dataclass(frozen=True)
class StrongerResult:
    """What an attack of the audit left, eps by eps; without outcomes ``failure`` says why.

    Of a deterministic defense the outcomes are what the attack and those before it left together;
    ``new`` (len(eps), n) bool tells which images it fooled itself, of those that were left.
    ``on_surrogate`` tells whether it looked at another function than an attack of a run does.
    """

    spec: AttackSpec
    why: str
    outcomes: tuple[Outcome, ...]
    failure: str = ""
    on_surrogate: bool = False
    new: Tensor | None = None

    @property
    def curve(self) -> Curve:
        """The outcomes per image, as those of a sweep of the run."""
        return Curve(
            self.spec.name,
            STRONGER,
            self.spec.threat.norm,
            tuple(outcome.eps for outcome in self.outcomes),
            torch.stack([outcome.success for outcome in self.outcomes]),
            torch.stack([outcome.distance for outcome in self.outcomes]),
            self.new,
        )

    @property
    def fooled(self) -> int:
        """The number of images that the attack fooled itself, at any eps."""
        return 0 if self.new is None else int(self.new.any(0).sum())

    @property
    def seconds(self) -> float:
        """The time that the attack took."""
        return sum(outcome.seconds for outcome in self.outcomes)

    @property
    def passes(self) -> float:
        """Passes per image: half of the forwards and backwards, over all eps."""
        queries = [outcome.n_forward + outcome.n_backward for outcome in self.outcomes]
        return float(torch.stack(queries).sum(0).double().mean()) / 2 if queries else 0.0


def attack_harder(
    case: Case,
    images: ImageDataset,
    threat: ThreatModel,
    findings: Sequence[Finding],
    *,
    effort: Effort,
    progress: Progress,
) -> Iterator[StrongerResult]:
    """Run the stronger attacks on the case's defense and yield what each left, as it is done.

    ``images`` are the test images to attack, ``threat`` the norm and the budgets, of which the
    costlier attacks take some. The results depend on the case's seed alone. An attack that
    raises, or for which memory ran out, is told as a failure, and the next one runs.
    """
    plan = plan_attacks(case, threat, findings, n=len(images), effort=effort)
    # One lucky draw proves nothing, and one that was fooled in its batch may not be in another.
    alone = any(each.defense.stochastic or each.whole_batch for each in plan)
    left = None if alone else RemainingImages(case.defense, images)
    for each in plan:
        done = _run(each, case, images, left, progress)
        yield done
        if each.then is not None and done.fooled > SURPRISING * len(images):
            yield _run(each.then, case, images, left, progress)


def _run(
    each: StrongerAttack,
    case: Case,
    images: ImageDataset,
    left: RemainingImages | None,
    progress: Progress,
) -> StrongerResult:
    spec = each.spec

    def seed_at(eps: float) -> int:
        return derive_seed(case.seed, case.dataset, "audit", spec.name, eps)

    options: dict[str, Any] = {"seed_at": seed_at, "progress": progress}
    before = [] if left is None else [left.robust(eps) for eps in spec.threat.eps]
    try:
        attack = load_attack(spec)
        if left is None:
            outcomes = tuple(sweep(each.defense, attack, spec, images, **options))
        else:
            outcomes = tuple(left.attack(each.defense, attack, spec, **options))
    except Exception as error:
        failure = fault_line(error) if out_of_memory(error) else first_line(error)
        return StrongerResult(spec, each.why, (), failure, each.on_surrogate)
    new = [was & outcome.success for was, outcome in zip(before, outcomes, strict=False)]
    found = torch.stack(new) if new else None
    return StrongerResult(spec, each.why, outcomes, "", each.on_surrogate, found)
