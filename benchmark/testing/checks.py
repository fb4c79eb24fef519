"""A list of checks and what came of each: what functions, tests and pytest's items share.

A check asks one thing of a case (a defense, an attack or a dataset, with what was made of it so
far), so that each can be a test of its own. One that builds on another is left out where that
fails: a model that cannot be trained is not asked for its gradient.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Case = TypeVar("Case")


class NotApplicable(Exception):  # noqa: N818 (it is no error)
    """A check has nothing to look at; the message says why."""


@dataclass(frozen=True)
class Check(Generic[Case]):
    """``run`` raises AssertionError where a rule is broken, and returns findings otherwise.

    ``after`` names the checks that must not have failed before.
    """

    name: str
    run: Callable[[Case], Iterable[str]]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a check: its findings, what it raised, or why it was left out."""

    findings: tuple[str, ...] = ()
    failure: Exception | None = None
    skipped: str = ""
    blocked: bool = False
    """Left out because another check failed."""


class Inspection(Generic[Case]):
    """The checks of one case, each run once, when it is first asked for."""

    def __init__(self, case: Case, checks: Sequence[Check[Case]]) -> None:
        self.case = case
        self.checks = {check.name: check for check in checks}
        self._outcomes: dict[str, Outcome] = {}

    def outcome(self, name: str) -> Outcome:
        """Run the check ``name``, and those that it builds on, unless that was done before."""
        if name not in self._outcomes:
            self._outcomes[name] = self._run(self.checks[name])
        return self._outcomes[name]

    def _run(self, check: Check[Case]) -> Outcome:
        for name in check.after:
            before = self.outcome(name)
            if before.blocked:
                return before
            if before.failure is not None:
                return Outcome(skipped=f"not checked: {name} failed", blocked=True)
        try:
            return Outcome(tuple(check.run(self.case)))
        except NotApplicable as error:
            return Outcome(skipped=str(error))
        except Exception as error:  # whatever a plugin raises
            return Outcome(failure=error)

    def findings(self) -> list[str]:
        """Run all checks in order; return what they found, or raise what the first one raised."""
        found: list[str] = []
        for name in self.checks:
            outcome = self.outcome(name)
            if outcome.failure is not None:
                raise outcome.failure
            found += outcome.findings
        return found
