"""Settings of a run: its attacks as asked for, its defenses as asked for and as trained."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmark.config.spec import AttackSpec, DefenseSpec
from benchmark.results.model_records import ModelRecord
from reports.models import mapping
from reports.section import RunContext, Section, View
from reports.tables import NORM_WORDS


def make(context: RunContext) -> Section:
    """Return the section."""
    run = context.run
    view = {
        "attacks": [_attack(attack) for attack in run.spec.attacks],
        "defenses": [
            {
                "name": defense.name,
                "asked": options(defense.params),
                "used": _used(defense, run.models),
            }
            for defense in run.spec.defenses
        ],
    }
    return Section("settings", "Settings", "sections/settings.html.j2", view)


def _used(asked: DefenseSpec, models: Iterable[ModelRecord]) -> str:
    """Options as trained; one line where all seeds agree."""
    own = [model for model in models if model.defense == asked.name]
    words = list(dict.fromkeys(options(model.options) for model in own))
    if words == [options(asked.params)]:
        return "as asked for"
    return "; ".join(words) or "not trained yet"


def _attack(attack: AttackSpec) -> View:
    return {
        "name": attack.name,
        "type": attack.type,
        "library": attack.library,
        "norm": NORM_WORDS.get(attack.threat.norm, attack.threat.norm),
        "eps": listed(attack.threat.eps),
        "n": attack.n,
        "eot": attack.eot,
        "bpda": "yes" if attack.bpda else "no",
        "params": options(attack.params),
    }


def options(params: Any) -> str:
    """Return ``key = value, outer.inner = value`` in the keys' order, or ``defaults``."""
    return ", ".join(f"{key} = {word}" for key, word in assignments(params)) or "defaults"


def assignments(params: Any, within: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, value in words), with ``outer.inner`` for what stands in a mapping."""
    for key, value in sorted(mapping(params).items()):
        name = f"{within}{key}"
        if isinstance(value, Mapping) and value:
            yield from assignments(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def listed(values: Iterable[float]) -> str:
    """Return numbers as a list to read, floats with four digits."""
    return ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
