"""The command line: one file per command.

Torch is imported inside the commands: help must answer at once.
"""

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from benchmark import __version__
from benchmark.cli.audit import audit
from benchmark.cli.crosscheck import crosscheck
from benchmark.cli.dimension import dimension
from benchmark.cli.evaluate import evaluate
from benchmark.cli.export import export
from benchmark.cli.leaderboard import leaderboard
from benchmark.cli.listing import list_names
from benchmark.cli.messages import say
from benchmark.cli.presets import app as presets_app
from benchmark.cli.report import report
from benchmark.cli.run import run
from benchmark.cli.speed import speed
from benchmark.errors import (
    MachineError,
    PluginError,
    UsageError,
    first_line,
    one_line,
)
from benchmark.machine_errors import AGAIN, UnwrittenError, fault_line
from benchmark.own_packages import settle

app = typer.Typer(
    name="defensebench",
    help="Train a defense, attack it over a sweep of eps, and report how sure each number is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (evaluate, run, audit, report, leaderboard, export, crosscheck, dimension, speed):
    app.command()(command)
app.command("list")(list_names)
app.add_typer(presets_app, name="presets")

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 all well, 1 some failed, 2 wrong usage."""
    if argv is None:  # the process is the command's own
        for sentence in settle():
            say(one_line(sentence))
    try:
        app(args=None if argv is None else list(argv))
    except UsageError as error:
        say(f"error: {one_line(str(error))}")
        sys.exit(WRONG_USAGE)
    except PluginError as error:
        say(f"error: {first_line(error)}")
        sys.exit(FAILED)
    except Exception as error:
        if isinstance(error, UnwrittenError):
            typer.echo(json.dumps(dict(error.result), indent=2))
        fault = fault_line(error)
        if not fault:  # a bug, whose traceback is needed
            raise
        kept = "" if isinstance(error, MachineError) else "; what was finished is kept"
        say(f"error: {one_line(fault)}{kept}; {AGAIN}")
        sys.exit(FAILED)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # Typer turns Ctrl-C into this
            say("stopped; what was finished is kept, and the same command goes on from there")
        raise


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"defensebench {__version__}")
        raise typer.Exit
