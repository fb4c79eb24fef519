"""What the user is told when something is wrong with the request."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(Exception):
    """The request cannot be served as asked: one line for the user, exit code 2."""


class TrainingError(Exception):
    """A defense could not be trained; its cells are kept as failed, with this reason."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a misspelt ``name``, with the nearest known word and the whole list."""
    known = sorted(str(word) for word in known)
    folded = {word.lower(): word for word in known}
    near = get_close_matches(name.lower(), folded, n=1, cutoff=0.4)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else "."
    return UsageError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}")
