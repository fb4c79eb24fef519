"""What the user is told when something is wrong with the request."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches


class UsageError(Exception):
    """The request cannot be served as asked: one line for the user, exit code 2."""


class PluginError(Exception):
    """What a plugin did that cannot be measured: one line that says so, a failed cell's reason."""


class TrainingError(PluginError):
    """A defense could not be trained; its cells are kept as failed, with this reason."""


def one_line(text: str) -> str:
    """Return ``text`` on one line; what a terminal would obey, or not show, is written out."""
    escaped = (c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return "".join(escaped)


class MachineError(Exception):
    """The machine cannot go on (no room, no access): one line on what is kept, exit code 1."""


@contextmanager
def options_named(names: Mapping[str, str]) -> Iterator[None]:
    """Let a UsageError name the options as this command does: ``--n-test`` is ``--n`` elsewhere."""
    try:
        yield
    except UsageError as error:
        text = str(error)
        for option, name in names.items():
            text = re.sub(rf"{option}(?![\w-])", name, text)
        raise UsageError(text) from error.__cause__


LONGEST = 300
"""The most characters of an exception's message in a reason; the traceback file has the rest."""


def first_line(error: BaseException) -> str:
    """Return what ``error`` says, on one line without control characters, and its type.

    A fault in words of our own is said as it is.
    """
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a plugin's exception may be as broken as the plugin
        lines = []
    line = " ".join("".join(c if c.isprintable() else " " for c in " ".join(lines[:1])).split())
    if not (isinstance(error, PluginError) and line):
        line = f"{type(error).__name__}: {line or 'no message'}"
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a misspelt ``name``, with the nearest known word and the whole list."""
    known = sorted(str(word) for word in known)
    folded = {word.lower(): word for word in known}
    near = get_close_matches(name.lower(), folded, n=1, cutoff=0.4)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else "."
    return UsageError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}")


def cause(error: BaseException) -> str:
    """Return what ``error`` says on one line of at most 200 characters; its type if nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__
