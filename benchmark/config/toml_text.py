"""TOML from plain data: what a user can save as a preset and what ``--set`` reads."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.errors import UsageError


def inline(value: Any) -> str:
    """Return a value as TOML on one line; UsageError for what TOML cannot hold, such as None.

    >>> inline({"steps": 40, "eps": [0.0, 0.1]})
    '{ steps = 40, eps = [0.0, 0.1] }'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a TOML string, except that TOML wants DEL escaped and no surrogate pairs.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(inline(each) for each in value)}]"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key_text(key)} = {inline(own)}" for key, own in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    raise UsageError(f"{value!r} cannot be written in TOML")


def key_text(key: str) -> str:
    """Return one part of a dotted key, in quotes if it is not a bare word."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else inline(key)


def leaves(
    table: Mapping[str, Any], prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of everything in nested tables that is not a table."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def dotted(path: tuple[str, ...]) -> str:
    """Return a dotted key as TOML has it."""
    return ".".join(key_text(part) for part in path)
