"""What of ``--set`` reaches nothing of a run, or not every defense: refused or said."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.config.spec import DefenseSpec, RunSpec
from benchmark.config.toml_text import dotted, leaves
from benchmark.errors import UsageError

Path = tuple[str, ...]


def remarks_on_changes(changes: Mapping[str, Any], spec: RunSpec) -> Iterator[str]:
    """Yield a sentence on each change that some of the run's defenses do not follow.

    UsageError for one that reaches nothing of the run.
    """
    for path, value in leaves(changes):
        key = dotted(path)
        if why := _unused(path, spec):
            raise UsageError(f"--set {key}: {why}; leave it out")
        if path[0] in ("training", "defense_options") and len(path) > 1:
            others = [d.name for d in spec.defenses if not _follows(d, path, value)]
            if others:
                yield f"--set {key}: not for {', '.join(others)}, which lack it or have their own"


def _unused(path: Path, spec: RunSpec) -> str:
    """Return why a setting changes nothing of the run; empty if it may."""
    group, name = path[0], path[1] if len(path) > 1 else ""
    attacks = [*spec.attacks, *([spec.code_map.attack] if spec.code_map else [])]
    if group == "training" and not any("training" in d.params for d in spec.defenses):
        return "no defense of this run takes training settings"
    if group == "defense_options" and not any(name in d.params for d in spec.defenses):
        return f"no defense of this run has the option {name}"
    if group == "defenses" and name not in {d.type for d in spec.defenses}:
        return f"{name} is not among the defenses of this run"
    if group == "attack_settings" and name not in {a.name for a in attacks}:
        return f"{name} is not among the attacks of this run"
    libraries = {a.library for a in attacks if a.name == name}
    if path[2:3] == ("libraries",) and len(path) > 3 and path[3] not in libraries:
        return f"{path[3]} is not among the libraries of this run"
    if group == "eps" and name not in {a.threat.norm for a in attacks}:
        return f"no attack of this run is in {name}"
    if group == "code_map" and spec.code_map is None:
        return "this run has no code map"
    if group == "studies" and name != spec.study:
        return f"this run is not the study {name}"
    return ""


def _follows(defense: DefenseSpec, path: Path, value: Any) -> bool:
    """Tell whether a shared setting is the defense's too, not one of its own."""
    params: Any = defense.params
    keys = path if path[0] == "training" else path[1:]
    for key in keys:
        if not isinstance(params, Mapping) or key not in params:
            return False
        params = params[key]
    return bool(params == value) or isinstance(value, str)
