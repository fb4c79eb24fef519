"""Attacks by name: the class behind a library's attack, built with a run's settings."""

from benchmark.attacks.base import Attack, BudgetAttack, MinimalAttack, build_attack
from benchmark.attacks.peers.library import AttackLibrary
from benchmark.config.attack_hints import nearest_attacks, unknown_library
from benchmark.config.spec import INHOUSE, AttackSpec
from benchmark.errors import UsageError
from benchmark.plugins.containment import plugin_code
from benchmark.plugins.process_settings import contained
from benchmark.registry import ATTACKS, LIBRARIES


def load_attack(spec: AttackSpec) -> Attack:
    """Import and build the attack of ``spec``; UsageError names what is wrong with it."""
    cls = attack_class(spec.type, spec.library)
    return build_attack(cls, spec.name, spec.threat.norm, spec.params)


def attack_family(spec: AttackSpec) -> str:
    """Return "minimal" for an attack that searches the nearest image, else "budget"."""
    cls = attack_class(spec.type, spec.library)
    return "minimal" if issubclass(cls, MinimalAttack) else "budget"


def _instead(name: str) -> str:
    near = nearest_attacks(name)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def attack_class(name: str, library: str) -> type[Attack]:
    """Import the class of a library's attack; UsageError with the nearest name if there is none."""
    if library == INHOUSE:
        with plugin_code(), contained():
            cls = ATTACKS.load(name)
        if not (isinstance(cls, type) and issubclass(cls, BudgetAttack | MinimalAttack)):
            raise UsageError(
                f"attack {name!r}: {cls!r} is no subclass of benchmark.BudgetAttack or"
                f" benchmark.MinimalAttack{_instead(name)}"
            )
        return cls
    if library not in LIBRARIES.entries():
        raise unknown_library(library, name)
    with plugin_code():
        found: AttackLibrary = LIBRARIES.load(library)
        return found.attack(name)
