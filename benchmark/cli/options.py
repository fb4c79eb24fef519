"""Options that several commands share: one wording each."""

from pathlib import Path
from typing import Annotated

import typer

Dataset = Annotated[str, typer.Option(help="Dataset to train and attack on.")]
Preset = Annotated[
    str, typer.Option(help="smoke, quick or paper; paper where CUDA is, else quick.")
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
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of Parquet mirrors; else BENCHMARK_DATA_DIR.")
]
Out = Annotated[Path, typer.Option(help="Where result folders go.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
