"""The audit's checks: what each asks of a defense and of the attacks on it.

A check is a function ``(Case) -> Finding`` (or several findings, one per attack), registered by
the decorator :func:`check` in any module of this folder::

    @check("zero-gradient", level="basic", needs=["correct", "gradient"])
    def zero_gradient(case: Case) -> Finding:
        \"\"\"Tell how many images' gradients are zero.\"\"\"

and explained on its page docs/checks/<name>.md. The decorator says all that the verdict and the
stronger attacks have to know of it; no other place names a check. ``basic`` checks are cheap and
part of every run; ``full`` ones attack again, or search without the gradient.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules

from benchmark.audit.case import Case, Finding
from benchmark.audit.registration import REGISTERED, Check, check, known, remedies_for
from benchmark.results.audit_words import LEVELS, Level

__all__ = ["CHECKS", "Check", "check", "checks_of", "discover", "examine", "known", "remedies_for"]

CHECKS: Mapping[str, Check] = REGISTERED
"""Every check by its name."""


def discover() -> None:
    """Import every module of this folder, in the order of their names, and so their checks."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


discover()


def checks_of(level: Level) -> list[Check]:
    """Return the checks of an audit at ``level``: a full one asks the basic questions, too."""
    asked = LEVELS[: LEVELS.index(level) + 1]
    return [check for check in CHECKS.values() if check.level in asked]


def examine(case: Case, level: Level) -> Iterator[Finding]:
    """Yield what each check of ``level`` finds, in the order in which they are registered."""
    for each in checks_of(level):
        yield from each.run(case)
