"""Locks between processes that share folders: one for a run's folder, a model, a download.

The operating system takes a lock from its process when that ends, however it ends: none is ever
stale. The JSON beside a lock only tells who has it, for those who wait.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from errno import EACCES, EPERM, EROFS
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from benchmark.io.json_files import read_json, write_json
from benchmark.plugins.time_limit import paused
from benchmark.progress import Progress

POLL_SECONDS = 0.1


@contextmanager
def held(path: Path, what: str, progress: Progress) -> Iterator[None]:
    """Hold the lock at ``path`` inside the block, after waiting for the process that has it.

    ``what`` names to the user what is locked. Where there can be no lock (a file system that has
    none, a full disk), a line says so and the block runs all the same. A folder that must not be
    written to needs none.
    """
    # Not filelock's own stand-in for missing locks: a killed process of another host would keep it.
    lock = FileLock(path, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, path, what, progress)
    except OSError as error:
        if error.errno not in (EACCES, EPERM, EROFS):
            progress.say(
                f"{what}: no lock in {path.parent} ({error.strerror or error}); going on without:"
                " run nothing else on it at the same time"
            )
    try:
        if lock.is_locked:
            _sign(path)
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # the folder may be gone
                _holder(path).unlink(missing_ok=True)
            with suppress(OSError):
                lock.release()


def _acquire(lock: BaseFileLock, path: Path, what: str, progress: Progress) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        progress.say(f"{what} is in use by {_who(path)}: waiting until it is free; Ctrl-C stops")
        with progress.task(f"waiting for {what}", 1), paused():
            lock.acquire(poll_interval=POLL_SECONDS)


def _sign(path: Path) -> None:
    """Say beside the lock at ``path`` that this process has it."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
    with suppress(OSError):
        write_json(_holder(path), about)


def _holder(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _who(path: Path) -> str:
    """Return who has the lock at ``path``, as far as the JSON beside it tells."""
    try:
        told = read_json(_holder(path))
        pid, host, since = told["pid"], told["host"], told["since"]
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    # A file that others can write must not move the terminal's cursor.
    found = f"process {pid} on {host} since {since}"
    return "".join(c if c.isprintable() else "?" for c in found[:200])
