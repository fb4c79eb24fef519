"""How a check is registered: a decorator that gives a function its name, level, needs and role."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from benchmark.audit.case import Finding, Level, Subject
from benchmark.hashing import derive_seed
from benchmark.results.audit_words import Role
from benchmark.seeding import seeded

Measure = Callable[[Subject], Finding | Sequence[Finding]]

Need = Literal["standing", "curves"]
"""What a check cannot do without: images that the defense gets right, or the run's sweeps."""

LACKING: dict[Need, str] = {
    "standing": "the defense gets none of the {n} images right: there is nothing to attack",
    "curves": "the run holds no sweep of this defense",
}


@dataclass(frozen=True)
class Check:
    """A question asked of every defense. ``measure`` answers it; its first line says what it is.

    ``role`` is what its alarm tells of the verdict, ``doubts_gradient`` whether that puts the
    gradient in doubt, so that stronger attacks have to do without it.
    """

    name: str
    level: Level
    needs: tuple[Need, ...]
    measure: Measure
    role: Role = "cause"
    doubts_gradient: bool = True

    @property
    def summary(self) -> str:
        """The first line of the check's docstring."""
        return (self.measure.__doc__ or "").strip().partition("\n")[0]

    @property
    def page(self) -> str:
        """The check's page in the documentation, from the repository's root."""
        return f"docs/checks/{self.name}.md"

    def run(self, subject: Subject) -> tuple[Finding, ...]:
        """Return the answers, one or several, with the global random state as it was before.

        What a check needs and does not have makes it undecided, and so does anything it raises
        but an interruption: a defense that fails under a question has not answered it.
        """
        have = {"standing": bool(subject.correct.any()), "curves": bool(subject.curves)}
        for need in self.needs:
            if not have[need]:
                return (self.undecided(LACKING[need].format(n=len(subject.y))),)
        seed = derive_seed(subject.seed, subject.dataset, "audit", self.name)
        try:
            with seeded(seed, subject.device, subject.defense):
                found = self.measure(subject)
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            return (self.undecided(f"the check failed: {type(error).__name__}: {first}"),)
        several = (found,) if isinstance(found, Finding) else found
        return tuple(replace(finding, role=self.role) for finding in several)

    def undecided(self, evidence: str) -> Finding:
        """Return that the check could not tell, and why."""
        return Finding(self.name, "undecided", torch.nan, torch.nan, evidence, role=self.role)


REGISTERED: dict[str, Check] = {}
"""Every check by its name, in the order of registration."""


def check(
    name: str,
    *,
    level: Level,
    needs: Sequence[Need] = (),
    role: Role = "cause",
    doubts_gradient: bool = True,
) -> Callable[[Measure], Measure]:
    """Register a function as the check ``name``, as :class:`Check` has it.

    Its page is docs/checks/<name>.md.
    """

    def register(measure: Measure) -> Measure:
        REGISTERED[name] = Check(name, level, tuple(needs), measure, role, doubts_gradient)
        return measure

    return register


def role_of(name: str) -> Role:
    """Return what an alarm of the check ``name`` tells; a cause, if it is of another version."""
    return REGISTERED[name].role if name in REGISTERED else "cause"


def doubts_gradient(name: str) -> bool:
    """Tell whether an alarm of the check ``name`` puts the gradient in doubt."""
    return name not in REGISTERED or REGISTERED[name].doubts_gradient
