"""The command ``audit``."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.messages import reported, say
from benchmark.cli.options import DataDir
from benchmark.results.audit_words import check_level


def audit(
    run_dir: Annotated[Path, typer.Argument(help="Folder that run made.")],
    level: Annotated[str, typer.Option(help="basic or full.")] = "full",
    data_dir: DataDir = None,
) -> None:
    """Ask whether a run's attacks can be believed: checks, stronger attacks, transfer, verdicts."""
    asked = check_level(level)

    from benchmark.cli.verdicts import audit_line, print_verdicts
    from benchmark.execution.audit_run import audit_run
    from benchmark.progress import ConsoleProgress
    from benchmark.results.run import read_spec
    from benchmark.training.supply import Supply, Trained

    progress = ConsoleProgress()
    supply: Supply = Trained(data_dir)
    if not read_spec(run_dir).trains:
        from benchmark.given.source import Source

        supply = Source.read(run_dir).subject(progress.say).supply
    audit_run(run_dir, level=asked, progress=progress, supply=supply)
    print_verdicts(run_dir)
    say(audit_line(run_dir))

    def write() -> Path:

        from reports.html import write_report

        return write_report([run_dir])

    if not reported(write, run_dir):
        raise typer.Exit(1)
