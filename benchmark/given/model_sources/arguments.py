"""``--model-args width=2,pretrained=true``: what a factory is called with."""

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from benchmark.config.attack_syntax import split_words
from benchmark.errors import UsageError, first_line, unknown_name

WORDS: Mapping[str, Any] = {"true": True, "false": False, "none": None}


def parse_args(text: str) -> dict[str, Any]:
    """Return the arguments in ``k=v,k=v``: numbers, true, false, none, lists; else words.

    >>> parse_args("width=2,pretrained=true,name=tiny,sizes=[1, 2]")
    {'width': 2, 'pretrained': True, 'name': 'tiny', 'sizes': [1, 2]}
    """
    found: dict[str, Any] = {}
    for word in split_words(text):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not key.isidentifier():
            raise UsageError(f"--model-args: {word!r} is not key=value, as in width=2")
        if key in found:
            raise UsageError(f"--model-args: {key} is given twice")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def called(make: Callable[..., Any], args: Mapping[str, Any], what: str) -> Any:
    """Return ``make(**args)``; UsageError for an argument that is none, or if it raises."""
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    if parameters and not takes_any:
        for key in args:
            if key not in parameters:
                raise unknown_name(f"argument of {what}", key, list(parameters))
    try:
        return make(**args)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what} failed: {first_line(error)}{_place(error)}") from None


def _place(error: Exception) -> str:
    """Return where in the user's file an exception was raised, in parentheses."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
