"""The command ``list``: the defenses, attacks, datasets and presets that are installed."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmark.cli.options import AsJson
from benchmark.config import presets
from benchmark.console import print_table
from benchmark.errors import unknown_name

LIBRARIES_KEY = "libraries"
"""Where ``list attacks --json`` has the attack libraries."""


class Kind(StrEnum):
    """What can be listed."""

    defenses = "defenses"
    attacks = "attacks"
    datasets = "datasets"
    presets = "presets"


def list_names(
    what: Annotated[str, typer.Argument(help="defenses, attacks, datasets or presets.")] = "",
    as_json: AsJson = False,
) -> None:
    """List what is installed: defenses, attacks, datasets and presets."""
    if what and what not in list(Kind):
        raise unknown_name("list", what, list(Kind))
    print_names([Kind(what)] if what else list(Kind), as_json=as_json)


def print_names(kinds: list[Kind], *, as_json: bool) -> None:
    """Print the names of ``kinds`` as tables or as one JSON object."""
    found: dict[str, Any] = {kind.value: _listing(kind) for kind in kinds}
    if Kind.attacks in kinds:
        found[LIBRARIES_KEY] = _libraries()
    if as_json:
        typer.echo(json.dumps(found, indent=2, sort_keys=True))
        return
    for kind, entries in found.items():
        if kind == LIBRARIES_KEY:
            continue
        table = Table("name", "from" if kind != "presets" else "for", box=None, pad_edge=False)
        for name, about in entries.items():
            table.add_row(name, about)
        print_table(kind, table)
        if kind == Kind.attacks:
            _print_libraries(found[LIBRARIES_KEY])


def _listing(kind: Kind) -> dict[str, str]:
    """Return the names of one kind with where each comes from (a preset: what it is for)."""
    from benchmark.registry import ATTACKS, DATASETS, DEFENSES

    if kind is Kind.presets:
        return {name: presets.read_preset(name)["description"] for name in presets.preset_names()}
    registry = {Kind.defenses: DEFENSES, Kind.attacks: ATTACKS, Kind.datasets: DATASETS}[kind]
    return {name: point.value for name, point in registry.entries().items()}


def _libraries() -> dict[str, dict[str, Any]]:
    """Return the attack libraries: version, attacks, and how to install what is missing."""
    from benchmark.attacks.peers.library import AttackLibrary
    from benchmark.registry import LIBRARIES

    found = {}
    for name in LIBRARIES.names():
        library: AttackLibrary = LIBRARIES.load(name)
        found[name] = {
            "available": library.available,
            "version": library.version if library.available else None,
            "install": library.install,
            "attacks": sorted(library.attacks),
            "by_name": library.named is not None,
        }
    return found


def _print_libraries(libraries: dict[str, dict[str, Any]]) -> None:
    table = Table("name", "version", "attacks", box=None, pad_edge=False)
    for name, about in libraries.items():
        if about["available"]:
            more = [f"any by class name ({name}:Class)"] if about["by_name"] else []
            table.add_row(name, about["version"], ", ".join([*about["attacks"], *more]))
        else:
            table.add_row(name, "-", f"unavailable: {about['install']}")
    print_table("attack libraries", table)
