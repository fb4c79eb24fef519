"""The command line. Torch is imported inside the commands: help must answer at once."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmark import __version__
from benchmark.attack_names import split_words
from benchmark.audit.words import LEVELS, check_level
from benchmark.budgets import parse_eps, parse_list
from benchmark.console import print_accuracies
from benchmark.errors import (
    MachineError,
    PluginError,
    UsageError,
    first_line,
    one_line,
    unknown_name,
)
from benchmark.faults import AGAIN, UnwrittenError, fault_line
from benchmark.own_packages import settle
from benchmark.spec import preset_names, read_preset
from benchmark.time_limit import DEFAULT_SECONDS, check_seconds

app = typer.Typer(
    name="defensebench",
    help="Train a defense, attack it over a sweep of eps, and report how sure each number is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 all well, 1 some failed, 2 wrong usage."""
    if argv is None:  # the process is the command's own
        for sentence in settle():
            _say(one_line(sentence))
    try:
        app(args=None if argv is None else list(argv))
    except UsageError as error:
        _say(f"error: {one_line(str(error))}")
        sys.exit(WRONG_USAGE)
    except PluginError as error:
        _say(f"error: {first_line(error)}")
        sys.exit(FAILED)
    except Exception as error:
        if isinstance(error, UnwrittenError):
            typer.echo(json.dumps(dict(error.result), indent=2))
        fault = fault_line(error)
        if not fault:  # a bug, whose traceback is needed
            raise
        kept = "" if isinstance(error, MachineError) else "; what was finished is kept"
        _say(f"error: {one_line(fault)}{kept}; {AGAIN}")
        sys.exit(FAILED)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # Typer turns Ctrl-C into this
            _say("stopped; what was finished is kept, and the same command goes on from there")
        raise


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"defensebench {__version__}")
        raise typer.Exit


@app.command()
def run(
    dataset: Annotated[str, typer.Option(help="Dataset to train and attack on.")],
    defenses: Annotated[
        str, typer.Option(help="Comma-separated names, or all: with --study, all of the study's.")
    ] = "all",
    study: Annotated[
        str,
        typer.Option(
            help="One option over several values: a study that the preset has for the dataset,"
            " such as embedding-dim or lambda."
        ),
    ] = "",
    attacks: Annotated[
        str,
        typer.Option(
            help="Comma-separated names; the preset's by default. Any attack of a library by its"
            " class: art:DeepFool, torchattacks:APGD(steps=50)."
        ),
    ] = "",
    libraries: Annotated[
        str, typer.Option(help="Comma-separated attack libraries; inhouse by default.")
    ] = "",
    preset: Annotated[
        str, typer.Option(help="smoke, quick or paper; paper where CUDA is, else quick.")
    ] = "",
    eps: Annotated[
        str, typer.Option(help="Budgets such as 0,0.1,8/255 in place of the preset's.")
    ] = "",
    n_train: Annotated[int | None, typer.Option(help="Training images, class-balanced.")] = None,
    n_test: Annotated[int | None, typer.Option(help="Test images, class-balanced.")] = None,
    seeds: Annotated[
        str, typer.Option(help="Comma-separated; each trains and attacks once.")
    ] = "0",
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Attack every image from scratch at every eps, to compare with other libraries:"
            " slower, and on most models no lower.",
        ),
    ] = False,
    audit: Annotated[
        str,
        typer.Option(
            help="Ask whether the attacks can be believed. basic: cheap checks; full: stronger"
            " attacks and transferred images as well; off."
        ),
    ] = "basic",
    time_limit: Annotated[
        float,
        typer.Option(
            help="Seconds that one training, or one cell's attack, may take before it fails and"
            " the run goes on; 0 for no limit."
        ),
    ] = DEFAULT_SECONDS,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Train every model afresh, and leave the cache of trained models alone. Cells"
            " of a model that comes out otherwise than before are computed again.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of Parquet mirrors; else BENCHMARK_DATA_DIR.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
) -> None:
    """Train the defenses, attack them over the eps sweep, write the tables and the report."""
    budgets = parse_eps(eps) if eps.strip() else None
    seed_list = _whole_numbers(seeds, "--seeds")
    check_seconds(time_limit)
    check_level(audit, ("off", *LEVELS))
    if preset and preset not in preset_names():
        raise unknown_name("preset", preset, preset_names())

    from benchmark.audit.command import audit_full, audit_line
    from benchmark.checkpoints import private_cache
    from benchmark.plan import choose_device, plan
    from benchmark.progress import ConsoleProgress
    from benchmark.remarks import remarks
    from benchmark.runner import run as run_spec

    device = choose_device(device)
    chosen = preset or ("paper" if device == "cuda" else "quick")
    why = "asked for" if preset else f"the default on {device}"
    asked = {
        "defenses": _words(defenses) or ["all"],
        "attacks": split_words(attacks),
        "libraries": _words(libraries),
    }
    spec = plan(
        **asked,
        dataset=dataset,
        preset=chosen,
        device=device,
        eps=budgets,
        n_train=n_train,
        n_test=n_test,
        seeds=seed_list,
        study=study.strip(),
        exact=exact,
    )
    _say(f"preset {chosen} ({why}): {read_preset(chosen)['description']}")
    if budgets and list(budgets) != parse_list(eps):
        _say(f"eps sorted, repetitions dropped: {', '.join(f'{value:g}' for value in budgets)}")
    if spec.study:
        _say(f"study {spec.study}: {', '.join(defense.name for defense in spec.defenses)}")
    for remark in remarks(spec, dataset=dataset, **asked, eps=budgets, n_test=n_test):
        _say(remark)
    _say(f"run folder: {out / spec.run_id}")
    with private_cache(no_cache):
        result = run_spec(
            spec,
            out=out,
            data_dir=data_dir,
            command=_command(),
            progress=ConsoleProgress(),
            time_limit=time_limit,
            audit=audit != "off",
            retrain=no_cache,
        )
        if audit == "full":
            audit_full(result.path, data_dir=data_dir, progress=ConsoleProgress())
    if result.was_complete:
        _say("complete: every cell of this run is there; nothing was computed")
    print_accuracies(result.cells)
    if told := audit_line(result.path):
        _say(told)
    page = result.path / "report" / "report.html"

    def write() -> Path:
        if result.was_complete and _is_newer(page, *result.path.glob("*.parquet")):
            return page
        from reports.html import write_report

        return write_report([result.path])

    reported = _report(write, result.path)
    if result.n_failed:
        _say(f"{result.n_failed} of {len(result.cells)} cells failed; the report says why")
    if result.n_failed or not reported:
        raise typer.Exit(FAILED)


@app.command()
def audit(
    run_dir: Annotated[Path, typer.Argument(help="Folder that run made.")],
    level: Annotated[str, typer.Option(help="basic or full.")] = "full",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of Parquet mirrors; else BENCHMARK_DATA_DIR.")
    ] = None,
) -> None:
    """Ask whether a run's attacks can be believed: checks, stronger attacks, transfer, verdicts."""
    asked = check_level(level)

    from benchmark.audit.command import audit_line, audit_run, print_verdicts
    from benchmark.progress import ConsoleProgress

    audit_run(run_dir, level=asked, data_dir=data_dir, progress=ConsoleProgress())
    print_verdicts(run_dir)
    _say(audit_line(run_dir))

    def write() -> Path:
        from reports.html import write_report

        return write_report([run_dir])

    if not _report(write, run_dir):
        raise typer.Exit(FAILED)


@app.command()
def report(
    run_dirs: Annotated[list[Path], typer.Argument(help="Folders that run made.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report.")] = None,
) -> None:
    """Write the report of one or several runs: HTML, PNG, SVG, CSV and LaTeX."""
    from reports.html import write_report

    typer.echo(write_report(run_dirs, out))


@app.command()
def crosscheck(
    dataset: Annotated[str, typer.Option(help="Dataset to train and attack on.")],
    attack: Annotated[str, typer.Option(help="One attack, for example pgd or cw.")],
    defense: Annotated[str, typer.Option(help="One defense.")] = "undefended",
    libraries: Annotated[
        str, typer.Option(help="Comma-separated; all that are installed by default.")
    ] = "",
    preset: Annotated[
        str, typer.Option(help="smoke, quick or paper; paper where CUDA is, else quick.")
    ] = "",
    n: Annotated[int | None, typer.Option(help="Test images; up to 256 by default.")] = None,
    n_train: Annotated[int | None, typer.Option(help="Training images, class-balanced.")] = None,
    eps: Annotated[
        str, typer.Option(help="Budgets such as 0,0.1,8/255 in place of the preset's.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the model and of random starts.")] = 0,
    random_start: Annotated[
        bool, typer.Option("--random-start", help="PGD starts at a random point of the ball.")
    ] = False,
    best_iterate: Annotated[
        bool, typer.Option("--best-iterate", help="In-house PGD returns its best, not its last.")
    ] = False,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Train every model afresh, and leave the cache of trained models alone.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of Parquet mirrors; else BENCHMARK_DATA_DIR.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where result folders go.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run one attack in several libraries on one model and say where and why they disagree."""
    budgets = parse_eps(eps) if eps.strip() else None
    if preset and preset not in preset_names():
        raise unknown_name("preset", preset, preset_names())

    from benchmark.checkpoints import private_cache
    from benchmark.crosscheck.check import crosscheck as check
    from benchmark.crosscheck.console import print_crosscheck
    from benchmark.crosscheck.plan import plan_crosscheck
    from benchmark.plan import choose_device
    from benchmark.progress import ConsoleProgress
    from benchmark.remarks import renamed

    device = choose_device(device)
    chosen = preset or ("paper" if device == "cuda" else "quick")
    plan = plan_crosscheck(
        dataset=dataset,
        defense=defense,
        attack=attack,
        preset=chosen,
        device=device,
        libraries=_words(libraries),
        eps=budgets,
        n=n,
        n_train=n_train,
        seed=seed,
        random_start=random_start,
        best_iterate=best_iterate,
    )
    _say(f"preset {chosen} ({'asked for' if preset else f'the default on {device}'})")
    for line in (
        *renamed("--dataset", dataset, plan.spec.dataset),
        *renamed("--defense", defense, plan.spec.defenses[0].name),
        *renamed("--attack", attack, plan.spec.attacks[0].name),
    ):
        _say(line)
    for name, reason in plan.absent.items():
        _say(f"{name}: not run: {reason}")
    with private_cache(no_cache):
        found, was_there = check(
            plan,
            out=out,
            data_dir=data_dir,
            command=_command(),
            progress=ConsoleProgress(),
            again=no_cache,
        )
    if was_there:
        _say("complete: this cross-check is there; nothing was computed")
    if as_json:
        typer.echo(json.dumps(dict(found.result), indent=2))
    else:
        print_crosscheck(found)
    page = found.path / "crosscheck.html"

    def write() -> Path:
        if was_there and _is_newer(page, found.path / "crosscheck.json"):
            return page
        from reports.crosscheck import write_page

        return write_page(found.path)

    if not _report(write, found.path) or found.failed:
        raise typer.Exit(FAILED)


@app.command()
def dimension(
    dataset: Annotated[str, typer.Option(help="Dataset whose images are measured.")],
    n: Annotated[
        int | None, typer.Option(help="Images; 1,000 by default, or all if there are fewer.")
    ] = None,
    split: Annotated[str, typer.Option(help="Where the images are from: test or train.")] = "test",
    k1: Annotated[int, typer.Option(help="Fewest neighbours, 3 or more.")] = 6,
    k2: Annotated[int, typer.Option(help="Most neighbours.")] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the interval's draws.")] = 0,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of Parquet mirrors; else BENCHMARK_DATA_DIR.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where result folders go.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Estimate the intrinsic dimension of a dataset's images, with an interval."""
    from benchmark.dimension_study import DimensionSettings, measure_dimension, print_dimension
    from benchmark.naming import canonical
    from benchmark.progress import ConsoleProgress
    from benchmark.registry import DATASETS
    from benchmark.remarks import renamed

    settings = DimensionSettings(canonical(DATASETS, dataset), n, split, k1, k2, seed)
    for line in renamed("--dataset", dataset, settings.dataset):
        _say(line)
    found, file = measure_dimension(
        settings, out=out, data_dir=data_dir, command=_command(), progress=ConsoleProgress()
    )
    if as_json:
        typer.echo(json.dumps(found.result(), indent=2))
    else:
        print_dimension(found)
    _say(f"results: {file}")


@app.command()
def speed(
    dataset: Annotated[str, typer.Option(help="Dataset to train and attack on.")] = "mnist",
    preset: Annotated[str, typer.Option(help="smoke, quick or paper.")] = "quick",
    defense: Annotated[str, typer.Option(help="The sweep's; the others' is undefended.")] = "madry",
    libraries: Annotated[
        str, typer.Option(help="Comma-separated; all that are installed by default.")
    ] = "",
    n: Annotated[int | None, typer.Option(help="Test images; up to 100 by default.")] = None,
    n_train: Annotated[int | None, typer.Option(help="Training images, class-balanced.")] = None,
    repeats: Annotated[int, typer.Option(help="Turns of each library; medians count.")] = 3,
    tasks: Annotated[
        str, typer.Option(help="Comma-separated, of pgd, pgd_full (no early stopping), sweep, cw.")
    ] = "pgd,pgd_full,sweep,cw",
    levels: Annotated[int, typer.Option(help="How many eps the sweep has.")] = 16,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Train every model afresh, and leave the cache of trained models alone.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of Parquet mirrors; else BENCHMARK_DATA_DIR.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where result folders go.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Time the in-house attacks beside other libraries' on one model, on this machine."""
    from benchmark.checkpoints import private_cache
    from benchmark.plan import choose_device
    from benchmark.progress import ConsoleProgress
    from benchmark.remarks import renamed
    from benchmark.speed import measure_speed
    from benchmark.speed_console import print_speed
    from benchmark.speed_tasks import SpeedSettings, plan_speed

    plan = plan_speed(
        SpeedSettings(
            dataset=dataset,
            preset=preset,
            defense=defense,
            device=choose_device(device),
            tasks=tuple(_words(tasks)),
            libraries=tuple(_words(libraries)),
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
        _say(line)
    for name, reason in plan.absent.items():
        _say(f"{name}: not measured: {reason}")
    with private_cache(no_cache):
        found = measure_speed(
            plan, out=out, data_dir=data_dir, command=_command(), progress=ConsoleProgress()
        )
    if as_json:
        typer.echo(json.dumps(dict(found.result), indent=2))
    else:
        print_speed(found.result)
    from reports.speed import write_page

    if not _report(lambda: write_page(found.path), found.path) or found.failed:
        raise typer.Exit(FAILED)


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(help="defenses, attacks, datasets or presets.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List what is installed: defenses, attacks, datasets and presets."""
    from benchmark.listing import Kind, print_names

    if what and what not in list(Kind):
        raise unknown_name("list", what, list(Kind))
    print_names([Kind(what)] if what else list(Kind), as_json=as_json)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _whole_numbers(text: str, option: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError:
        raise UsageError(f"{option}: {text!r} is no list of whole numbers such as 0,1,2") from None


def _report(write: Callable[[], Path], kept: Path) -> bool:
    """Write a report and tell whether that went well; the results are kept either way."""
    try:
        _say(f"report: {write()}")
    except (UsageError, MachineError, OSError, MemoryError) as error:
        why = fault_line(error) or " ".join(str(error).split())
        _say(f"no report: {why}; the results are kept in {kept}; {AGAIN}")
        return False
    return True


def _is_newer(page: Path, *results: Path) -> bool:
    written = [path.stat().st_mtime_ns for path in results]
    return page.exists() and page.stat().st_mtime_ns >= max(written)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _command() -> str:
    return f"python -m benchmark {shlex.join(sys.argv[1:])}"
