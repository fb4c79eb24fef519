"""SHA-256 digests and seeds: the one place that hashes, the same on every machine and Python.

Nothing here needs torch: a tensor is hashed as the buffer of its values.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

Buffer = bytes | bytearray | memoryview


def digest(*parts: object) -> str:
    """Return the SHA-256 (hex) of plain values, by what ``str`` says of each."""
    return digest_bytes(["\x1f".join(str(part) for part in parts).encode()])


def digest_bytes(buffers: Iterable[Buffer]) -> str:
    """Return the SHA-256 (hex) of the bytes of ``buffers``, one after the other."""
    found = hashlib.sha256()
    for buffer in buffers:
        found.update(buffer)
    return found.hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes; OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def derive_seed(*parts: object) -> int:
    """Hash ``parts`` to a seed in [0, 2**31): adding one cell changes no other cell's seed."""
    return int(digest(*parts)[:8], 16) % 2**31
