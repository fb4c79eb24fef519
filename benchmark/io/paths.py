"""Files that may come from strangers: what is read, and where is written.

A plugin may be called anything and a run's folder may come from anybody. Names become file names
by :func:`safe_name`, and :func:`own_folder` keeps what is written where it was asked for.
"""

import os
import re
import stat
from pathlib import Path

from benchmark.errors import UsageError
from benchmark.hashing import digest

LONGEST = 100
"""The most characters of a name that go into a file's name (docs/constants.md)."""

_RESERVED = {"con", "prn", "aux", "nul"} | {f"{w}{i}" for w in ("com", "lpt") for i in range(1, 10)}


def safe_name(text: str) -> str:
    """Return a file name for ``text``: the text itself where any file system takes it.

    Else what of it may stay, and a digest, so that two names never become one: neither ``a/b`` and
    ``a_b`` nor, where capitals do not count, ``Madry`` and ``madry``.
    """
    kept = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:LONGEST].strip(".")
    if kept == text == text.lower() and text.partition(".")[0] not in _RESERVED:
        return text
    return f"{kept.lower() or '_'}-{digest(text)[:8]}"


def plain_file(path: Path, most: int) -> int:
    """Return the size of ``path`` in bytes; ValueError unless it is a file of at most ``most``.

    A link is refused, as it may lead anywhere, and a pipe, as reading it may never end.
    """
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is not a plain file; links are not followed here")
    if about.st_size > most:
        raise ValueError(f"it has {about.st_size:,} bytes; {most:,} are the most that is read")
    return about.st_size


def real(path: Path) -> Path:
    """Return where ``path`` leads.

    Links that lead in a circle stay as they are, so that opening the path fails; before
    Python 3.13 Path.resolve raises a RuntimeError of its own.
    """
    return Path(os.path.realpath(path))


def own_folder(folder: Path, within: Path) -> Path:
    """Return ``folder``; UsageError if a link on the way there leads out of ``within``."""
    if not real(folder).is_relative_to(real(within)):
        raise UsageError(
            f"{folder} leads out of {within} by a link; remove the link, or name another folder"
        )
    return folder
