"""Options that several commands share: one wording each."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.config_file import fill_defaults
from benchmark.config.presets import merge
from benchmark.config.setting_values import parse_change

Dataset = Annotated[str, typer.Option(help="Dataset to train and attack on.")]
Preset = Annotated[
    str,
    typer.Option(
        help="smoke, quick, paper or a TOML file of your own; paper where CUDA is, else quick."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one of the preset's settings, such as training.epochs=2 or"
        " attack_settings.pgd.steps=100; may be repeated.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        is_eager=True,
        callback=fill_defaults,
        help="TOML file with options of this command; what is typed beside it wins.",
    ),
]
Eps = Annotated[str, typer.Option(help="Budgets such as 0,0.1,8/255 in place of the preset's.")]
NTrain = Annotated[int | None, typer.Option(help="Training images, class-balanced.")]
Installed = Annotated[str, typer.Option(help="Comma-separated; all that are installed by default.")]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Train every model again, and leave the cache of trained models alone.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Log = Annotated[
    str,
    typer.Option(
        help="Comma-separated services that each result is logged to: wandb, mlflow, trackio,"
        " tensorboard or package.module:Class; those that are installed."
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of Parquet mirrors; else BENCHMARK_DATA_DIR.")
]
Out = Annotated[Path, typer.Option(help="Where result folders go.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def parse_changes(texts: list[str] | None) -> dict[str, Any]:
    """Return what ``--set`` changes, as nested tables; of two that set the same, the later wins."""
    changes: dict[str, Any] = {}
    for text in texts or ():
        changes = merge(changes, parse_change(text))
    return changes
