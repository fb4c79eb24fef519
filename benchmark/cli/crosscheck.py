"""The command ``crosscheck``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.messages import command_line, is_newer, reported, say, words
from benchmark.cli.options import (
    AsJson,
    Config,
    DataDir,
    Dataset,
    Device,
    Eps,
    Installed,
    NoCache,
    NTrain,
    Out,
    Preset,
    Set,
    parse_changes,
)
from benchmark.config.eps import parse_eps
from benchmark.config.presets import lineage


def crosscheck(
    dataset: Dataset,
    attack: Annotated[str, typer.Option(help="One attack, for example pgd or cw.")],
    defense: Annotated[str, typer.Option(help="One defense.")] = "undefended",
    libraries: Installed = "",
    preset: Preset = "",
    n: Annotated[int | None, typer.Option(help="Test images; up to 256 by default.")] = None,
    n_train: NTrain = None,
    eps: Eps = "",
    seed: Annotated[int, typer.Option(help="Seed of the model and of random starts.")] = 0,
    random_start: Annotated[
        bool, typer.Option("--random-start", help="PGD starts at a random point of the ball.")
    ] = False,
    best_iterate: Annotated[
        bool, typer.Option("--best-iterate", help="In-house PGD returns its best, not its last.")
    ] = False,
    no_cache: NoCache = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    out: Out = Path("runs"),
    as_json: AsJson = False,
    set_: Set = None,
    config: Config = None,
) -> None:
    """Run one attack in several libraries on one model and say where and why they disagree."""
    budgets = parse_eps(eps) if eps.strip() else None
    if preset:
        lineage(preset)
    changes = parse_changes(set_)

    from benchmark.crosscheck.console import print_crosscheck
    from benchmark.crosscheck.measure import crosscheck as check
    from benchmark.crosscheck.plan import plan_crosscheck
    from benchmark.execution.plan import choose_device
    from benchmark.execution.unused_changes import remarks_on_changes
    from benchmark.execution.unused_options import renamed
    from benchmark.progress import ConsoleProgress
    from benchmark.training.model_cache import private_cache

    device = choose_device(device)
    chosen = preset or ("paper" if device == "cuda" else "quick")
    plan = plan_crosscheck(
        dataset=dataset,
        defense=defense,
        attack=attack,
        preset=chosen,
        device=device,
        libraries=words(libraries),
        eps=budgets,
        n=n,
        n_train=n_train,
        seed=seed,
        random_start=random_start,
        best_iterate=best_iterate,
        changes=changes,
    )
    say(f"preset {chosen} ({'asked for' if preset else f'the default on {device}'})")
    for line in (
        *remarks_on_changes(changes, plan.spec),
        *renamed("--dataset", dataset, plan.spec.dataset),
        *renamed("--defense", defense, plan.spec.defenses[0].name),
        *renamed("--attack", attack, plan.spec.attacks[0].name),
    ):
        say(line)
    for name, reason in plan.absent.items():
        say(f"{name}: not run: {reason}")
    with private_cache(no_cache):
        found, was_there = check(
            plan,
            out=out,
            data_dir=data_dir,
            command=command_line(),
            progress=ConsoleProgress(),
            again=no_cache,
        )
    if was_there:
        say("complete: this cross-check is there; nothing was computed")
    if as_json:
        typer.echo(json.dumps(dict(found.result), indent=2))
    else:
        print_crosscheck(found)
    page = found.path / "crosscheck.html"

    def write() -> Path:
        if was_there and is_newer(page, found.path / "crosscheck.json"):
            return page
        from reports.pages.crosscheck import write_page

        return write_page(found.path)

    if not reported(write, found.path) or found.failed:
        raise typer.Exit(1)
