"""Checksums of a dataset's files: SHA256SUMS lists, and what was seen when a file was first read.

A list is what ``sha256sum`` prints, beside the files or one folder above. Files that are on none
are remembered in the cache folder when they are first read, and a later change is said.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from benchmark.errors import UsageError
from benchmark.hashing import digest, digest_file
from benchmark.io.atomic import write_atomic
from benchmark.io.json_files import read_json, write_json

LIST = "SHA256SUMS"
MOST_BYTES = 2**26
_LINE = re.compile(r"([0-9A-Fa-f]{64}) [ *](.+)")

_log = logging.getLogger(__name__)


def file_sum(path: Path) -> str:
    """Return the SHA-256 of a file as hex; each state of a file is read once by a process."""
    about = path.stat()
    return _sum(path, about.st_ino, about.st_size, about.st_mtime_ns)


@cache
def _sum(path: Path, *_: int) -> str:
    return digest_file(path)


def read_list(folder: Path) -> dict[str, str]:
    """Return the checksums by name of a folder's list; empty if it has none, UsageError if bad."""
    path = folder / LIST
    try:
        if not path.is_file():
            return {}
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(
                f"{path}: larger than {MOST_BYTES:,} bytes; it is not a list of checksums"
            )
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    found = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match:
            found[match[2].removeprefix("./")] = match[1].lower()
        elif line.strip():
            raise UsageError(
                f"{path}: line {number} is not a checksum and a name, as sha256sum prints them;"
                " write the list again, or delete it"
            )
    return found


def write_list(folder: Path, files: Iterable[Path]) -> None:
    """List ``files`` of ``folder`` as they are now."""
    lines = [f"{file_sum(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_atomic(folder / LIST, "".join(lines).encode())


def check_mirror(files: Iterable[Path], memory: Path) -> None:
    """Compare the shards of a mirror with their lists, or with what is remembered in ``memory``.

    UsageError if one is not as it is listed. One that is on no list and has changed is said.
    """
    for path in files:
        own, above = read_list(path.parent), read_list(path.parent.parent)
        listed = own.get(path.name) or above.get(f"{path.parent.name}/{path.name}")
        found = file_sum(path)
        if listed is None:
            _compare(path, found, memory)
        elif listed != found:
            raise UsageError(
                f"{path}: damaged or another version: it differs from its checksum in {LIST};"
                " fetch it again"
            )


def _compare(path: Path, found: str, memory: Path) -> None:
    """Say if ``path`` is not what it was, and remember what it is."""
    file = memory / f"{digest(path.parent.resolve())[:32]}.json"
    known = _remembered(file)
    before = known.get(path.name)
    if before == found:
        return
    if before is not None:
        _log.warning(
            "%s changed since it was last read (SHA-256 %s then, %s now): read as it is now",
            *(path, before[:12], found[:12]),
        )
    with suppress(OSError):  # a cache that cannot be written costs the memory, not the run
        write_json(file, {**known, path.name: found})


def _remembered(file: Path) -> Mapping[str, str]:
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or not all(isinstance(word, str) for word in found.values()):
        return {}
    return found
