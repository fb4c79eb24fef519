"""What the commands share besides options: words in, lines out, and the report at the end."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from benchmark.errors import MachineError, UsageError
from benchmark.machine_errors import AGAIN, fault_line


def words(text: str) -> list[str]:
    """Return the comma-separated words of an option."""
    return [word.strip() for word in text.split(",") if word.strip()]


def whole_numbers(text: str, option: str) -> list[int]:
    """Return the comma-separated whole numbers of an option; UsageError if one is not whole."""
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise UsageError(
            f"{option}: {text!r} is not a list of whole numbers such as 0,1,2"
        ) from None


def reported(write: Callable[[], Path], kept: Path) -> bool:
    """Write a report and tell whether that went well; the results are kept either way."""
    try:
        say(f"report: {write()}")
    except (UsageError, MachineError, OSError, MemoryError) as error:
        why = fault_line(error) or " ".join(str(error).split())
        say(f"no report: {why}; the results are kept in {kept}; {AGAIN}")
        return False
    return True


def is_newer(page: Path, *results: Path) -> bool:
    """Tell whether a report was written after all of its results."""
    written = [path.stat().st_mtime_ns for path in results]
    return page.exists() and page.stat().st_mtime_ns >= max(written)


def say(text: str) -> None:
    """Print a line for the user on standard error."""
    typer.echo(text, err=True)


def command_line() -> str:
    """Return the command as the user can type it again."""
    return f"python -m benchmark {shlex.join(sys.argv[1:])}"
