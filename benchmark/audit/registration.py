"""How a check is registered: a decorator that says all that the audit has to know of it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmark.audit.case import Case, Finding, undecided
from benchmark.audit.gradient_measurements import gradients
from benchmark.errors import first_line
from benchmark.hashing import derive_seed
from benchmark.machine_errors import out_of_memory
from benchmark.results.audit_words import Level, Role
from benchmark.seeding import seeded

Measure = Callable[[Case], Finding | Sequence[Finding]]


def only_answers(case: Case) -> str:
    """Say that of a model which was handed over as a function only answers can be had."""
    gives = case.defense.gives
    return "" if gives == "gradients" else f"of this model only its {gives} can be had"


Need = Literal["correct", "curves", "scores", "model", "gradient"]
"""What a check cannot do without: images that the defense gets right, the run's sweeps, scores and
not only labels, a model that can be differentiated in principle (nobody blames a function for not
being one), or a finite gradient at these images."""

LACKS: dict[Need, Callable[[Case], str]] = {
    "correct": lambda case: (
        ""
        if case.correct.any()
        else f"the defense gets none of the {len(case.y)} images right: there is nothing to attack"
    ),
    "curves": lambda case: "" if case.curves else "the run holds no sweep of this defense",
    "scores": lambda case: only_answers(case) if case.defense.gives == "labels" else "",
    "model": only_answers,
    "gradient": lambda case: only_answers(case) or case.once(gradients).unusable,
}
"""Why a case lacks what a check needs; "" where it does not."""

Remedy = Literal[
    "fresh draws",
    "fresh state",
    "whole batches",
    "logarithms",
    "no gradient",
    "no averaging",
    "more averaging",
]
"""What a finding asks of the stronger attacks: to average over the defense's noise, to have it
forget earlier questions, to keep every batch as it is scored, to follow the logarithm of its
answers, to follow no gradient at all, to expect nothing of the gradient's mean, to average it over
more noise."""


@dataclass(frozen=True)
class Check:
    """A question asked of every defense. ``measure`` answers it; its first line says what it is.

    ``role`` is what its alarm tells of the verdict, ``doubts_gradient`` whether that puts the
    gradient in doubt, so that stronger attacks have to do without it. ``remedies`` are what its
    alarm or note asks of them.
    """

    name: str
    level: Level
    needs: tuple[Need, ...]
    measure: Measure
    role: Role = "cause"
    doubts_gradient: bool = True
    remedies: tuple[Remedy, ...] = ()

    @property
    def summary(self) -> str:
        """The first line of the check's docstring."""
        return (self.measure.__doc__ or "").strip().partition("\n")[0]

    @property
    def page(self) -> str:
        """The check's page in the documentation, from the repository's root."""
        return f"docs/checks/{self.name}.md"

    def run(self, case: Case) -> tuple[Finding, ...]:
        """Return the answers, one or several, with the global random state as it was before.

        What a check needs and does not have makes it undecided, and so does anything it raises: a
        defense that fails under a question has not answered it. Out of memory passes through.
        """
        seed = derive_seed(case.seed, case.dataset, "audit", self.name)
        try:
            with seeded(seed, case.device, case.defense):
                found = self._answer(case)
        except Exception as error:
            if out_of_memory(error):
                raise
            found = undecided(self.name, f"the check failed: {first_line(error)}")
        several = (found,) if isinstance(found, Finding) else found
        return tuple(replace(finding, role=self.role) for finding in several)

    def _answer(self, case: Case) -> Finding | Sequence[Finding]:
        for need in self.needs:
            if lack := LACKS[need](case):
                return undecided(self.name, lack)
        return self.measure(case)


REGISTERED: dict[str, Check] = {}
"""Every check by its name, in the order of registration."""


def check(
    name: str,
    *,
    level: Level,
    needs: Sequence[Need] = (),
    role: Role = "cause",
    doubts_gradient: bool = True,
    remedies: Sequence[Remedy] = (),
) -> Callable[[Measure], Measure]:
    """Register a function as the check ``name``, as :class:`Check` has it.

    Its page is docs/checks/<name>.md.
    """

    def register(measure: Measure) -> Measure:
        REGISTERED[name] = Check(
            name, level, tuple(needs), measure, role, doubts_gradient, tuple(remedies)
        )
        return measure

    return register


def known(name: str) -> Check:
    """Return the check ``name``; of one of another version what is assumed of a check."""
    return REGISTERED.get(name) or Check(name, "basic", (), lambda case: ())


def remedies_for(findings: Collection[Finding], *answers: str) -> set[Remedy]:
    """Return what the findings with one of these ``answers`` ask of the stronger attacks."""
    return {
        remedy
        for finding in findings
        if finding.answer in answers
        for remedy in known(finding.check).remedies
    }
