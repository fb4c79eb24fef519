"""Plain data as YAML in blocks: what a model card needs of it, read alike by YAML 1.1 and 1.2.

Strings stand in double quotes, so that none is taken for a number, a date or ``no``.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def to_yaml(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return a mapping or list of mappings, lists, strings, numbers, booleans and None as YAML.

    ValueError for a number that is not finite, TypeError for anything else.
    """
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> list[str]:
    """Return the lines of a mapping or list that is not empty, without indentation."""
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, item in value.items():
            head = f"{_key(str(key))}:"
            lines += _under(head, item, indent="  ")
    else:
        for item in value:
            below = _lines(item) if _is_block(item) else [_scalar(item)]
            lines += [f"- {below[0]}", *(f"  {line}" for line in below[1:])]
    return lines


def _under(head: str, item: Any, *, indent: str) -> list[str]:
    if not _is_block(item):
        return [f"{head} {_scalar(item)}"]
    return [head, *(f"{indent}{line}" for line in _lines(item))]


def _is_block(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple) and bool(value)


def _key(text: str) -> str:
    plain = (
        text.replace("_", "").replace("-", "").isalnum() and text.isascii() and text[0].isalpha()
    )
    return text if plain and text.lower() not in _WORDS else _quoted(text)


_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
"""What YAML 1.1 does not read as a string."""


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no finite number")
        text = repr(value)
        # YAML 1.1 takes 1e-05 for a string.
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    raise TypeError(f"{type(value).__name__} has no place in YAML here")


def _quoted(text: str) -> str:
    """Return ``text`` in double quotes; what does not print is escaped."""
    escaped = "".join(
        "\\" + c if c in '\\"' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text
    )
    return f'"{escaped}"'
