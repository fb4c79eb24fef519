"""The words of the audit, for those who write its tables and those who read them; no torch."""

from collections.abc import Sequence
from typing import Literal

from benchmark.errors import unknown_name

Level = Literal["basic", "full"]
LEVELS: tuple[Level, ...] = ("basic", "full")

Answer = Literal["pass", "alarm", "note", "undecided"]
"""``alarm``: the attack cannot be believed as it stands. ``note``: true of the defense and no fault
of the attack (randomness), but the attack had to be set for it. ``undecided``: could not tell."""

ANSWERS: tuple[Answer, ...] = ("alarm", "undecided", "note", "pass")
"""The worst first: the order in which a report shows them."""

Ruling = Literal["attacked fairly", "masked", "undecided"]
RULINGS: tuple[Ruling, ...] = ("masked", "undecided", "attacked fairly")
"""The worst first. ``attacked fairly`` takes the stronger attack: a full audit alone can say so."""

STRONGER = "audit"
"""The library under which the samples of the audit's own attacks stand."""


def check_level(level: str, known: Sequence[str] = LEVELS) -> Level:
    """Return ``level`` as one of the audit's; a UsageError with the nearest one unless known."""
    if level not in known:
        raise unknown_name("audit level", level, known)
    return level  # type: ignore[return-value]
