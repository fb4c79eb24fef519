"""The command ``report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run_dirs: Annotated[list[Path], typer.Argument(help="Folders that run made.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report.")] = None,
) -> None:
    """Write the report of one or several runs: HTML, PNG, SVG, CSV and LaTeX."""
    from reports.html import write_report

    typer.echo(write_report(run_dirs, out))
