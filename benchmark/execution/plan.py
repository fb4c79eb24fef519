"""From what the user typed to a RunSpec: names checked, presets applied."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.util import find_spec
from typing import Any

import torch

from benchmark.attacks.loader import attack_class, load_attack
from benchmark.config.attack_hints import unknown_attack
from benchmark.config.attack_syntax import NamedAttack, parse_named
from benchmark.config.presets import merge, preset_label, resolve_attack
from benchmark.config.spec import (
    INHOUSE,
    AttackSpec,
    CodeMapSpec,
    DefenseSpec,
    RunSpec,
    check_count,
)
from benchmark.config.studies import Study, find_study, member_name
from benchmark.config.threat import NORMS
from benchmark.errors import UsageError, unknown_name
from benchmark.execution.known_settings import checked, settings_for
from benchmark.models.loader import load_defense
from benchmark.plugins.names import canonical, seed_name
from benchmark.registry import ATTACKS, DATASETS, DEFENSES, LIBRARIES, is_path
from benchmark.training.resolve import resolve_defense


def choose_device(asked: str) -> str:
    """Return cpu or cuda for ``--device auto|cpu|cuda``."""
    if asked not in ("auto", "cpu", "cuda"):
        raise unknown_name("device", asked, ("auto", "cpu", "cuda"))
    if asked == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: this machine has no usable CUDA device; use --device cpu, or auto"
        )
    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def plan(
    *,
    dataset: str,
    preset: str,
    device: str,
    defenses: Sequence[str] = ("all",),
    attacks: Sequence[str] = (),
    libraries: Sequence[str] = (),
    eps: Sequence[float] | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    seeds: Sequence[int] = (0,),
    study: str = "",
    exact: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> RunSpec:
    """Resolve a run's settings; UsageError names the first thing that cannot be done.

    With a ``study`` the run's defenses are its members, of the study's own defenses or, where
    ``defenses`` names some, of these. ``preset`` is a shipped name or a TOML file; ``changes`` are
    settings (of ``--set``) on top of it.
    """
    DATASETS.check(dataset)
    dataset = canonical(DATASETS, dataset)
    settings = settings_for(preset, dataset, changes)
    studied = find_study(preset, dataset, study, changes) if study else None
    if studied is not None:
        own = checked(studied.settings, settings, f"study {study}")
        settings = merge(settings, own)
    n_test = settings["n_test"] if n_test is None else n_test
    check_count("--n-test", n_test)  # before the attacks, which take their n from it
    every = DEFENSES.names() if studied is None else studied.defenses
    asked = every if list(defenses) == ["all"] else defenses
    names = list(dict.fromkeys(canonical(DEFENSES, name) for name in asked))
    return RunSpec(
        dataset=dataset,
        preset=preset_label(preset, changes),
        n_train=settings["n_train"] if n_train is None else n_train,
        n_test=n_test,
        seeds=tuple(seeds),
        device=device,
        defenses=tuple(_defenses(settings, names, studied)),
        attacks=attack_specs(settings, attacks, libraries, eps, n_test),
        study=study,
        code_map=None if studied else _code_map(settings, names, n_test),
        exact=exact,
    )


def _defenses(
    settings: Mapping[str, Any], names: Sequence[str], study: Study | None
) -> Iterator[DefenseSpec]:
    """Resolve the defenses, each once for every value of the study's option if there is one."""
    for name in names:
        if study is None:
            yield resolve_defense(settings, name)
            continue
        for value in study.values:
            own = {"defenses": {name: {study.option: value}}}
            member = member_name(name, study.option, value)
            found = replace(resolve_defense(merge(settings, own), name), name=member)
            with _left_to_the_runner():
                found = replace(found, seeded_as=seed_name(load_defense(name), member, name))
            yield found


def attack_specs(
    settings: Mapping[str, Any],
    names: Sequence[str],
    libraries: Sequence[str],
    eps: Sequence[float] | None,
    n_test: int,
) -> tuple[AttackSpec, ...]:
    """Resolve the attacks; ``--eps`` replaces the grid of those that share the first one's norm."""
    specs: list[AttackSpec] = []
    for name, library, own in _requests(settings, names, libraries):
        norm = own.get("norm") or _norm(own.get("type", name), library)
        grid = eps if eps and (not specs or specs[0].threat.norm == norm) else None
        with_own = {**settings, "attack_settings": {name: own}}
        spec = resolve_attack(with_own, name, library, norm=norm, n_test=n_test, eps=grid)
        with _left_to_the_runner():
            load_attack(spec)
            if library == INHOUSE:
                cls = attack_class(spec.type, library)
                spec = replace(spec, seeded_as=seed_name(cls, spec.name, spec.type))
        # The same attack may be asked for in two spellings.
        if all((spec.name, spec.library) != (other.name, other.library) for other in specs):
            specs.append(spec)
    return tuple(specs)


def _norm(name: str, library: str) -> str:
    """Return the norm that an attack has by itself; the first one if it cannot be imported."""
    norm = NORMS[0]
    with _left_to_the_runner():
        cls = attack_class(name, library)
        norm = str({field.name: field.default for field in fields(cls)}["norm"])
    return norm


@contextmanager
def _left_to_the_runner() -> Iterator[None]:
    """Let a plugin that raises be that plugin's failure, not the run's.

    The runner meets the same exception and keeps it as the reason of the plugin's cells.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception:
        return


def _code_map(settings: Mapping[str, Any], names: Sequence[str], n_test: int) -> CodeMapSpec | None:
    """Resolve the preset's code map for those of its defenses that the run has."""
    asked = settings.get("code_map", {})
    defenses = tuple(name for name in asked.get("defenses", ()) if name in names)
    if not defenses:
        return None
    name, own = asked["attack"], {"eps": [asked["eps"]], "n": asked["n"]}
    refined = merge(settings, {"attack_settings": {name: own}})
    (attack,) = attack_specs(refined, [name], (), None, n_test)
    return CodeMapSpec(defenses, attack)


def _requests(
    settings: Mapping[str, Any], names: Sequence[str], libraries: Sequence[str]
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield name, library and settings of each attack asked for.

    An attack of the harness is asked of every library, one by its class name of its own alone.
    """
    for word in dict.fromkeys(attack_name(name) for name in names or settings["attacks"]):
        named = parse_named(word)
        if named and _is_of_a_library(named):
            yield named.text, named.library, named.settings(attack_class(named.cls, named.library))
            continue
        variants = settings.get("attack_settings", {})
        for library in dict.fromkeys(libraries or (INHOUSE,)):
            known = word in variants or word in ATTACKS.entries() or is_path(word)
            if library == INHOUSE and not known:
                raise unknown_attack(word, variants)
            yield word, library, variants.get(word, {})


def attack_name(word: str) -> str:
    """Return the one name of the attack that ``word`` asks for (:mod:`benchmark.plugins.names`)."""
    named = parse_named(word)
    return word if named and _is_of_a_library(named) else canonical(ATTACKS, word)


def _is_of_a_library(named: NamedAttack) -> bool:
    """Tell whether ``name:Class`` is meant as a library's attack, not as one in a module."""
    name = named.library
    return bool(named.params) or name in LIBRARIES.entries() or find_spec(name) is None
