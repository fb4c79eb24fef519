"""What a run is: frozen settings, resolved from a preset and the command line.

A :class:`RunSpec` holds everything that decides a run's numbers and nothing that does not (the
data folder and the output folder stay outside), so that its hash can name the run's folder.
Nothing here needs torch.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

from benchmark.budgets import check_eps, parse_budget
from benchmark.errors import UsageError, unknown_name
from benchmark.typed import build

NORMS = ("linf", "l2")
INHOUSE = "inhouse"
Params = Mapping[str, Any]

MOST_CELLS = 1_000_000
"""So many cells of a spec that is read from a file; a page about more could not be drawn."""


@dataclass(frozen=True)
class ThreatModel:
    """What the adversary may do: move an image by at most ``eps`` in ``norm``, within [0, 1].

    ``eps`` is ascending and free of repetitions; pixel units for ``linf`` (each in [0, 1]),
    Euclidean length over all pixels for ``l2``.
    """

    norm: str
    eps: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown_name("norm", self.norm, NORMS)
        if not self.eps:
            raise UsageError("eps: the list is empty; give at least one budget, for example 0.1")
        for eps in self.eps:
            check_eps(eps, self.norm)
        if list(self.eps) != sorted(set(self.eps)):
            raise UsageError(f"eps must ascend without repetitions, got {list(self.eps)}")


def check_count(option: str, n: int) -> None:
    """Raise a UsageError unless ``n`` images can be asked for with ``option``."""
    if n < 1:
        raise UsageError(f"{option} must be at least 1, got {n}")


@dataclass(frozen=True)
class DefenseSpec:
    """One defense as the run uses it: options under a name of its own.

    ``name`` appears in the results; ``type`` is the registered defense (or
    ``package.module:Class``) behind it, so that a study can hold several of one
    (``ot-cla[code_dim=2]`` of type ``ot-cla``). ``seeded_as`` is the name that shapes the seeds
    where that is another one (:func:`benchmark.naming.seed_name`).
    """

    name: str
    params: Params = field(default_factory=dict)
    type: str = ""
    seeded_as: str = ""

    def __post_init__(self) -> None:
        if not self.type:
            object.__setattr__(self, "type", self.name)

    @property
    def seed_name(self) -> str:
        """The name that shapes the model's seed and those of its attacks."""
        return self.seeded_as or self.name


@dataclass(frozen=True)
class AttackSpec:
    """One attack as the run uses it: a row of settings under a name of its own.

    ``name`` appears in the results; ``type`` is the registered attack behind it, so that a
    preset can hold variants (``pgd-eot`` of type ``pgd``). ``n`` images are attacked; ``eot``
    fresh noise draws are averaged per query, and ``bpda`` asks for the surrogate's gradient.
    ``seeded_as`` as for a defense.
    """

    name: str
    threat: ThreatModel
    n: int
    type: str = ""
    library: str = INHOUSE
    eot: int = 1
    bpda: bool = False
    params: Params = field(default_factory=dict)
    seeded_as: str = ""

    def __post_init__(self) -> None:
        if not self.type:
            object.__setattr__(self, "type", self.name)
        if self.n < 1:
            raise UsageError(f"attack {self.name}: n must be at least 1, got {self.n}")
        if self.eot < 1:
            raise UsageError(f"attack {self.name}: eot must be at least 1, got {self.eot}")

    @property
    def seed_name(self) -> str:
        """The name that shapes the attack's seeds."""
        return self.seeded_as or self.name


@dataclass(frozen=True)
class CodeMapSpec:
    """Whose codes are brought to the plane (Figure 5), and under which attack, at its one eps."""

    defenses: tuple[str, ...]
    attack: AttackSpec


@dataclass(frozen=True)
class RunSpec:
    """A whole run: one dataset, its defenses, its attacks and its seeds.

    ``study`` names the preset's study whose members the defenses are, if they are any. ``exact``
    has every image attacked from scratch at every eps.
    """

    dataset: str
    preset: str
    n_train: int
    n_test: int
    seeds: tuple[int, ...]
    device: str
    defenses: tuple[DefenseSpec, ...]
    attacks: tuple[AttackSpec, ...]
    study: str = ""
    code_map: CodeMapSpec | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        for option, n in (("--n-train", self.n_train), ("--n-test", self.n_test)):
            check_count(option, n)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UsageError(f"--seeds must be distinct whole numbers, got {list(self.seeds)}")
        if any(not -(2**63) <= seed < 2**63 for seed in self.seeds):
            raise UsageError("--seeds: the tables hold whole numbers of 64 bits; give smaller ones")

    def to_json(self) -> str:
        """Return the spec as canonical JSON: equal specs give equal text."""
        settings = asdict(self)
        # What is not set is left out, so that runs made before the setting keep their names.
        if not self.exact:
            del settings["exact"]
        plugins = [*settings["defenses"], *settings["attacks"]]
        plugins += [settings["code_map"]["attack"]] if self.code_map else []
        for plugin in plugins:
            if not plugin["seeded_as"]:
                del plugin["seeded_as"]
        return json.dumps(settings, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunSpec":
        """Rebuild a spec from :meth:`to_json`; errors as for :meth:`from_plain`, or ValueError."""
        return cls.from_plain(json.loads(text))

    @classmethod
    def from_plain(cls, raw: Any) -> "RunSpec":
        """Rebuild a spec from plain data; TypeError or UsageError if it is none."""
        found: RunSpec = build(cls, raw, "spec")
        cells = len(found.seeds) * len(found.defenses)
        cells *= sum(len(attack.threat.eps) for attack in found.attacks)
        if cells > MOST_CELLS:
            raise UsageError(f"it names {cells:,} cells; {MOST_CELLS:,} are the most")
        return found

    def seed_name(self, defense: str) -> str:
        """Return what shapes the seeds of the defense of that name; the name if it is not here."""
        return next((each.seed_name for each in self.defenses if each.name == defense), defense)

    @property
    def run_id(self) -> str:
        """Name of the run's folder: dataset, preset and a hash of every setting."""
        # A dataset's plugin may be called anything; the hash keeps what is replaced apart.
        name = re.sub(r"[^\w.:-]", "_", f"{self.dataset}-{self.preset}")[:100]
        return f"{name}-{digest(self.to_json())[:10]}"


def digest(*parts: object) -> str:
    """Return the SHA-256 of ``parts`` as hex; the same on every machine and Python."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).hexdigest()


def derive_seed(*parts: object) -> int:
    """Hash ``parts`` to a seed in [0, 2**31): adding one cell changes no other cell's seed."""
    return int(digest(*parts)[:8], 16) % 2**31


# --- presets ---------------------------------------------------------------------------------


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    names = [path.name for path in (files("benchmark") / "presets").iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def read_preset(name: str) -> dict[str, Any]:
    """Return a preset's TOML as it stands; UsageError with the nearest name if there is none."""
    if name not in preset_names():
        raise unknown_name("preset", name, preset_names())
    file = files("benchmark") / "presets" / f"{name}.toml"
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"preset {name}: {file} is damaged ({error}); install anew") from None


def preset_for(preset: str, dataset: str) -> dict[str, Any]:
    """Return a preset's settings for one dataset.

    A preset may name a ``base`` preset whose settings it refines; within a preset the dataset's
    own section refines ``[defaults]``. A dataset that no preset knows gets the defaults alone.
    """
    raw = read_preset(preset)
    base = preset_for(raw["base"], dataset) if "base" in raw else {}
    return merge(merge(base, _section(raw, "defaults")), _section(raw, dataset))


def _section(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a preset's section; empty if it has none, or uses the name for a setting of its own.

    A dataset may be called anything, ``description`` too.
    """
    found = raw.get(name, {})
    return found if isinstance(found, Mapping) else {}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` on top, table by table."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def resolve_attack(
    settings: Mapping[str, Any],
    name: str,
    library: str,
    *,
    norm: str,
    n_test: int,
    eps: Sequence[float] | None = None,
) -> AttackSpec:
    """Build the spec of attack ``name`` of ``library`` from a preset's settings.

    ``norm`` is the attack's own norm unless the preset says otherwise; ``eps`` replaces the
    preset's grid. Under ``attack_settings.NAME.libraries.LIBRARY`` a preset may refine any setting
    for one library, for example a smaller ``n`` for a slow one. A parameter that is ``"default"``
    is left to the attack: so a preset can take back what its base sets.
    """
    own = dict(settings.get("attack_settings", {}).get(name, {}))
    refinements = own.pop("libraries", {})
    own = merge(own, refinements.get(library, {}))
    norm = own.pop("norm", norm)
    grid = own.pop("eps", settings.get("eps", {}).get(norm))
    if eps is not None:
        grid = eps
    if grid is None:
        raise UsageError(f"attack {name}: the preset has no eps grid for {norm}; give --eps")
    return AttackSpec(
        name=name,
        type=own.pop("type", name),
        library=library,
        threat=ThreatModel(norm, tuple(_budget(name, value) for value in grid)),
        n=min(own.pop("n", n_test), n_test),
        eot=own.pop("eot", 1),
        bpda=own.pop("bpda", False),
        params={key: value for key, value in own.items() if value != "default"},
    )


def _budget(attack: str, value: Any) -> float:
    try:
        return parse_budget(value)
    except ValueError as error:
        raise UsageError(f"attack {attack}: eps: {error}") from None
