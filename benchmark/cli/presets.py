"""The command ``presets``: list them, show what one would use, and how two differ."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from benchmark.cli.options import Dataset, Set, parse_changes
from benchmark.config import presets as shipped
from benchmark.config.toml_text import dotted, inline, leaves

app = typer.Typer(help="List presets, show one as TOML, compare two.", rich_markup_mode=None)
Preset = Annotated[str, typer.Argument(help="smoke, quick, paper or a TOML file.")]


@app.callback(invoke_without_command=True)
def presets(context: typer.Context) -> None:
    """List the presets that ship with the package."""
    if context.invoked_subcommand is None:
        for name in shipped.preset_names():
            typer.echo(f"{name}: {shipped.description(name)}")


@app.command()
def show(preset: Preset, dataset: Dataset, set_: Set = None) -> None:
    """Print what a preset would use for a dataset, as TOML to save as a preset of your own."""
    changes = parse_changes(set_)
    settings = _settings(preset, dataset, changes)
    origins = _origins(preset, dataset, changes)
    typer.echo(f"description = {inline(f'{shipped.preset_label(preset, changes)} on {dataset}')}")
    typer.echo("\n[defaults]")
    for path, value in leaves(settings):
        typer.echo(f"{dotted(path)} = {inline(value)}  # {origins.get(path, '')}".rstrip(" #"))


@app.command()
def diff(first: Preset, second: Preset, dataset: Dataset) -> None:
    """Print the settings in which two presets differ for a dataset."""
    one = dict(leaves(_settings(first, dataset, {})))
    other = dict(leaves(_settings(second, dataset, {})))
    for path in dict.fromkeys((*one, *other)):
        if one.get(path) != other.get(path):
            words = [inline(each[path]) if path in each else "not set" for each in (one, other)]
            typer.echo(f"{dotted(path)}: {' -> '.join(words)}")


def _settings(preset: str, dataset: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    from benchmark.execution.known_settings import settings_for
    from benchmark.plugins.names import canonical
    from benchmark.registry import DATASETS

    DATASETS.check(dataset)
    return settings_for(preset, canonical(DATASETS, dataset), changes)


def _origins(preset: str, dataset: str, changes: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Return, per setting, the last place that sets it."""
    found: dict[tuple[str, ...], str] = {}
    for place, section in _sections(preset, dataset, changes):
        found.update({path: place for path, _ in leaves(section)})
    return found


def _sections(
    preset: str, dataset: str, changes: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, raw in shipped.lineage(preset):
        for section in ("defaults", dataset):
            if isinstance(own := raw.get(section), Mapping):
                yield f"{name} [{section}]", own
    yield "--set", changes
