"""The command ``evaluate``: a trained model of the user's, on images of the user's."""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.messages import command_line, reported, say, words
from benchmark.cli.options import AsJson, Config, DataDir, Device, Log, Set, parse_changes
from benchmark.plugins.time_limit import DEFAULT_SECONDS, check_seconds
from benchmark.results.audit_words import LEVELS, check_level


def evaluate(
    model: Annotated[
        str,
        typer.Option(
            help="package.module:factory, path/to/file.py:factory, torchvision:NAME, timm:NAME,"
            " hf:FOLDER or onnx:FILE."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="A folder with a subfolder per class, a Parquet, .npz or .pt file, or the name of"
            " a dataset."
        ),
    ],
    model_args: Annotated[
        str, typer.Option(help="What the factory is called with: width=2,pretrained=true.")
    ] = "",
    weights: Annotated[
        Path | None, typer.Option(help="Weights: safetensors, or a state_dict saved by torch.")
    ] = None,
    norm: Annotated[str, typer.Option(help="How images may move: linf or l2.")] = "linf",
    eps: Annotated[
        str,
        typer.Option(
            help="Budgets such as 0,2/255,4/255; one alone stands for itself and the quarters below"
            " it. By default what the field reports on images like these."
        ),
    ] = "",
    attacks: Annotated[
        str, typer.Option(help="standard, or names as run takes them.")
    ] = "standard",
    audit: Annotated[
        str, typer.Option(help="Ask whether the attacks can be believed: basic, full or off.")
    ] = "basic",
    n: Annotated[int | None, typer.Option(help="Images, class-balanced; all by default.")] = None,
    mean: Annotated[
        str, typer.Option(help="How the model normalises: one number, or one per channel.")
    ] = "",
    std: Annotated[str, typer.Option(help="The same: what it divides by.")] = "",
    outputs: Annotated[
        str, typer.Option(help="What the model returns: logits, probabilities, scores or labels.")
    ] = "auto",
    n_classes: Annotated[
        int | None, typer.Option(help="Classes, where the model's answers do not tell.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of a dataset's name: test or train.")] = "test",
    resize: Annotated[int | None, typer.Option(help="Shorter side of each image, first.")] = None,
    crop: Annotated[int | None, typer.Option(help="Centre crop, then.")] = None,
    seed: Annotated[int, typer.Option(help="What random numbers are drawn from.")] = 0,
    name: Annotated[str, typer.Option(help="How the model is called in the results.")] = "",
    device: Device = "auto",
    data_dir: DataDir = None,
    time_limit: Annotated[
        float, typer.Option(help="Seconds that one cell's attack may take; 0 for no limit.")
    ] = DEFAULT_SECONDS,
    out: Annotated[Path, typer.Option(help="Where result folders go.")] = Path("runs"),
    preset: Annotated[
        str, typer.Option(help="A preset, or a TOML file, whose attack settings count.")
    ] = "",
    set_: Set = None,
    log: Log = "",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Attack a trained model over a sweep of eps, and say how sure each number is."""
    check_level(audit, ("off", *LEVELS))
    check_seconds(time_limit)
    changes = parse_changes(set_)

    from benchmark.given.evaluate import evaluate_subject, spec_of
    from benchmark.given.source import Source, absolute, absolute_model, as_plain
    from benchmark.progress import ConsoleProgress, Progress
    from benchmark.tracking.loader import load_trackers
    from benchmark.tracking.session import tracked

    trackers = load_trackers(words(log))
    progress = Progress() if as_json else ConsoleProgress()
    source = Source(
        model=absolute_model(model),
        data=absolute(data),
        model_args=model_args,
        weights=absolute(str(weights)) if weights else "",
        split=split,
        n=n,
        mean=as_plain(mean),
        std=as_plain(std),
        resize=resize,
        crop=crop,
        outputs=outputs,
        n_classes=n_classes,
        device=device,
        data_dir=absolute(str(data_dir)) if data_dir else "",
        name=name,
    )
    subject = source.subject(progress.say)
    spec = spec_of(
        subject,
        norm=norm,
        eps=eps or None,
        attacks=attacks,
        seed=seed,
        changes=changes,
        preset=preset,
    )
    progress.say(f"run folder: {out / spec.run_id}")
    with tracked(trackers, spec, out, progress.say) as watch:
        try:
            found = evaluate_subject(
                subject,
                spec,
                audit=audit,
                out=out,
                progress=progress,
                time_limit=time_limit,
                command=command_line(),
                watch=watch,
            )
        finally:
            if (out / spec.run_id).is_dir():  # the command audit goes on with it, also after Ctrl-C
                source.write(out / spec.run_id)
        if as_json:
            typer.echo(json.dumps(found.to_dict(), indent=2))
        else:
            typer.echo(repr(found))
        went_well = reported(found.report, found.run.path)
        failed = int((found.run.cells["status"] == "failed").sum())
        if failed:
            say(f"{failed} of {len(found.run.cells)} cells failed; the report says why")
        if failed or not went_well:
            raise typer.Exit(1)
