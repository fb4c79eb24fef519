"""Docstrings are written in the little reST that Sphinx knows; the site renders Markdown.

A griffe extension for mkdocstrings turns the one into the other before a page is made: roles
become cross-references, double backticks code, and what follows a ``::`` a block of Python.
"""

import re
from collections.abc import Callable
from textwrap import dedent
from typing import Any

import griffe

Resolve = Callable[[str], str]
"""Returns the full path of a name as the docstring sees it; the name itself if there is none."""

_CODE = re.compile(r"(:(?P<role>[a-z]+):`(?P<name>[^`]+)`)|(``(?P<code>.+?)``)", re.DOTALL)
_LITERAL = re.compile(r"::\n\n(?P<block>(?:(?:[ ]{4}[^\n]*)?(?:\n|$))+)")


def to_markdown(docstring: str, resolve: Resolve = str) -> str:
    """Return a docstring (dedented) as Markdown for mkdocstrings."""
    parts, end = [], 0
    for match in _LITERAL.finditer(docstring):
        parts += [_inline(docstring[end : match.start()], resolve), ":\n\n"]
        parts += [f"```python\n{dedent(match['block']).strip()}\n```\n\n"]
        end = match.end()
    return "".join([*parts, _inline(docstring[end:], resolve)])


def _inline(text: str, resolve: Resolve) -> str:
    def replaced(match: re.Match[str]) -> str:
        if match["code"]:
            return f"`{' '.join(match['code'].split())}`"
        name = match["name"].lstrip("~.!")
        code = f"<code>{_shown(name, match['role'])}</code>"
        # Optional: a name without a page of its own stays code.
        return f'<autoref identifier="{resolve(name)}" optional>{code}</autoref>'

    return _CODE.sub(replaced, text)


def _shown(name: str, role: str) -> str:
    """Return a name without the modules that lead to it."""
    parts = name.split(".")
    if role == "mod":
        return name
    classes = [i for i, part in enumerate(parts) if part.lstrip("_")[:1].isupper()]
    return ".".join(parts[classes[0] :] if classes else parts[-1:])


class DocstringRoles(griffe.Extension):
    """Rewrites every docstring that griffe loads."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.is_alias or not obj.docstring:
            return

        def resolve(name: str) -> str:
            try:
                return str(obj.resolve(name))
            except (griffe.NameResolutionError, griffe.AliasResolutionError):
                return name

        obj.docstring.value = to_markdown(obj.docstring.value, resolve)
