"""Settings as users write them: ``key=value`` in TOML, fractions, bare words, and their types."""

import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from benchmark.config.eps import parse_budget
from benchmark.errors import UsageError

FRACTION = re.compile(r"(?<![\w\"'/.])(-?\d+(?:\.\d+)?/\d+(?:\.\d+)?)(?![\w\"'/.])")


def parse_change(text: str) -> dict[str, Any]:
    """Parse ``a.b=value`` of ``--set`` into nested tables.

    The value is TOML; a fraction such as ``8/255`` needs no quotes, nor does a single word.

    >>> parse_change("eps.linf=[0, 8/255]")
    {'eps': {'linf': [0, '8/255']}}
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not value.strip():
        raise UsageError(f"--set {text!r}: write it as key=value, for example training.epochs=2")
    try:
        return tomllib.loads(f"{key.strip()} = {_toml(value.strip())}")
    except (ValueError, RecursionError):
        raise UsageError(
            f"--set {text!r}: write it as key=value, for example training.epochs=2;"
            " a value is a number, true, false, a word, a list [0, 0.1] or a table {a = 1}"
        ) from None


def _toml(value: str) -> str:
    """Return ``value`` as TOML: as it is if it can be read so, a word in quotes if not."""
    for text in (value, FRACTION.sub(r'"\1"', value)):
        try:
            tomllib.loads(f"value = {text}")
            return text
        except (ValueError, RecursionError):
            continue
    return f'"{value}"' if re.fullmatch(r"[\w.:/@+-]+", value) else value


def fitted(value: Any, kind: Any) -> Any:
    """Return ``value`` as the annotation ``kind`` wants it; ValueError says what is expected.

    A fraction such as ``"8/255"`` becomes a float where a float is meant. An annotation that says
    nothing here (a class, a protocol, none) takes any value.
    """
    if kind is bool:
        return _of(value, isinstance(value, bool), "true or false")
    if kind is int:
        return _of(value, type(value) is int, "a whole number")
    if kind is float:
        try:
            return parse_budget(value) if isinstance(value, str) else _number(value)
        except ValueError:
            raise ValueError("a number") from None
    if kind is str:
        return _of(value, isinstance(value, str), "a word")
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        words = ", ".join(repr(word) for word in inner)
        return _of(value, value in inner, f"one of {words}")
    if origin in (Union, types.UnionType):
        return _one_of(value, inner)
    if origin in (list, tuple, Sequence):
        if not isinstance(value, list):
            raise ValueError("a list")
        return [fitted(each, inner[0]) for each in value] if inner else value
    if origin in (dict, Mapping) or kind in (dict, Mapping):
        return _of(value, isinstance(value, Mapping), "a table")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number")
    return value


def _of(value: Any, fits: bool, expected: str) -> Any:
    if not fits:
        raise ValueError(expected)
    return value


def _one_of(value: Any, kinds: Sequence[Any]) -> Any:
    expected = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return fitted(value, kind)
        except ValueError as error:
            expected.append(str(error))
    raise ValueError(" or ".join(expected))
