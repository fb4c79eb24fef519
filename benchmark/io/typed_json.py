"""Dataclasses from JSON: every field of the type that it is declared with, or a clear line."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def known(kind: Any, raw: Any) -> Any:
    """Return ``raw`` without the keys that the dataclass ``kind`` has not: a newer version's."""
    if not isinstance(raw, dict):
        return raw
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in raw.items() if key in names}


def build(kind: Any, raw: Any, where: str) -> Any:
    """Return ``raw`` (plain data) as ``kind``: a dataclass of such, a tuple, a mapping or a word.

    TypeError names the first place, below ``where``, that is of another type, lacks or is unknown.
    """
    if is_dataclass(kind):
        return _dataclass(kind, raw, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        (other,) = (each for each in inner if each is not NoneType)
        return None if raw is None else build(other, raw, where)
    if origin is tuple:
        items = _of(list, raw, where, "a list")
        return tuple(build(inner[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is list:
        return _of(list, raw, where, "a list")
    if origin is Mapping:
        return _of(dict, raw, where, "an object")
    if kind is not bool and isinstance(raw, bool):  # which Python counts among the whole numbers
        raise TypeError(f"{where} is {raw}, not {WORDS[kind]}")
    return _of((int, float) if kind is float else kind, raw, where, WORDS[kind])


def _dataclass(kind: Any, raw: Any, where: str) -> Any:
    items = _of(dict, raw, where, "an object")
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for name in items:
        if name not in known:
            raise TypeError(f"{where} has an unknown key {name[:40]!r}")
    return kind(
        **{name: build(hints[name], item, f"{where}.{name}") for name, item in items.items()}
    )


def _of(kind: Any, raw: Any, where: str, word: str) -> Any:
    if not isinstance(raw, kind):
        raise TypeError(f"{where} is {repr(raw)[:40]}, not {word}")
    return raw
