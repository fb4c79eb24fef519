"""What MkDocs does besides: titles of code blocks, the command line's page, a page per check."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = "<!-- commands: written by docs/site_tools/hooks.py -->"
CHECKS = "checks/*"
"""In the navigation: stands for a page of each check."""


def on_config(config: Any) -> Any:
    """List the checks' pages in the navigation, so that a new check is one function and one page.

    The strict build would name a page that nothing leads to.
    """
    config.nav = _expanded(config.nav)
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Give a block that names its file after the language a title; fill the command line's page."""
    markdown = re.sub(r"^```(\w+) (\S+)$", r'```\1 title="\2"', markdown, flags=re.MULTILINE)
    return markdown.replace(COMMANDS, commands()) if COMMANDS in markdown else markdown


def commands() -> str:
    """Return the commands and their options as Markdown, from the command line's own help."""
    sys.path.insert(0, str(ROOT))
    try:
        from typer.main import get_command

        from benchmark.cli import app
    finally:
        sys.path.remove(str(ROOT))
    group: Any = get_command(app)
    return "\n\n".join(_command(*named) for named in _flat(group.commands))


def _flat(named: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with its whole name, those of a group one by one."""
    for name, command in named.items():
        if hasattr(command, "commands"):
            yield from _flat(command.commands, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def _command(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    usage = [f"python -m benchmark {name}", *map(_argument, arguments), "[OPTIONS]"]
    about = " ".join((command.help or "").split())
    lines = [f"## {name}", "", about, "", "```text", " ".join(usage), "```", ""]
    lines += [_described(f"`{_argument(one)}`", one) for one in arguments]
    lines += [_described(", ".join(f"`{opt}`" for opt in one.opts), one) for one in options]
    return "\n".join(lines)


def _argument(one: Any) -> str:
    name = one.name.upper() + (" ..." if one.nargs == -1 else "")
    return name if one.required else f"[{name}]"


def _described(written: str, one: Any) -> str:
    about = " ".join((getattr(one, "help", "") or "").split())
    return f"- **{written}**{_default(one)}: {about}"


def _default(one: Any) -> str:
    """Return what stands behind an option's name: that it is needed, its default, or nothing."""
    if one.required:
        return " (needed)"
    value = one.default() if callable(one.default) else one.default
    return "" if value in (None, "", False, (), []) else f" (`{value}`)"


def _expanded(nav: Any) -> Any:
    if isinstance(nav, dict):
        return {title: _expanded(below) for title, below in nav.items()}
    if isinstance(nav, list):
        return [
            one
            for item in nav
            for one in ([*_check_pages()] if item == CHECKS else [_expanded(item)])
        ]
    return nav


def _check_pages() -> list[str]:
    found = sorted((ROOT / "docs" / "checks").glob("*.md"))
    return [f"checks/{path.name}" for path in found if path.name != "README.md"]
