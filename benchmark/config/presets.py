"""Presets: settings that ship with the package, per dataset, and how an attack is read from
them."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from benchmark.config.eps import parse_budget
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.errors import UsageError, unknown_name


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    names = [path.name for path in (files("benchmark") / "presets").iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def read_preset(name: str) -> dict[str, Any]:
    """Return a preset's TOML as it is; UsageError with the nearest name if there is none."""
    if name not in preset_names():
        raise unknown_name("preset", name, preset_names())
    file = files("benchmark") / "presets" / f"{name}.toml"
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"preset {name}: {file} is damaged ({error}); install it again") from None


def preset_for(preset: str, dataset: str) -> dict[str, Any]:
    """Return a preset's settings for one dataset.

    A preset may name a ``base`` preset whose settings it refines; within a preset the dataset's
    own section refines ``[defaults]``. A dataset that no preset knows gets the defaults alone.
    """
    raw = read_preset(preset)
    base = preset_for(raw["base"], dataset) if "base" in raw else {}
    return merge(merge(base, _section(raw, "defaults")), _section(raw, dataset))


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
