"""Attacks of a library by their class name: ``art:DeepFool``, ``torchattacks:APGD(steps=50)``.

Parameters are keywords with Python literals as values; nothing is ever evaluated.
"""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from benchmark.config.threat import NORMS
from benchmark.errors import UsageError, unknown_name

HARNESS = {
    "eps": "budgets come from the preset or --eps",
    "n": "the number of images comes from the preset or --n-test",
    "type": "it is the name before the parentheses",
}
"""Words that the harness keeps for itself, with where they are set."""

SEEING: dict[str, type] = {"eot": int, "bpda": bool}
"""How an attack looks at the defense, which the harness does for it: fresh draws of the defense's
noise per query, and the gradient of its stand-in."""


@dataclass(frozen=True)
class NamedAttack:
    """A class of an attack library with the parameters that the user gave; ``text`` names it."""

    library: str
    cls: str
    text: str
    params: Mapping[str, Any]

    def settings(self, adapter: Any) -> dict[str, Any]:
        """Return the attack's settings; UsageError names a parameter that ``adapter`` lacks."""
        known = [item.name for item in fields(adapter)]
        if self.params.get("norm", NORMS[0]) not in NORMS:
            raise unknown_name("norm", str(self.params["norm"]), NORMS)
        for key, value in self.params.items():
            if key in SEEING and key not in known:
                if type(value) is not SEEING[key]:
                    kind = "a whole number" if SEEING[key] is int else "True or False"
                    raise UsageError(f"{self.library}:{self.text}: {key} must be {kind}")
                continue
            if key in HARNESS and key not in known:
                raise UsageError(
                    f"{self.library}:{self.text}: {key} is not set here; {HARNESS[key]}"
                )
            if key not in known:
                raise unknown_name(f"parameter of {self.library}:{self.cls}", key, known)
        return {**self.params, "type": self.cls}


def split_words(text: str) -> list[str]:
    """Split at the commas that stand outside parentheses, brackets and quotes.

    >>> split_words("pgd, torchattacks:APGD(steps=50, norm='L2'),cw")
    ['pgd', "torchattacks:APGD(steps=50, norm='L2')", 'cw']
    """
    words, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth <= 0:
            words.append("")
            continue
        words[-1] += character
    return [word.strip() for word in words if word.strip()]


def parse_named(word: str) -> NamedAttack | None:
    """Parse ``library:Class`` or ``library:Class(key=value, ...)``; None for any other word.

    A dot or a second colon makes it the path of an attack in a package (``package.module:Class``).
    """
    # The harness's own attacks have hyphens in their names.
    match = re.fullmatch(r"(inhouse):\s*([A-Za-z][\w-]*)\s*(\(.*\))?", word, re.DOTALL)
    match = match or re.fullmatch(r"([A-Za-z][\w-]*):\s*([A-Za-z]\w*)\s*(\(.*\))?", word, re.DOTALL)
    if match is None:
        if re.match(r"[\w-]+:\w+\s*\(", word):
            raise UsageError(f"attack {word!r}: write it as library:Class(key=value, key=value)")
        return None
    library, cls, arguments = match.groups()
    params = _keywords(word, arguments) if arguments else {}
    inside = ", ".join(f"{key}={value!r}" for key, value in params.items())
    return NamedAttack(library, cls, f"{cls}({inside})" if inside else cls, params)


def _keywords(word: str, arguments: str) -> dict[str, Any]:
    """Return the keyword arguments in ``arguments``, such as ``(steps=50, norm='L2')``."""
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UsageError(f"attack {word!r}: the parentheses do not hold key=value, ...") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise UsageError(f"attack {word!r}: parameters are given by name, as in (steps=50)")
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise UsageError(f"attack {word!r}: parameters are given by name, as in (steps=50)")
        try:
            # By way of JSON, which the run's spec is kept in: tuples become lists.
            found[keyword.arg] = json.loads(json.dumps(ast.literal_eval(keyword.value)))
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise UsageError(
                f"attack {word!r}: the value of {keyword.arg} must be a number, a word in quotes,"
                " True, False, None or a list of these"
            ) from None
    return found
