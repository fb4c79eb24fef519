"""The command ``speed``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.messages import command_line, reported, say, words
from benchmark.cli.options import AsJson, DataDir, Dataset, Device, Installed, NoCache, NTrain, Out


def speed(
    dataset: Dataset = "mnist",
    preset: Annotated[str, typer.Option(help="smoke, quick or paper.")] = "quick",
    defense: Annotated[str, typer.Option(help="The sweep's; the others' is undefended.")] = "madry",
    libraries: Installed = "",
    n: Annotated[int | None, typer.Option(help="Test images; up to 100 by default.")] = None,
    n_train: NTrain = None,
    repeats: Annotated[int, typer.Option(help="Turns of each library; medians count.")] = 3,
    tasks: Annotated[
        str, typer.Option(help="Comma-separated, of pgd, pgd_full (no early stopping), sweep, cw.")
    ] = "pgd,pgd_full,sweep,cw",
    levels: Annotated[int, typer.Option(help="How many eps the sweep has.")] = 16,
    no_cache: NoCache = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Time the in-house attacks beside other libraries' on one model, on this machine."""
    from benchmark.execution.plan import choose_device
    from benchmark.execution.unused_options import renamed
    from benchmark.progress import ConsoleProgress
    from benchmark.speed.console import print_speed
    from benchmark.speed.measure import measure_speed
    from benchmark.speed.plan import SpeedSettings, plan_speed
    from benchmark.training.model_cache import private_cache

    plan = plan_speed(
        SpeedSettings(
            dataset=dataset,
            preset=preset,
            defense=defense,
            device=choose_device(device),
            tasks=tuple(words(tasks)),
            libraries=tuple(words(libraries)),
            n=n,
            repeats=repeats,
            levels=levels,
            n_train=n_train,
        )
    )
    for line in (
        *renamed("--dataset", dataset, plan.settings.dataset),
        *renamed("--defense", defense, plan.settings.defense),
    ):
        say(line)
    for name, reason in plan.absent.items():
        say(f"{name}: not measured: {reason}")
    with private_cache(no_cache):
        found = measure_speed(
            plan, out=out, data_dir=data_dir, command=command_line(), progress=ConsoleProgress()
        )
    if as_json:
        typer.echo(json.dumps(dict(found.result), indent=2))
    else:
        print_speed(found.result)
    from reports.pages.speed import write_page

    if not reported(lambda: write_page(found.path), found.path) or found.failed:
        raise typer.Exit(1)
