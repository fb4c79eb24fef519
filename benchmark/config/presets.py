"""Presets: settings per dataset, shipped or in a file, and how an attack is read from them."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmark.config.eps import parse_budget
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.errors import UsageError, unknown_name


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    names = [path.name for path in (files("benchmark") / "presets").iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def is_file(preset: str) -> bool:
    """Tell whether ``preset`` is the path of a user's own file, not the name of a shipped one."""
    return preset.endswith(".toml") or "/" in preset or os.sep in preset


def read_preset(name: str) -> dict[str, Any]:
    """Return a preset's TOML as it is, shipped or from a file.

    UsageError with the nearest name if there is none, or with the place of what cannot be read.
    """
    if is_file(name):
        return read_toml(Path(name), "preset")
    if name not in preset_names():
        hint = "; a file of your own ends in .toml" if Path(name).is_file() else ""
        error = unknown_name("preset", name, preset_names())
        raise UsageError(f"{error}{hint}")
    file = files("benchmark") / "presets" / f"{name}.toml"
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"preset {name}: {file} is damaged ({error}); install it again") from None


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a user's TOML file; UsageError says where it cannot be read."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{what} {path}: {error.strerror}; name a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} {path}: not TOML: {error}") from None


def lineage(preset: str) -> list[tuple[str, dict[str, Any]]]:
    """Return a preset and those that it refines, the first base first, each with its TOML.

    A file's ``base`` is a shipped name or a file, relative to it. UsageError for a circle.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    name, seen = preset, set()
    while True:
        key = str(Path(name).resolve()) if is_file(name) else name
        if key in seen:
            raise UsageError(f"preset {preset}: its bases go in a circle, back to {name}")
        seen.add(key)
        try:
            raw = read_preset(name)
        except UsageError as error:
            raise UsageError(
                f"base of preset {found[-1][0]}: {error}" if found else str(error)
            ) from None
        found.append((name, raw))
        if "base" not in raw:
            return found[::-1]
        base = raw["base"]
        if not isinstance(base, str):
            raise UsageError(f'preset {name}: base must be a name, as in base = "quick"')
        # A Windows drive or a leading slash makes a path absolute, and joining keeps it so.
        name = str(Path(name).parent / base) if is_file(name) and is_file(base) else base


def description(preset: str) -> str:
    """Return what a preset says of itself; a file that says nothing is told by its base."""
    raw = read_preset(preset)
    return str(raw.get("description") or f"{raw.get('base', 'no base')}, and what differs")


def preset_label(preset: str, changes: Mapping[str, Any] | None = None) -> str:
    """Return the name under which results know a preset: never a shipped one's for other settings.

    A file is known by its stem, or with its ending where a shipped preset has the stem; settings
    changed by ``--set`` add ``+set``. What decides numbers is in the spec, and in its hash.
    """
    label = preset
    if is_file(preset):
        path = Path(preset)
        label = path.name if path.stem in preset_names() else path.stem
    return f"{label}+set" if changes else label


def preset_for(
    preset: str, dataset: str, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a preset's settings for one dataset, with ``changes`` (of ``--set``) on top.

    A preset may name a ``base`` preset whose settings it refines; within a preset the dataset's
    own section refines ``[defaults]``. A dataset that no preset knows gets the defaults alone.
    """
    settings: dict[str, Any] = {}
    for _, raw in lineage(preset):
        settings = merge(merge(settings, _section(raw, "defaults")), _section(raw, dataset))
    return merge(settings, changes or {})


def _section(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a preset's section; empty if it has none, or uses the name for a setting of its own.

    A dataset may be called anything, ``description`` too.
    """
    found = raw.get(name, {})
    return found if isinstance(found, Mapping) else {}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` on top, table by table."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def resolve_attack(
    settings: Mapping[str, Any],
    name: str,
    library: str,
    *,
    norm: str,
    n_test: int,
    eps: Sequence[float] | None = None,
) -> AttackSpec:
    """Build the spec of attack ``name`` of ``library`` from a preset's settings.

    ``norm`` is the attack's own norm unless the preset says otherwise; ``eps`` replaces the
    preset's grid. Under ``attack_settings.NAME.libraries.LIBRARY`` a preset may refine any setting
    for one library, for example a smaller ``n`` for a slow one. A parameter that is ``"default"``
    is left to the attack: so a preset can take back what its base sets.
    """
    own = dict(settings.get("attack_settings", {}).get(name, {}))
    refinements = own.pop("libraries", {})
    own = merge(own, refinements.get(library, {}))
    norm = own.pop("norm", norm)
    grid = own.pop("eps", settings.get("eps", {}).get(norm))
    if eps is not None:
        grid = eps
    if grid is None:
        raise UsageError(f"attack {name}: the preset has no eps grid for {norm}; give --eps")
    return AttackSpec(
        name=name,
        type=own.pop("type", name),
        library=library,
        threat=ThreatModel(norm, tuple(_budget(name, value) for value in grid)),
        n=min(own.pop("n", n_test), n_test),
        eot=own.pop("eot", 1),
        bpda=own.pop("bpda", False),
        params={key: value for key, value in own.items() if value != "default"},
    )


def _budget(attack: str, value: Any) -> float:
    try:
        return parse_budget(value)
    except ValueError as error:
        raise UsageError(f"attack {attack}: eps: {error}") from None
