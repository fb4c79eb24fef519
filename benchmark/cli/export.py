"""The command ``export``: a run's numbers for a model card or for RobustBench."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.config.eps import parse_eps
from benchmark.errors import UsageError


def export(
    run_dir: Annotated[Path, typer.Argument(help="A folder that run or evaluate made.")],
    to: Annotated[
        str,
        typer.Option(
            help="model-index: YAML for a Hugging Face model card; robustbench: JSON fields of its"
            " model_info."
        ),
    ],
    eps: Annotated[
        str, typer.Option(help="The one budget of robustbench; 8/255 or 0.5, else the largest.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="A file .yaml or .json; any other name is a folder, for a file per model. Else"
            " shown."
        ),
    ] = None,
) -> None:
    """Write a run's numbers as a model card's model-index or as RobustBench's fields."""
    budgets = parse_eps(eps) if eps.strip() else ()
    if len(budgets) > 1 or (budgets and not budgets[0] > 0):
        raise UsageError(f"--eps: {eps!r} is not one budget above 0, such as 8/255")

    from reports.exports.write import export_run

    text, files = export_run(run_dir, to, out, eps=budgets[0] if budgets else None)
    if out is None:
        typer.echo(text, nl=False)
    for path in files:
        typer.echo(path)
