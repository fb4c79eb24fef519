"""From what the user typed to a cross-check: which libraries, with which matched settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from benchmark import __version__
from benchmark.attacks.base import Attack
from benchmark.attacks.loader import attack_class, load_attack
from benchmark.attacks.peers.library import known_libraries
from benchmark.config.spec import INHOUSE, AttackSpec, RunSpec
from benchmark.errors import UsageError, options_named, unknown_name
from benchmark.execution.known_settings import settings_for
from benchmark.execution.plan import plan
from benchmark.plugins.names import canonical
from benchmark.registry import ATTACKS, DATASETS, DEFENSES

IMAGES = 256
OPTIONS = {"--n-test": "--n", "--seeds": "--seed"}
"""What other names ``run``'s options have here."""


@dataclass(frozen=True)
class CrosscheckPlan:
    """``spec`` has one attack per library; ``absent`` says why each of the others cannot run.

    ``remarks`` are, by library, sentences on the settings that it could not be given.
    """

    spec: RunSpec
    versions: Mapping[str, str]
    absent: Mapping[str, str]
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)


def plan_crosscheck(
    *,
    dataset: str,
    defense: str,
    attack: str,
    preset: str,
    device: str,
    libraries: Sequence[str] = (),
    eps: Sequence[float] | None = None,
    n: int | None = None,
    n_train: int | None = None,
    seed: int = 0,
    random_start: bool = False,
    best_iterate: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> CrosscheckPlan:
    """Resolve a cross-check's settings; UsageError names the first thing that cannot be done.

    The preset's settings of the in-house attack go to every library as they are. Early stopping is
    off, so that costs compare; unless ``random_start``, all start at the image; unless
    ``best_iterate``, the in-house attack too returns its last iterate, as others do, so that images
    can be compared bit by bit.
    """
    DEFENSES.check(defense)
    ATTACKS.check(attack)
    dataset, attack = canonical(DATASETS, dataset), canonical(ATTACKS, attack)
    if n is None:
        n = min(IMAGES, settings_for(preset, dataset, changes).get("n_test", IMAGES))
    with options_named(OPTIONS):
        base = plan(
            dataset=dataset,
            preset=preset,
            device=device,
            defenses=[defense],
            attacks=[attack],
            libraries=[INHOUSE],
            eps=eps,
            n_train=n_train,
            n_test=n,
            seeds=[seed],
            changes=changes,
        )
    if not any(base.attacks[0].threat.eps):
        raise UsageError("--eps: eps 0 alone leaves nothing to compare; give a larger budget")
    switches = {
        "random_start": random_start,
        "return_last": not best_iterate,
        "early_stop": False,
        "abort_early": False,
    }
    settings = {item.name for item in fields(attack_class(base.attacks[0].type, INHOUSE))}
    for option, name, given in (
        ("--random-start", "random_start", random_start),
        ("--best-iterate", "return_last", best_iterate),
    ):
        if given and name not in settings:
            raise UsageError(f"{option}: {attack} has no such setting; leave it out")
    known = known_libraries()
    for name in libraries:
        if name not in known:
            raise unknown_name("library", name, known)
    specs, versions, absent, remarks = [], {}, {}, {}
    for name in dict.fromkeys(libraries or known):
        try:
            matched, remarks[name] = _matched(base.attacks[0], name, n, switches)
            specs.append(matched)
            versions[name] = known[name].version if known[name] else __version__  # type: ignore[union-attr]
        except Exception as error:
            if libraries:
                raise
            absent[name] = str(error)
    for name, library in known.items():  # what was not asked for is listed where it is missing
        if library is not None and name not in versions and not library.available:
            absent.setdefault(name, f"the library {name} is not installed: {library.install}")
    if not specs:
        raise UsageError(f"no library can run {attack}: {'; '.join(absent.values())}")
    spec = replace(base, n_test=n, attacks=tuple(specs))
    return CrosscheckPlan(spec, versions, absent, remarks)


def _matched(
    base: AttackSpec, library: str, n: int, switches: Mapping[str, Any]
) -> tuple[AttackSpec, list[str]]:
    """Return ``base`` for ``library``, and sentences on what it could not be given.

    It gets the settings of ``base`` and those ``switches`` that it has. What an adapter declares as
    ``fixed`` in its library stays as it is there, and is said.
    """
    cls: type[Attack] = attack_class(base.type, library)
    defaults = {item.name: item.default for item in fields(cls)}
    wanted = {key: value for key, value in switches.items() if key in defaults}
    params = {**base.params, **wanted}
    fixed: Mapping[str, Any] = getattr(cls, "fixed", {})
    remarks = []
    for key, value in fixed.items():
        asked = params.get(key, _inhouse_default(base, key))
        if asked == value:
            continue
        params[key] = value
        remarks.append(
            f"has no setting {key}: it works as with {key} = {value} where {asked} was asked for,"
            " so part of any difference is this setting's."
        )
        if key == "search_steps" and "initial_c" in defaults:
            # Without a search the constant is no longer where a search starts but the answer.
            params["initial_c"] = defaults["initial_c"]
            remarks[-1] += f" Its one constant is c = {defaults['initial_c']}."
    spec = replace(base, library=library, n=n, params=params)
    load_attack(spec)
    return spec, remarks


def _inhouse_default(base: AttackSpec, key: str) -> Any:
    found = {item.name: item.default for item in fields(attack_class(base.type, INHOUSE))}
    return found.get(key)
