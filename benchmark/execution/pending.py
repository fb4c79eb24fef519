"""What is still missing of a run, and in which order it is computed.

Seed by seed and defense by defense; what took too long before comes last, so that the rest of the
run does not wait for it again.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from benchmark.config.spec import AttackSpec, DefenseSpec
from benchmark.plugins.restart import Names
from benchmark.results.run_folder import RunFolder


@dataclass(frozen=True)
class Work:
    """What is missing of a defense under one seed: attacks, and the code map or not."""

    seed: int
    defense: DefenseSpec
    attacks: tuple[AttackSpec, ...]
    codes: bool


def pending_work(
    folder: RunFolder, failed: Collection[Names] = (), *, everything: bool = False
) -> list[Work]:
    """Return the work on the run in ``folder``, in order, without the sweeps that ``failed``.

    With ``everything``, also the models of which nothing is missing.
    """
    first: list[Work] = []
    last: list[Work] = []
    for seed in folder.spec.seeds:
        for defense in folder.spec.defenses:
            soon: list[AttackSpec] = []
            late: list[AttackSpec] = []
            for attack in folder.spec.attacks:
                names = (seed, defense.name, attack.name, attack.library)
                if names not in failed and not folder.is_final(seed, defense, attack):
                    (late if folder.timed_out(seed, defense, attack) else soon).append(attack)
            codes = (seed, defense.name, "", "") not in failed
            codes = codes and _lacks_codes(folder, seed, defense)
            if soon or (codes and not late):
                first.append(Work(seed, defense, tuple(soon), codes))
            if everything and not (soon or late or codes):
                first.append(Work(seed, defense, (), codes=False))
            if late:
                last.append(Work(seed, defense, tuple(late), codes and not soon))
    return first + last


def left(folder: RunFolder, work: Work) -> Work | None:
    """Return what of ``work`` nobody has done since it was planned; None if all of it is done."""
    attacks = tuple(a for a in work.attacks if not folder.is_final(work.seed, work.defense, a))
    codes = work.codes and _lacks_codes(folder, work.seed, work.defense)
    return None if work.attacks and not (attacks or codes) else replace(work, attacks=attacks)


def whole(folder: RunFolder, work: Work, failed: Collection[Names] = ()) -> Work:
    """Return all the work on the model of ``work`` without the sweeps that ``failed``."""
    seed, defense, asked = work.seed, work.defense, folder.spec.code_map
    attacks = tuple(
        attack
        for attack in folder.spec.attacks
        if (seed, defense.name, attack.name, attack.library) not in failed
    )
    codes = (seed, defense.name, "", "") not in failed
    codes = codes and asked is not None and defense.name in asked.defenses
    return Work(seed, defense, attacks, codes)


def _lacks_codes(folder: RunFolder, seed: int, defense: DefenseSpec) -> bool:
    """Tell whether a defense's code map is asked for and not there."""
    asked = folder.spec.code_map
    if asked is None or defense.name not in asked.defenses:
        return False
    there = folder.codes()
    return not ((there["defense"] == defense.name) & (there["seed"] == seed)).any()
