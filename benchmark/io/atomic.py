"""Atomic writes: a reader sees the old file or the new one, whole."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101 (mkstemp makes a private file)
        Path(temporary).replace(path)
    except BaseException as error:
        with suppress(OSError):  # where the folder has become read-only, the first error tells
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # which a write does not tell by itself
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
