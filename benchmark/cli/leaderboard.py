"""The command ``leaderboard``: one ranking table over the models of many runs."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.messages import say
from benchmark.config.eps import parse_eps


def leaderboard(
    run_dirs: Annotated[
        list[Path], typer.Argument(help="Folders that run or evaluate made, damaged ones as well.")
    ],
    norm: Annotated[str, typer.Option(help="linf, l2, l1 or l0; all by default.")] = "",
    eps: Annotated[
        str, typer.Option(help="Budgets such as 4/255,8/255; else up to three in the middle.")
    ] = "",
    sort: Annotated[
        str, typer.Option(help="What ranks: worst, the worst case over all attacks, or clean.")
    ] = "worst",
    out: Annotated[Path | None, typer.Option(help="Folder for the page and its tables.")] = None,
) -> None:
    """Rank the models of many runs: HTML, Markdown and CSV."""
    budgets = parse_eps(eps) if eps.strip() else ()

    from reports.pages.leaderboard import write_leaderboard

    made = write_leaderboard(run_dirs, out, norm=norm, eps=budgets, sort=sort)
    for line in made.unread:
        say(line)
    for run, name, why in made.standings.left_out:
        say(f"{name} of {run} is left out: {why}")
    typer.echo(made.page)
