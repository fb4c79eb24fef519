"""A run that grows: more defenses, attacks or seeds in the folder that it has.

No number of an old cell changes: seeds come from names, not from what else is in the run. Old and
new must only have been set up alike, so the run's own settings are resolved again and compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.config.attack_syntax import split_words
from benchmark.config.presets import merge, preset_names
from benchmark.config.spec import INHOUSE, RunSpec
from benchmark.errors import UsageError, unknown_name
from benchmark.execution.plan import plan
from benchmark.io.atomic import write_atomic
from benchmark.io.locks import held
from benchmark.progress import Progress
from benchmark.results.run import read_origin, read_spec
from benchmark.results.run_folder import spec_file

KINDS = ("defenses", "attacks", "seeds")


@dataclass(frozen=True)
class Additions:
    """What a run is to grow by, as the user typed it."""

    defenses: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "Additions":
        """Parse ``defenses=a,b``, ``attacks=...`` and ``seeds=...``; UsageError for others."""
        found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
        for text in texts:
            kind, _, value = text.partition("=")
            kind, values = kind.strip(), split_words(value)
            if kind == "eps":
                raise UsageError(
                    "--add eps: an attack's search at one eps goes on from another, so a new eps"
                    " would change old cells; give the original command with another --eps"
                )
            if kind not in KINDS:
                raise unknown_name("addition", kind, KINDS)
            if not values:
                raise UsageError(f"--add {text}: name what to add, as in {kind}=a,b")
            found[kind] += values
        try:
            seeds = tuple(dict.fromkeys(int(word) for word in found["seeds"]))
        except ValueError:
            raise UsageError("--add seeds: give whole numbers, as in seeds=1,2") from None
        return cls(tuple(found["defenses"]), tuple(found["attacks"]), seeds)


def grow(
    run_dir: Path,
    additions: Additions,
    *,
    preset: str = "",
    changes: Mapping[str, Any] | None = None,
    libraries: Sequence[str] = (),
    progress: Progress,
) -> RunSpec:
    """Add to the spec of the run in ``run_dir``, under the folder's lock, and return it.

    What an earlier call added is passed over, so that a command that was interrupted goes on when
    it is given again. ``preset`` and ``changes`` must be those that the run was begun with, and
    need to be given where it was not a shipped preset alone. UsageError for what cannot be added.
    """
    spec = read_spec(run_dir)  # before the lock, which would make a folder
    with held(run_dir / ".lock", str(run_dir), progress):
        spec = read_spec(run_dir)
        read_origin(run_dir, spec)
        if not spec.trains:
            raise UsageError(
                f"{run_dir} is an evaluation of a model that was handed over: evaluate"
                " again with other attacks, which is a run of its own"
            )
        if run_dir.resolve().name != spec.run_id:
            raise UsageError(f"{run_dir} was renamed; rename it back to {spec.run_id} to grow it")
        grown = _grown(spec, additions, preset, changes or {}, libraries)
        if grown != spec:
            write_atomic(run_dir / "spec.json", spec_file(grown))
    return grown


def grown_since(out: Path, spec: RunSpec) -> RunSpec:
    """Return what the run of ``spec`` under ``out`` has grown to; ``spec`` if it has not."""
    path = out / spec.run_id
    if not (path / "spec.json").is_file():
        return spec
    try:
        found = read_spec(path)
    except UsageError:  # damaged: the run itself says so
        return spec
    return found if found.at_birth() == spec else spec


def _grown(
    spec: RunSpec,
    additions: Additions,
    preset: str,
    changes: Mapping[str, Any],
    libraries: Sequence[str],
) -> RunSpec:
    birth = spec.at_birth()
    if twice := [str(seed) for seed in additions.seeds if seed in birth.seeds]:
        raise _there("seed", twice)
    seeds = [seed for seed in additions.seeds if seed not in spec.seeds]
    if not additions.defenses and not additions.attacks:
        return spec.grow(seeds=seeds) if seeds else spec
    if spec.study:
        raise UsageError(
            f"this run is the study {spec.study}, which only grows by seeds; its defenses and"
            " attacks are the preset's"
        )
    found = _planned(spec, additions, preset, changes, libraries)
    if "all" in additions.defenses:
        raise UsageError("--add defenses=all: name the defenses to add")
    new = found.defenses if additions.defenses else ()
    if old := [d.name for d in new if d.name in {each.name for each in birth.defenses}]:
        raise _there("defense", old)
    more = found.attacks if additions.attacks else ()
    if old := [a.name for a in more if a.key in {each.key for each in birth.attacks}]:
        raise _there("attack", old)
    names, keys = {d.name for d in spec.defenses}, {a.key for a in spec.attacks}
    new = tuple(d for d in new if d.name not in names)
    more = tuple(a for a in more if a.key not in keys)
    return spec.grow(new, more, seeds) if new or more or seeds else spec


def _planned(
    spec: RunSpec,
    additions: Additions,
    preset: str,
    changes: Mapping[str, Any],
    libraries: Sequence[str],
) -> RunSpec:
    """Resolve the additions with the run's settings, and check that they are the run's."""
    chosen = preset or spec.preset.removesuffix("+set")
    if not preset and chosen not in preset_names():
        raise UsageError(
            f"this run has a preset of your own, {chosen}: give it again with --preset FILE"
        )
    grids = {attack.threat.norm: list(attack.threat.eps) for attack in spec.attacks[::-1]}

    def resolved(defenses: Sequence[str], attacks: Sequence[str], at: Sequence[str]) -> RunSpec:
        return plan(
            dataset=spec.dataset,
            preset=chosen,
            device=spec.device,
            defenses=defenses,
            attacks=attacks,
            libraries=at,
            n_train=spec.n_train,
            n_test=spec.n_test,
            exact=spec.exact,
            changes=merge(changes, {"eps": grids}),
        )

    own = [attack.name for attack in spec.attacks if attack.library == INHOUSE]
    again = resolved([defense.name for defense in spec.defenses], own, [INHOUSE])
    for what in _differences(spec, again):
        raise UsageError(
            f"{what} has other settings in this run than in preset {chosen}"
            f"{' with --set' if changes else ''}: give the --preset and --set of its first command"
        )
    return resolved(
        additions.defenses or [spec.defenses[0].name], additions.attacks or own, libraries
    )


def _differences(spec: RunSpec, again: RunSpec) -> Iterator[str]:
    for defense in spec.defenses:
        if defense not in again.defenses:
            yield defense.name
    others = {attack.key: attack for attack in again.attacks}
    for attack in spec.attacks:
        other = others.get(attack.key)
        if other is not None and replace(other, threat=attack.threat) != attack:
            yield attack.name


def _there(kind: str, names: Sequence[str]) -> UsageError:
    return UsageError(f"--add: the run has the {kind} {', '.join(names)} already")
