"""JSON files that carry their own checksum and version, read with limits.

An object is written with ``schema_version`` and with ``sha256``, the digest of all else in it, so
that a changed value is noticed. A file without them, as older versions made, is read all the same:
:func:`is_sealed` tells. Nothing here needs torch.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.hashing import digest_bytes
from benchmark.io.atomic import write_atomic
from benchmark.io.paths import plain_file
from benchmark.io.schema_version import NAME, SCHEMA_VERSION, check_version

SEAL = "sha256"


MOST_BYTES = 2**24
"""The largest file that is read (docs/constants.md)."""


MOST_LEVELS = 32
"""How deep lists and objects may be nested (docs/constants.md)."""


def seal(value: Any) -> bytes:
    """Return ``value`` as indented JSON, an object with its version and checksum."""
    if isinstance(value, Mapping):
        value = {key: item for key, item in value.items() if key != SEAL}
        value[NAME] = SCHEMA_VERSION
        value[SEAL] = _checksum(json.loads(json.dumps(value)))
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def read_json(path: Path, *, any_number: bool = False) -> Any:
    """Return what a JSON file holds, without its version and checksum.

    ValueError says what is wrong: the checksum, a key that appears twice, text that is not UTF-8,
    no plain file, too large or nested too deep, a whole number of more than 64 bits or, unless
    ``any_number``, a number that is not finite. OSError if it cannot be read.
    """
    plain_file(path, MOST_BYTES)
    value = parse_json(path.read_bytes(), any_number=any_number)
    if isinstance(value, dict) and SEAL in value and value.pop(SEAL) != _checksum(value):
        raise ValueError("it does not match its own checksum")
    if isinstance(value, dict) and NAME in value:
        check_version(value.pop(NAME), path)
    return value


def parse_json(data: bytes, *, any_number: bool = False) -> Any:
    """Return what ``data`` holds; ValueError as for :func:`read_json`, but for the checksum."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has {len(data):,} bytes; {MOST_BYTES:,} are the most that is read")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check(value, any_number)
    return value


def is_sealed(path: Path) -> bool:
    """Tell whether a readable JSON file is an object with a checksum."""
    value = parse_json(path.read_bytes(), any_number=True)
    return isinstance(value, dict) and SEAL in value


def _checksum(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return digest_bytes([text.encode()])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {twice[:40]!r} appears twice in it")
    return found


def _check(value: Any, any_number: bool) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MOST_LEVELS:
            raise ValueError("it is nested too deep")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                item.encode()  # half a surrogate pair, which no file can hold
            elif isinstance(item, int):
                if not -(2**63) <= item < 2**63:
                    raise ValueError("a whole number in it has more than 64 bits")
            elif isinstance(item, float) and not (any_number or math.isfinite(item)):
                raise ValueError("a number in it is not finite")
        level = below


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, an object with its version and checksum, atomically."""
    write_atomic(path, seal(value))
