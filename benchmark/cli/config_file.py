"""``--config run.toml``: a whole command line in a file; what is typed beside it wins.

The keys are the command's long options without their dashes. Paths in it are relative to the
folder in which the command is given, as on the command line.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from benchmark.config.presets import read_toml
from benchmark.config.toml_text import dotted, inline, leaves
from benchmark.errors import UsageError, unknown_name


def fill_defaults(context: typer.Context, path: Path | None) -> Path | None:
    """Let the command's options default to what ``path`` holds; for an eager option's callback.

    UsageError names a key that is no option of the command.
    """
    if path is None or context.resilient_parsing:
        return path
    options = {
        word.removeprefix("--").replace("-", "_"): parameter
        for parameter in context.command.params
        for word in parameter.opts
        if word.startswith("--") and word not in ("--config", "--help")
    }
    found: dict[str, Any] = {}
    for key, value in read_toml(path, "--config").items():
        name = key.replace("-", "_")
        if name not in options:
            error = unknown_name("option", key, [each.replace("_", "-") for each in options])
            raise UsageError(f"--config {path}: {error}")
        parameter = options[name]
        found[str(parameter.name)] = _as_typed(f"--config {path}: {key}", value, parameter)
    context.default_map = {**(context.default_map or {}), **found}
    return path


def _as_typed(where: str, value: Any, parameter: Any) -> Any:
    """Return a TOML value as the words that one would type."""
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(f"{where} must be true or false, got {value!r}")
        return value
    if getattr(parameter, "multiple", False):
        if isinstance(value, Mapping):
            return [f"{dotted(path)}={inline(own)}" for path, own in leaves(value)]
        return [_word(where, each) for each in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        return ",".join(_word(where, each) for each in value)
    return _word(where, value)


def _word(where: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{where} must be a word, a number or a list of them, got {value!r}")
    return str(value)
