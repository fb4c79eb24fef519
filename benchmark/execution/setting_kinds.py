"""What settings there are, and of which type: of presets, registered defenses and attacks.

A kind is an annotation, or a table of kinds by key.
"""

import inspect
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from benchmark.attacks.loader import attack_class
from benchmark.config.spec import INHOUSE
from benchmark.config.threat import NORMS
from benchmark.models.loader import load_defense
from benchmark.registry import DEFENSES
from benchmark.training.settings import TrainingSettings

Kinds = dict[str, Any]

GRIDS: Kinds = dict.fromkeys(NORMS, list[float])
HARNESS: Kinds = {
    "n": int,
    "eps": list[float],
    "eot": int,
    "bpda": bool,
    "norm": Literal["linf", "l2"],
    "type": str,
}
"""What the harness itself does with an attack."""
CODE_MAP: Kinds = {"defenses": list[str], "attack": str, "eps": float, "n": int}
STUDY: Kinds = {"defenses": list[str], "option": str, "values": list[Any]}


def training_kinds() -> Kinds:
    """Return the fields of :class:`TrainingSettings`."""
    return typing.get_type_hints(TrainingSettings)


def defense_kinds(name: str) -> Kinds:
    """Return the parameters of a defense's constructor; UsageError if there is no such defense."""
    cls = load_defense(name)
    hints = _hints(cls.__init__)
    known = {key: hints.get(key, Any) for key in inspect.signature(cls).parameters if key != "info"}
    return {**known, "training": training_kinds()} if "training" in known else known


def shared_kinds() -> Kinds:
    """Return the parameters of all registered defenses, for ``defense_options``."""
    found: Kinds = {}
    for name in DEFENSES.names():
        try:
            own = defense_kinds(name)
        except Exception:  # a broken plugin has no options; its run says why
            continue
        for key, kind in own.items():
            # Defenses may differ in what they take under one name: then each checks its own.
            found[key] = kind if found.get(key, kind) == kind else Any
    found.pop("training", None)
    return found


def attack_kinds(type_: str, library: str = INHOUSE) -> Kinds:
    """Return an attack's settings and the harness's; ``"default"`` stands for any value."""
    cls = attack_class(type_, library)
    hints = _hints(cls)
    own = {item.name: hints.get(item.name, Any) for item in fields(cls)}
    return {
        key: kind | Literal["default"] if _closed(kind) else kind for key, kind in own.items()
    } | HARNESS


def _closed(kind: Any) -> bool:
    return kind is not Any and not isinstance(kind, Mapping)


def _hints(of: Any) -> Kinds:
    """Return annotations; none where they name what cannot be found."""
    try:
        return typing.get_type_hints(of)
    except Exception:
        return {}
