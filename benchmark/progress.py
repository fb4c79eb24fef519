"""What the user sees while a long step runs: a bar with the time left, and plain lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBar

from benchmark.console import plain_console


class Advance(Protocol):
    """What moves a bar on."""

    def __call__(self, steps: int = 1, status: str | None = None) -> None:
        """Move on by ``steps`` and, when given, replace the status text behind the bar."""


class Progress:
    """Shows nothing: for tests, libraries and ``--json``."""

    def say(self, text: str) -> None:
        """Tell the user one line."""

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Open a bar of ``total`` steps; the value is a function that advances it."""

        def advance(steps: int = 1, status: str | None = None) -> None:
            return None

        yield advance


class ConsoleProgress(Progress):
    """Shows bars with an estimate of the time left, on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or plain_console(stderr=True)

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(text, markup=False, emoji=False, soft_wrap=True)

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Open a bar that disappears when its step ends; a log file gets the lines only."""
        if not self.console.is_terminal:
            with super().task(description, total) as advance:
                yield advance
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
        )
        with RichBar(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(description, total=total, status="")

            def move(steps: int = 1, status: str | None = None) -> None:
                fields = {} if status is None else {"status": status}
                bar.update(task, advance=steps, **fields)  # type: ignore[arg-type]

            yield move
