"""Digests and seeds of plain values: the same on every machine and Python."""

import hashlib


def digest(*parts: object) -> str:
    """Return the SHA-256 of ``parts`` as hex; the same on every machine and Python."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).hexdigest()


def derive_seed(*parts: object) -> int:
    """Hash ``parts`` to a seed in [0, 2**31): adding one cell changes no other cell's seed."""
    return int(digest(*parts)[:8], 16) % 2**31
