"""The words of the audit, for those who write its tables and those who read them; no torch."""

from collections.abc import Sequence
from typing import Literal

from benchmark.errors import unknown_name

Level = Literal["basic", "full"]
LEVELS: tuple[Level, ...] = ("basic", "full")

Answer = Literal["pass", "alarm", "note", "undecided"]
"""``alarm``: the attack cannot be believed as it is. ``note``: true of the defense and no fault
of the attack (randomness), but the attack had to be set for it. ``undecided``: could not tell."""

ANSWERS: tuple[Answer, ...] = ("alarm", "undecided", "note", "pass")
"""The worst first: the order in which a report shows them."""

Role = Literal["cause", "symptom", "invalid"]
"""What a check's alarm tells. ``cause``: why attacks fail on the defense, which hides its gradient.
``symptom``: that an attack fell short, not why. ``invalid``: that the numbers mean nothing under
any attack, because the data leak or the defense breaks its interface."""

Ruling = Literal["attacked fairly", "attack too weak", "gradient masking", "invalid", "undecided"]
RULINGS: tuple[Ruling, ...] = (
    "invalid",
    "gradient masking",
    "attack too weak",
    "undecided",
    "attacked fairly",
)
"""The worst first. ``attacked fairly`` takes the stronger attack: a full audit alone can say so."""

DISTRUSTED: tuple[Ruling, ...] = ("invalid", "gradient masking", "attack too weak")
"""The accuracy under the run's attacks is not to be believed; the audit's says "at most"."""

DOUBTFUL: tuple[Ruling, ...] = (*DISTRUSTED, "undecided")
"""All but the fair."""

MEANINGS: dict[Ruling, str] = {
    "invalid": "the data leak, or the defense breaks its interface: no number means anything until"
    " that is repaired",
    "gradient masking": "the defense hides its gradient from the run's attacks",
    "attack too weak": "a stronger attack takes at least 10 points more, and no check found"
    " anything wrong with the defense: repeat the run with that attack",
    "undecided": "what is missing before it can be told is named beside it",
    "attacked fairly": "no alarm is left unexplained, and nothing stronger takes 10 points more",
}
"""What each ruling says, in half a sentence."""

STRONGER = "audit"
"""The library that the samples of the audit's own attacks are listed under."""


def check_level(level: str, known: Sequence[str] = LEVELS) -> Level:
    """Return ``level`` as one of the audit's; a UsageError with the nearest one unless known."""
    if level not in known:
        raise unknown_name("audit level", level, known)
    return level  # type: ignore[return-value]
