"""The audit's checks: what each asks of a defense and of the attacks on it.

A check is a function ``(Subject) -> Finding`` (or several findings, one per attack), registered by
the decorator :func:`check` in one of the modules below::

    @check("zero-gradient", level="basic", needs=["standing"])
    def zero_gradient(subject: Subject) -> Finding:
        \"\"\"Tell how many images' gradients are zero.\"\"\"

and explained on its page docs/checks/<name>.md. ``basic`` checks are cheap and part of every run;
``full`` ones attack again, or search without the gradient.
"""

from collections.abc import Iterator, Mapping

from benchmark.audit.case import LEVELS, Finding, Level, Subject
from benchmark.audit.checks import behaviour, gradients, neighbours, noise, outcomes
from benchmark.audit.registration import REGISTERED, Check, check

__all__ = ["CHECKS", "Check", "check", "checks_of", "examine"]

MODULES = (gradients, behaviour, neighbours, noise, outcomes)

CHECKS: Mapping[str, Check] = REGISTERED
"""Every check by its name."""


def checks_of(level: Level) -> list[Check]:
    """Return the checks of an audit at ``level``: a full one asks the basic questions, too."""
    asked = LEVELS[: LEVELS.index(level) + 1]
    return [check for check in CHECKS.values() if check.level in asked]


def examine(subject: Subject, level: Level) -> Iterator[Finding]:
    """Yield what each check of ``level`` finds, in the order in which they are registered."""
    for each in checks_of(level):
        yield from each.run(subject)
