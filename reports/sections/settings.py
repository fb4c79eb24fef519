"""Settings of a run: its attacks as asked for, its defenses as asked for and as trained."""

from collections.abc import Iterable

from benchmark.config.spec import AttackSpec, DefenseSpec
from benchmark.results.model_records import ModelRecord
from reports.analysis.options import listed, options
from reports.section import RunContext, Section, View
from reports.tables.grid import NORM_WORDS


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
