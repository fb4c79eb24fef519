"""How a run departs from the paper's protocol: its spec beside the ``paper`` preset's plan.

The preset holds what the paper and its authors' scripts state, and marks what they leave open.
Where the preset itself departs from them stands in :mod:`reports.paper.departures`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.config.presets import merge, preset_for, resolve_attack
from benchmark.config.spec import INHOUSE, AttackSpec, DefenseSpec, RunSpec
from benchmark.config.studies import Study, find_study
from benchmark.errors import UsageError
from reports.analysis.options import assignments, listed
from reports.paper.published import DATASET_NAMES, DEFENSE_NAMES

PRESET = "paper"
DEFAULT = "its default"
NOT_RUN, ADDED, ABSENT = "not run", "added", "not in the protocol"

Difference = tuple[str, str, str, str]
"""Subject, setting, here, paper."""


@dataclass(frozen=True)
class Deviation:
    """One setting: what it is in this run and in the protocol, for each of ``subjects``."""

    subjects: tuple[str, ...]
    setting: str
    here: str
    paper: str


def unknown_dataset(dataset: str) -> str:
    """Say so if the paper has no such dataset; else nothing."""
    if dataset in DATASET_NAMES:
        return ""
    return (
        f"The paper has no results on {dataset}: what is compared here is this project's own choice"
        " for it in the same preset."
    )


def deviations(spec: RunSpec) -> list[Deviation]:
    """Return every setting of ``spec`` that is not the ``paper`` preset's for its dataset.

    Subjects that differ in the same way share an entry. A study is compared with the preset's of
    that name; one that the preset does not have, with the plain settings.
    """
    settings = preset_for(PRESET, spec.dataset)
    study = _study(spec)
    if study is not None:
        settings = merge(settings, study.settings)
    paper_sizes = _sizes(settings["n_train"], settings["n_test"])
    found = [
        *_differing("run", _sizes(spec.n_train, spec.n_test), paper_sizes),
        *_defenses(spec, settings, study),
        *_attacks(spec, settings),
        *_code_map(spec, {} if study else settings.get("code_map", {})),
    ]
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for subject, setting, here, paper in found:
        grouped.setdefault((setting, here, paper), []).append(subject)
    return [Deviation(tuple(dict.fromkeys(subjects)), *what) for what, subjects in grouped.items()]


def _sizes(n_train: int, n_test: int) -> dict[str, int]:
    return {"training images": n_train, "test images": n_test}


def _study(spec: RunSpec) -> Study | None:
    if not spec.study:
        return None
    try:
        return find_study(PRESET, spec.dataset, spec.study)
    except UsageError:
        return None


def _defenses(
    spec: RunSpec, settings: Mapping[str, Any], study: Study | None
) -> Iterator[Difference]:
    asked = {defense.type for defense in spec.defenses}
    if spec.study and study is None:
        yield f"study {spec.study}", "study", ADDED, ABSENT
    planned = study.defenses if study else () if spec.study else tuple(DEFENSE_NAMES)
    for name in planned:
        if name not in asked:
            yield name, "defense", NOT_RUN, "run"
    for defense in spec.defenses:
        if defense.type not in DEFENSE_NAMES:
            yield defense.name, "defense", ADDED, ABSENT
            continue
        here = dict(assignments(defense.params))
        paper = dict(assignments(_options(settings, defense)))
        if study is not None:
            here.pop(study.option, None)
            paper.pop(study.option, None)
        yield from _differing(defense.name, here, paper)
    if study is not None:
        values = {study.option: [d.params.get(study.option) for d in spec.defenses]}
        paper_values = {study.option: list(study.values) * len(study.defenses)}
        yield from _differing(f"study {study.name}", values, paper_values)


def _options(settings: Mapping[str, Any], defense: DefenseSpec) -> dict[str, Any]:
    """Return the options that the preset gives a defense, as :func:`benchmark.execution.plan.plan`
    does.

    Which of the shared options a class takes is seen from those that the run gave it.
    """
    own = dict(settings.get("defenses", {}).get(defense.type, {}))
    shared = settings.get("defense_options", {})
    params = {key: value for key, value in shared.items() if key in defense.params} | own
    if "training" in defense.params:
        params["training"] = settings.get("training", {}) | own.get("training", {})
    return params


def _attacks(spec: RunSpec, settings: Mapping[str, Any]) -> Iterator[Difference]:
    planned = list(settings["attacks"])
    known = {*planned, *settings.get("attack_settings", {})}
    asked = {attack.name for attack in spec.attacks if attack.library == INHOUSE}
    for name in planned:
        if name not in asked:
            yield name, "attack", NOT_RUN, "run"
    for attack in spec.attacks:
        title = attack.name if attack.library == INHOUSE else f"{attack.name} ({attack.library})"
        if attack.library != INHOUSE or attack.name not in planned:
            yield title, "attack", ADDED, ABSENT
        if attack.name in known:
            paper = _paper_attack(attack, settings)
            if paper is not None:
                yield from _differing(title, _attack(attack), _attack(paper))


def _paper_attack(attack: AttackSpec, settings: Mapping[str, Any]) -> AttackSpec | None:
    norm, n_test = attack.threat.norm, settings["n_test"]
    try:
        return resolve_attack(settings, attack.name, attack.library, norm=norm, n_test=n_test)
    except UsageError:  # the preset has no grid in this norm
        return None


def _attack(attack: AttackSpec) -> dict[str, Any]:
    return {
        "type": attack.type,
        "norm": attack.threat.norm,
        "eps": attack.threat.eps,
        "images": attack.n,
        "EOT": attack.eot,
        "BPDA": attack.bpda,
        **dict(assignments(attack.params)),
    }


def _code_map(spec: RunSpec, planned: Mapping[str, Any]) -> Iterator[Difference]:
    if spec.code_map is None:
        return
    attack = spec.code_map.attack
    here = {"attack": attack.name, "eps": attack.threat.eps[0], "images": attack.n}
    paper = {"attack": planned.get("attack"), "eps": planned.get("eps"), "images": planned.get("n")}
    yield from _differing("code map", here, {k: v for k, v in paper.items() if v is not None})


def _differing(
    subject: str, here: Mapping[str, Any], paper: Mapping[str, Any]
) -> Iterator[Difference]:
    for key in dict.fromkeys([*here, *paper]):
        words = [_words(own[key]) if key in own else DEFAULT for own in (here, paper)]
        if words[0] != words[1]:
            yield subject, key, words[0], words[1]


def _words(value: Any) -> str:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return listed(value) if several else str(value)
