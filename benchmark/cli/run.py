"""The command ``run``: train the defenses, attack them, write the tables and the report."""

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.growing import grown_spec
from benchmark.cli.messages import command_line, is_newer, reported, say, whole_numbers, words
from benchmark.cli.options import (
    Config,
    DataDir,
    Dataset,
    Device,
    Eps,
    Log,
    NTrain,
    Out,
    Preset,
    Set,
    parse_changes,
)
from benchmark.config import presets
from benchmark.config.attack_syntax import split_words
from benchmark.config.eps import parse_eps, parse_list
from benchmark.console import print_accuracies
from benchmark.errors import UsageError
from benchmark.plugins.time_limit import DEFAULT_SECONDS, check_seconds
from benchmark.results.audit_words import LEVELS, check_level


def run(
    dataset: Dataset = "",
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
    preset: Preset = "",
    eps: Eps = "",
    n_train: NTrain = None,
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
    device: Device = "auto",
    data_dir: DataDir = None,
    out: Out = Path("runs"),
    set_: Set = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            metavar="defenses=NAMES",
            help="With --to: grow a run by defenses=..., attacks=... or seeds=...; what is there"
            " stays as it is.",
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="With --add: the run's folder.")] = None,
    log: Log = "",
    config: Config = None,
) -> None:
    """Train the defenses, attack them over the eps sweep, write the tables and the report."""
    budgets = parse_eps(eps) if eps.strip() else None
    seed_list = whole_numbers(seeds, "--seeds")
    check_seconds(time_limit)
    check_level(audit, ("off", *LEVELS))
    if preset:
        presets.lineage(preset)
    changes = parse_changes(set_)

    from benchmark.cli.verdicts import audit_line
    from benchmark.execution.audit_run import audit_full
    from benchmark.execution.grow import grown_since
    from benchmark.execution.plan import choose_device, plan
    from benchmark.execution.runner import run as run_spec
    from benchmark.execution.unused_changes import remarks_on_changes
    from benchmark.execution.unused_options import remarks
    from benchmark.progress import ConsoleProgress
    from benchmark.tracking.loader import load_trackers
    from benchmark.tracking.session import tracked
    from benchmark.training.model_cache import private_cache
    from benchmark.training.supply import Trained

    trackers = load_trackers(words(log))
    device_asked, device = device, choose_device(device)
    supply = Trained(data_dir)
    chosen = preset or ("paper" if device == "cuda" else "quick")
    why = "asked for" if preset else f"the default on {device}"
    asked: dict[str, list[str]] = {
        "defenses": words(defenses) or ["all"],
        "attacks": split_words(attacks),
        "libraries": words(libraries),
    }
    if add or to:
        given = {
            "--dataset": dataset,
            "--defenses": defenses != "all",
            "--attacks": attacks,
            "--eps": eps,
            "--n-train": n_train,
            "--n-test": n_test,
            "--seeds": seeds != "0",
            "--study": study,
            "--exact": exact,
            "--device": device_asked != "auto",
            "--out": out != Path("runs"),
        }
        spec = grown_spec(
            add or (),
            to,
            given=given,
            preset=preset,
            changes=changes,
            libraries=asked["libraries"],
        )
        assert to is not None
        out = to.parent
        parts = (("defenses", spec.defenses), ("attacks", spec.attacks), ("seeds", spec.seeds))
        say(f"the run now has {', '.join(f'{len(many)} {name}' for name, many in parts)}")
    else:
        if not dataset:
            raise UsageError("--dataset: name the dataset, for example --dataset mnist")
        spec = plan(
            defenses=asked["defenses"],
            attacks=asked["attacks"],
            libraries=asked["libraries"],
            dataset=dataset,
            preset=chosen,
            device=device,
            eps=budgets,
            n_train=n_train,
            n_test=n_test,
            seeds=seed_list,
            study=study.strip(),
            exact=exact,
            changes=changes,
        )
        say(f"preset {chosen} ({why}): {presets.description(chosen)}")
        if budgets and list(budgets) != parse_list(eps):
            say(f"eps sorted, repetitions dropped: {', '.join(f'{value:g}' for value in budgets)}")
        if spec.study:
            say(f"study {spec.study}: {', '.join(defense.name for defense in spec.defenses)}")
        for remark in remarks_on_changes(changes, spec):
            say(remark)
        for remark in remarks(spec, dataset=dataset, **asked, eps=budgets, n_test=n_test):
            say(remark)
        if (whole := grown_since(out, spec)) != spec:
            say("this run was grown since: what was added is part of it")
            spec = whole
    say(f"run folder: {out / spec.run_id}")
    with tracked(trackers, spec, out, say) as watch:
        with private_cache(no_cache):
            result = run_spec(
                spec,
                out=out,
                command=command_line(),
                progress=ConsoleProgress(),
                supply=supply,
                time_limit=time_limit,
                audit=audit != "off",
                retrain=no_cache,
                watch=watch,
            )
            if audit == "full":
                audit_full(result.path, progress=ConsoleProgress(), supply=supply)
        if result.was_complete:
            say("complete: every cell of this run is there; nothing was computed")
        print_accuracies(result.cells)
        if told := audit_line(result.path):
            say(told)
        page = result.path / "report" / "report.html"

        def write() -> Path:
            if result.was_complete and is_newer(page, *result.path.glob("*.parquet")):
                return page

            from reports.html import write_report

            return write_report([result.path])

        went_well = reported(write, result.path)
        if result.n_failed:
            say(f"{result.n_failed} of {len(result.cells)} cells failed; the report says why")
        if result.n_failed or not went_well:
            raise typer.Exit(1)
