"""What a run is: frozen settings, resolved from a preset and the command line.

A :class:`RunSpec` holds everything that decides a run's numbers and nothing that does not (the
data folder and the output folder stay outside), so that its hash can name the run's folder.
Nothing here needs torch.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmark.config.threat import ThreatModel
from benchmark.errors import UsageError
from benchmark.hashing import digest
from benchmark.io.typed_json import build

INHOUSE = "inhouse"


Params = Mapping[str, Any]


MOST_CELLS = 1_000_000
"""The most cells of a spec that is read from a file (docs/constants.md)."""


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
    where that is another one (:func:`benchmark.plugins.names.seed_name`).
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

    @property
    def key(self) -> str:
        """``library:name``, which no other attack of a run has."""
        return f"{self.library}:{self.name}"


@dataclass(frozen=True)
class CodeMapSpec:
    """Whose embeddings are brought to the plane (Figure 5), and under which attack and one eps."""

    defenses: tuple[str, ...]
    attack: AttackSpec


@dataclass(frozen=True)
class HandedOver:
    """A model and images that the user hands over: a digest of each."""

    model: str
    images: str


@dataclass(frozen=True)
class Grown:
    """What a run has beyond what it was begun with, by name; attacks as ``library:name``.

    ``seal`` is a hash of the whole grown spec: the run's name only covers what it was begun with.
    """

    defenses: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    seal: str = ""


@dataclass(frozen=True)
class RunSpec:
    """A whole run: one dataset, its defenses, its attacks and its seeds.

    ``study`` names the preset's study whose members the defenses are, if they are any. ``exact``
    has every image attacked from scratch at every eps. ``grown`` says what was added later: the
    run keeps the name that it was begun with. ``handed_over`` says that nothing is trained: the one
    model, and the images, are the user's, and ``n_train`` is 0.
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
    handed_over: HandedOver | None = None
    grown: Grown | None = None

    def __post_init__(self) -> None:
        check_count("--n-test", self.n_test)
        if self.trains:
            check_count("--n-train", self.n_train)
        elif len(self.defenses) != 1 or self.n_train:
            raise UsageError("a model that was handed over is alone in its run, and not trained")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UsageError(f"--seeds must be distinct whole numbers, got {list(self.seeds)}")
        if any(not -(2**63) <= seed < 2**63 for seed in self.seeds):
            raise UsageError("--seeds: the tables hold whole numbers of 64 bits; give smaller ones")

    @property
    def trains(self) -> bool:
        """Whether the run's models are trained by the harness."""
        return self.handed_over is None

    def to_json(self) -> str:
        """Return the spec as canonical JSON: equal specs give equal text."""
        settings = asdict(self)
        # What is not set is left out, so that runs made before the setting keep their names.
        if not self.exact:
            del settings["exact"]
        if self.trains:
            del settings["handed_over"]
        if self.grown is None:
            del settings["grown"]
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
        """Rebuild a spec from plain data; TypeError or UsageError if it is not one."""
        found: RunSpec = build(cls, raw, "spec")
        if found.grown is not None and found.grown.seal != found._sealed().grown.seal:  # type: ignore[union-attr]
            raise UsageError("its settings are not those that it was grown with")
        cells = len(found.seeds) * len(found.defenses)
        cells *= sum(len(attack.threat.eps) for attack in found.attacks)
        if cells > MOST_CELLS:
            raise UsageError(f"it names {cells:,} cells; {MOST_CELLS:,} are the most")
        return found

    def seed_name(self, defense: str) -> str:
        """Return what shapes the seeds of the defense of that name; the name if it is not here."""
        return next((each.seed_name for each in self.defenses if each.name == defense), defense)

    def grow(
        self,
        defenses: Sequence[DefenseSpec] = (),
        attacks: Sequence[AttackSpec] = (),
        seeds: Sequence[int] = (),
    ) -> "RunSpec":
        """Return the run with more defenses, attacks and seeds, under the name that it has."""
        before = self.grown or Grown()
        grown = Grown(
            (*before.defenses, *(defense.name for defense in defenses)),
            (*before.attacks, *(attack.key for attack in attacks)),
            (*before.seeds, *seeds),
        )
        return replace(
            self,
            defenses=(*self.defenses, *defenses),
            attacks=(*self.attacks, *attacks),
            seeds=(*self.seeds, *seeds),
            grown=grown,
        )._sealed()

    def at_birth(self) -> "RunSpec":
        """Return the spec that the run was begun with, whose hash is its name."""
        if self.grown is None:
            return self
        return replace(
            self,
            defenses=tuple(d for d in self.defenses if d.name not in self.grown.defenses),
            attacks=tuple(a for a in self.attacks if a.key not in self.grown.attacks),
            seeds=tuple(seed for seed in self.seeds if seed not in self.grown.seeds),
            grown=None,
        )

    def _sealed(self) -> "RunSpec":
        assert self.grown is not None
        bare = replace(self, grown=replace(self.grown, seal=""))
        return replace(self, grown=replace(self.grown, seal=digest(bare.to_json())))

    @property
    def run_id(self) -> str:
        """Name of the run's folder: dataset, preset and a hash of the settings at its birth."""
        # A dataset's plugin may be called anything; the hash keeps what is replaced apart.
        name = re.sub(r"[^\w.:-]", "_", f"{self.dataset}-{self.preset}")[:100]
        return f"{name}-{digest(self.at_birth().to_json())[:10]}"
