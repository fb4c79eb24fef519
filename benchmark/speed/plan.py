"""What ``speed`` measures: the tasks, and the libraries and settings of each.

Every library gets the preset's settings of the in-house attack, the same images and the same
model. A peer attacks every image from scratch at every eps; the in-house attack goes by its own
schedule, and once more from scratch, which shows what the schedule saves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from benchmark import __version__
from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.loader import attack_class, load_attack
from benchmark.attacks.peers.library import known_libraries
from benchmark.config.presets import preset_for
from benchmark.config.spec import INHOUSE, AttackSpec, DefenseSpec, RunSpec, check_count
from benchmark.config.threat import ThreatModel
from benchmark.errors import UsageError, unknown_name
from benchmark.execution.plan import plan
from benchmark.hashing import digest
from benchmark.io.paths import safe_name
from benchmark.models.defense import Defense
from benchmark.models.loader import load_defense
from benchmark.plugins.names import canonical
from benchmark.registry import DATASETS, DEFENSES

TASKS = ("pgd", "pgd_full", "sweep", "cw")
UNDEFENDED = "undefended"
EXACT = f"{INHOUSE}-exact"
"""The name of the in-house attack where it, too, starts from scratch at every eps."""

IMAGES = 100
IMAGES_CW = 32
"""Images attacked where the user gives no number (docs/constants.md)."""

MOST_LEVELS = 256


@dataclass(frozen=True)
class SpeedSettings:
    """What the user asked for.

    ``n`` of None: 100 images, 32 for C&W, or the preset's if there are fewer.
    """

    dataset: str = "mnist"
    preset: str = "quick"
    defense: str = "madry"
    device: str = "cpu"
    tasks: tuple[str, ...] = TASKS
    libraries: tuple[str, ...] = ()
    n: int | None = None
    repeats: int = 3
    levels: int = 16
    n_train: int | None = None

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise unknown_name("task", task, TASKS)
        if not self.tasks:
            raise UsageError(f"--tasks: name at least one of {', '.join(TASKS)}")
        for option, value in (
            ("--n", self.n),
            ("--n-train", self.n_train),
            ("--repeats", self.repeats),
        ):
            if value is not None:
                check_count(option, value)
        if not 1 <= self.levels <= MOST_LEVELS:
            raise UsageError(f"--levels must lie between 1 and {MOST_LEVELS}, got {self.levels}")


@dataclass(frozen=True)
class Contestant:
    """One row of a task: ``name`` is a library's, or :data:`EXACT`.

    ``exact`` runs every eps from scratch. ``remarks`` are sentences on the settings that the
    library could not be given.
    """

    name: str
    spec: AttackSpec
    exact: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def passes(self) -> int:
        """Forward and backward passes per image where each is run through every step of every eps.

        A minimal-distortion attack serves all eps at once.
        """
        attack = load_attack(self.spec)
        names = ("steps", "restarts", "search_steps")
        levels = len(self.spec.threat.eps) if isinstance(attack, BudgetAttack) else 1
        steps: int = math.prod(getattr(attack, name, 1) for name in names)
        return levels * self.spec.eot * steps


@dataclass(frozen=True)
class Task:
    """One comparison: all ``contestants`` attack the first ``n`` images of the test set.

    ``doubling`` are sweeps of the in-house attack over ever more levels, empty in other tasks.
    """

    name: str
    defense: DefenseSpec
    contestants: tuple[Contestant, ...]
    n: int
    doubling: tuple[Contestant, ...] = ()


@dataclass(frozen=True)
class SpeedPlan:
    """All tasks, with what trains their models (``spec``), and why a library takes no part.

    ``absent`` maps a library, or "library in task", to the reason; ``versions`` are those of the
    libraries that take part.
    """

    settings: SpeedSettings
    spec: RunSpec
    tasks: tuple[Task, ...]
    versions: Mapping[str, str]
    absent: Mapping[str, str]

    @property
    def folder_name(self) -> str:
        """Name of the folder for the results: dataset and a hash of every setting and version."""
        settings = asdict(self.settings)
        if settings["n_train"] is None:  # so that folders made before the setting keep their names
            del settings["n_train"]
        parts = (settings, self.spec.to_json(), sorted(self.versions.items()))
        return f"speed-{safe_name(self.settings.dataset)}-{digest(*parts)[:10]}"


def plan_speed(settings: SpeedSettings) -> SpeedPlan:
    """Resolve the tasks; UsageError names the first thing that cannot be done."""
    settings = replace(
        settings,
        dataset=canonical(DATASETS, settings.dataset),
        defense=canonical(DEFENSES, settings.defense),
    )
    names = [UNDEFENDED] if set(settings.tasks) - {"sweep"} else []
    if "sweep" in settings.tasks:
        DEFENSES.check(settings.defense)
        names.append(settings.defense)
    known = known_libraries()
    for library in settings.libraries:
        if library not in known:
            raise unknown_name("library", library, known)
    for name in names:
        if not _class_of(name).differentiable:
            raise UsageError(
                f"defense {name}: the attacks follow the gradient, and it passes none to the image"
            )
    available = preset_for(settings.preset, settings.dataset)["n_test"]
    n = min(IMAGES, available) if settings.n is None else settings.n
    spec = plan(
        dataset=settings.dataset,
        preset=settings.preset,
        device=settings.device,
        defenses=names,
        attacks=["pgd", "cw"],
        libraries=[INHOUSE],
        n_train=settings.n_train,
        n_test=n,
    )
    asked = list(dict.fromkeys(settings.libraries or known))
    absent: dict[str, str] = {}
    for name in asked:
        peer = known[name]
        if peer is not None and not peer.available:
            absent[name] = f"not installed: {peer.install}"
    present = [name for name in asked if name not in absent]
    present.sort(key=lambda name: name != INHOUSE)  # first in every table; others as asked for
    if not present:
        reasons = "; ".join(f"{name} is {why}" for name, why in absent.items())
        raise UsageError(f"--libraries: nothing to measure: {reasons}")
    defenses = {defense.name: defense for defense in spec.defenses}
    tasks = []
    for name in dict.fromkeys(settings.tasks):
        defense = defenses[settings.defense if name == "sweep" else UNDEFENDED]
        tasks.append(_task(name, defense, settings, spec, present, absent))
    versions = {
        name: __version__ if (peer := known[name]) is None else peer.version for name in present
    }
    return SpeedPlan(settings, spec, tuple(tasks), versions, absent)


def _task(
    name: str,
    defense: DefenseSpec,
    settings: SpeedSettings,
    spec: RunSpec,
    libraries: Sequence[str],
    absent: dict[str, str],
) -> Task:
    """Return a task with the libraries that have its attack; tell why of those that have not."""
    pgd, cw = spec.attacks
    if name == "cw":
        # Every library ends early where it can: that is how each is meant to be run.
        base = replace(cw, n=_fewest(settings, cw, libraries), params=_with(cw, abort_early=True))
    else:
        levels = 1 if name != "sweep" else settings.levels
        grid = _middle(pgd.threat) if name != "sweep" else ladder(pgd.threat, levels)
        base = replace(pgd, threat=ThreatModel(pgd.threat.norm, grid))
    if name == "pgd_full":
        base = replace(base, params=_with(base, early_stop=False))
    contestants = []
    for library in libraries:
        try:
            contestants.append(_contestant(base, library))
        except UsageError as error:
            absent[f"{library} in {name}"] = str(error)
    if not contestants:
        raise UsageError(f"--libraries: none of {', '.join(libraries)} has what {name} needs")
    doubling: list[Contestant] = []
    if name == "sweep" and INHOUSE in libraries:
        if not _class_of(defense.type).stochastic:  # which is attacked from scratch anyway
            contestants.insert(1, replace(contestants[0], name=EXACT, exact=True))
        for levels in doubled(settings.levels):
            threat = ThreatModel(base.threat.norm, ladder(pgd.threat, levels))
            label = f"{INHOUSE}, {levels} level{'s' * (levels > 1)}"
            doubling.append(Contestant(label, replace(base, threat=threat)))
    return Task(name, defense, tuple(contestants), base.n, tuple(doubling))


def _contestant(base: AttackSpec, library: str) -> Contestant:
    """Return ``base`` as ``library`` runs it: settings that it lacks are left out, and said.

    That no peer stops early is what ``pgd`` measures, and needs no remark.
    """
    if library == INHOUSE:
        return Contestant(INHOUSE, base)
    cls = attack_class(base.type, library)
    known = {item.name for item in fields(cls)}
    fixed: Mapping[str, Any] = getattr(cls, "fixed", {})
    params = {key: value for key, value in base.params.items() if key in known - set(fixed)}
    remarks = tuple(
        f"has no setting {key}: it works as with {key} = {fixed[key]}, where {value} was asked for"
        for key, value in base.params.items()
        if key in fixed and fixed[key] != value
    )
    spec = replace(base, library=library, params=params)
    load_attack(spec)
    return Contestant(library, spec, exact=True, remarks=remarks)


def _class_of(name: str) -> type[Defense]:
    """Import a defense's class; UsageError if that fails: there is nothing to measure then."""
    try:
        return load_defense(name)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"defense {name}: {type(error).__name__}: {error}") from None


def _with(spec: AttackSpec, **params: Any) -> dict[str, Any]:
    return {**spec.params, **params}


def _fewest(settings: SpeedSettings, cw: AttackSpec, libraries: Sequence[str]) -> int:
    """Return how many images C&W gets: the least that the preset has for any of ``libraries``."""
    own = preset_for(settings.preset, settings.dataset).get("attack_settings", {}).get("cw", {})
    refined = own.get("libraries", {})
    most = cw.n if settings.n is not None else IMAGES_CW
    asked: list[int] = [refined.get(name, {}).get("n", cw.n) for name in libraries]
    return min([most, cw.n, *asked])


def _middle(threat: ThreatModel) -> tuple[float]:
    positive = [eps for eps in threat.eps if eps > 0]
    return (positive[(len(positive) - 1) // 2],)


def ladder(threat: ThreatModel, levels: int) -> tuple[float, ...]:
    """Return ``levels`` budgets above 0, evenly spaced up to the largest of ``threat``.

    On MNIST, 16 levels are the grid of the presets.
    """
    most = max(threat.eps)
    return tuple(round(most * level / levels, 10) for level in range(1, levels + 1))


def doubled(levels: int) -> list[int]:
    """Return a quarter, half, once and twice ``levels``, each at least 1."""
    return sorted({max(1, levels // 4), max(1, levels // 2), levels, 2 * levels})
