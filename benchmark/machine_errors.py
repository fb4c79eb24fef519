"""Faults of the machine, told from bugs: no room, no access, no memory.

A fault becomes one line that says what happened, what is kept and how to go on, with exit code 1;
a bug keeps its traceback. Nothing here needs torch: the command line asks, also when torch could
not be loaded.
"""

import errno
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.errors import MachineError, UsageError

AGAIN = "repair that, and the same command goes on from there"

OUT_OF_MEMORY = "memory ran out"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MISPLACED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
)
"""What another folder would solve: a wrong request, unlike a disk that is full."""

_EXHAUSTED = (
    "can't allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class UnwrittenError(MachineError):
    """What was measured could not be written; ``result`` is there to be printed instead."""

    def __init__(self, message: str, result: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.result = result


def out_of_memory(error: BaseException) -> bool:
    """Tell whether ``error`` says that the memory of the CPU or of a GPU ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _EXHAUSTED)


def no_room(error: BaseException) -> bool:
    """Tell whether ``error`` says that a disk or a quota is full, or memory is."""
    return (isinstance(error, OSError) and error.errno in _FULL) or out_of_memory(error)


def fault_line(error: BaseException) -> str:
    """Return what a fault of the machine was, on one line; nothing for any other error."""
    if isinstance(error, MachineError):
        return str(error)
    if out_of_memory(error):
        words = " ".join(str(error).split())[:200]
        return f"{OUT_OF_MEMORY} ({words})" if words else OUT_OF_MEMORY
    if not isinstance(error, OSError) or error.errno is None:
        return ""
    where = f" for {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return f"there is no room left{where} ({error.strerror})"
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}"


def cannot_write(folder: Path, error: OSError, hint: str, *, what: str = "") -> Exception:
    """Return the error for a ``folder`` that takes no file.

    A UsageError with ``hint`` where another folder would do, else a MachineError.
    """
    words = f"{what}cannot write to {folder} ({error.strerror})"
    if error.errno in _MISPLACED:
        return UsageError(f"{words}; {hint}" if hint else words)
    return MachineError(words)


def open_folder(folder: Path) -> None:
    """Create ``folder`` and try it, before anything is computed that is to be kept there.

    UsageError or MachineError if it takes no file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        raise cannot_write(folder, error, "name a writable folder with --out") from None


@contextmanager
def rescued(result: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Have ``result`` printed if what is done within cannot write it to ``folder``."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise UnwrittenError(
            f"{fault_line(error) or error}: the result was printed, not kept in {folder}", result
        ) from error
