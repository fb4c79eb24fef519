"""The command ``dimension``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.messages import command_line, say
from benchmark.cli.options import AsJson, DataDir, Out


def dimension(
    dataset: Annotated[str, typer.Option(help="Dataset whose images are measured.")],
    n: Annotated[
        int | None, typer.Option(help="Images; 1,000 by default, or all if there are fewer.")
    ] = None,
    split: Annotated[str, typer.Option(help="Where the images are from: test or train.")] = "test",
    k1: Annotated[int, typer.Option(help="Fewest neighbours, 3 or more.")] = 6,
    k2: Annotated[int, typer.Option(help="Most neighbours.")] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the interval's draws.")] = 0,
    data_dir: DataDir = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Estimate the intrinsic dimension of a dataset's images, with an interval."""
    from benchmark.dimension.console import print_dimension
    from benchmark.dimension.measure import measure_dimension
    from benchmark.dimension.plan import DimensionSettings
    from benchmark.execution.unused_options import renamed
    from benchmark.plugins.names import canonical
    from benchmark.progress import ConsoleProgress
    from benchmark.registry import DATASETS

    settings = DimensionSettings(canonical(DATASETS, dataset), n, split, k1, k2, seed)
    for line in renamed("--dataset", dataset, settings.dataset):
        say(line)
    found, file = measure_dimension(
        settings, out=out, data_dir=data_dir, command=command_line(), progress=ConsoleProgress()
    )
    if as_json:
        typer.echo(json.dumps(found.result(), indent=2))
    else:
        print_dimension(found)
    say(f"results: {file}")
