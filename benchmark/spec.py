"""What a run is: frozen settings, resolved from a preset and the command line.

A :class:`RunSpec` holds everything that decides a run's numbers and nothing that does not (the
data folder and the output folder stay outside), so that its hash can name the run's folder.
Nothing here needs torch.
"""

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

from benchmark.errors import UsageError, unknown_name

NORMS = ("linf", "l2")
INHOUSE = "inhouse"
Params = Mapping[str, Any]


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


def check_eps(eps: float, norm: str) -> None:
    """Raise a UsageError unless ``eps`` is a budget that ``norm`` allows."""
    if not math.isfinite(eps):
        raise UsageError(f"eps {eps}: not a finite number; budgets are numbers such as 0.1")
    if eps < 0:
        raise UsageError(f"eps {eps:g} is negative; budgets start at 0")
    if norm == "linf" and eps > 1:
        raise UsageError(
            f"eps {eps:g} is above 1; l-inf budgets are in [0, 1] pixel units"
            f" (8 of 255 grey levels is {8 / 255:.4f})"
        )


def check_count(option: str, n: int) -> None:
    """Raise a UsageError unless ``n`` images can be asked for with ``option``."""
    if n < 1:
        raise UsageError(f"{option} must be at least 1, got {n}")


def parse_eps(text: str) -> tuple[float, ...]:
    """Parse ``"0,0.1,0.2"`` into ascending distinct budgets (checked later, by the norm)."""
    values = []
    for word in text.split(","):
        try:
            values.append(float(word) + 0.0)  # + 0.0 turns -0.0 into 0.0
        except ValueError:
            raise UsageError(
                f"--eps: {word.strip()!r} is not a number; write budgets as 0,0.1,0.2"
            ) from None
    return tuple(sorted(set(values)))


@dataclass(frozen=True)
class DefenseSpec:
    """One defense as the run uses it: options under a name of its own.

    ``name`` appears in the results and shapes the model's seed; ``type`` is the registered defense
    (or ``package.module:Class``) behind it, so that a study can hold several of one
    (``ot-cla[code_dim=2]`` of type ``ot-cla``).
    """

    name: str
    params: Params = field(default_factory=dict)
    type: str = ""

    def __post_init__(self) -> None:
        if not self.type:
            object.__setattr__(self, "type", self.name)


@dataclass(frozen=True)
class AttackSpec:
    """One attack as the run uses it: a row of settings under a name of its own.

    ``name`` appears in the results; ``type`` is the registered attack behind it, so that a
    preset can hold variants (``pgd-eot`` of type ``pgd``). ``n`` images are attacked; ``eot``
    fresh noise draws are averaged per query, and ``bpda`` asks for the surrogate's gradient.
    """

    name: str
    threat: ThreatModel
    n: int
    type: str = ""
    library: str = INHOUSE
    eot: int = 1
    bpda: bool = False
    params: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.type:
            object.__setattr__(self, "type", self.name)
        if self.n < 1:
            raise UsageError(f"attack {self.name}: n must be at least 1, got {self.n}")
        if self.eot < 1:
            raise UsageError(f"attack {self.name}: eot must be at least 1, got {self.eot}")


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

    def to_json(self) -> str:
        """Return the spec as canonical JSON: equal specs give equal text."""
        settings = asdict(self)
        if not self.exact:  # so that runs made before the setting keep their names
            del settings["exact"]
        return json.dumps(settings, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunSpec":
        """Rebuild a spec from :meth:`to_json`; ValueError, KeyError or TypeError if it is none."""
        raw = json.loads(text)
        attacks = tuple(_attack(attack) for attack in raw.pop("attacks"))
        defenses = tuple(DefenseSpec(**defense) for defense in raw.pop("defenses"))
        seeds = tuple(raw.pop("seeds"))
        codes = raw.pop("code_map", None)
        if codes is not None:
            codes = CodeMapSpec(tuple(codes["defenses"]), _attack(codes["attack"]))
        return cls(**raw, seeds=seeds, defenses=defenses, attacks=attacks, code_map=codes)

    @property
    def run_id(self) -> str:
        """Name of the run's folder: dataset, preset and a hash of every setting."""
        return f"{self.dataset}-{self.preset}-{digest(self.to_json())[:10]}"


def _attack(raw: Mapping[str, Any]) -> AttackSpec:
    threat = ThreatModel(raw["threat"]["norm"], tuple(raw["threat"]["eps"]))
    return AttackSpec(**{**raw, "threat": threat})


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
    return tomllib.loads((files("benchmark") / "presets" / f"{name}.toml").read_text("utf-8"))


def preset_for(preset: str, dataset: str) -> dict[str, Any]:
    """Return a preset's settings for one dataset.

    A preset may name a ``base`` preset whose settings it refines; within a preset the dataset's
    own section refines ``[defaults]``. A dataset that no preset knows gets the defaults alone.
    """
    raw = read_preset(preset)
    base = preset_for(raw["base"], dataset) if "base" in raw else {}
    return merge(merge(base, raw.get("defaults", {})), raw.get(dataset, {}))


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
        threat=ThreatModel(norm, tuple(float(value) for value in grid)),
        n=min(own.pop("n", n_test), n_test),
        eot=own.pop("eot", 1),
        bpda=own.pop("bpda", False),
        params={key: value for key, value in own.items() if value != "default"},
    )
