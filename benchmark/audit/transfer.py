"""Transfer: images made against one defense, scored on another.

A defense that hides its gradient from an attack does not hide from images that were made elsewhere,
and another model of the same data points the same way (Papernot et al. 2016,
https://arxiv.org/abs/1605.07277). Where they beat the attack on the defense itself, that attack
failed (Athalye et al. 2018, https://arxiv.org/abs/1802.00420). The harness trains all defenses of a
run on the same images, so the whole matrix costs one attack per source and eps, and forwards.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.attacks.pgd import PGD
from benchmark.audit.case import Curve
from benchmark.batching import BATCH_SIZE, Batches
from benchmark.config.presets import preset_for, preset_names
from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel, reach
from benchmark.datasets.dataset import ImageDataset
from benchmark.evaluation.scoring import (
    CleanPredictions,
    Perturbed,
    ViewSettings,
    inside_for,
    search_batch,
    searching,
)
from benchmark.models.contract import labels
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.seeding import generator, seeded
from benchmark.training.resolve import resolve_defense

LIBRARY = "transfer"
"""The library of transferred images in the tables."""

STEPS = 10
"""Steps of the attack on a source; docs/constants.md."""

UNDEFENDED = "undefended"
"""The defense that is asked first, and trained as a substitute where a run has only one."""


@dataclass(frozen=True)
class AttackedModel:
    """A trained defense under its name, and how it is differentiated: as the run's attacks do.

    ``clean`` keeps its clean predictions.
    """

    name: str
    defense: Defense
    eot: int = 1
    bpda: bool = False
    clean: CleanPredictions | None = None


@dataclass(frozen=True)
class Transfer:
    """What images made against ``source`` do to ``target``.

    ``curve`` is over the crafted eps, its attack named ``from SOURCE``; ``pred_adv`` (len(eps), n)
    int64 are the target's answers, ``pred_clean`` (n,) those without an attack, which stand for a
    clean error; on the CPU. ``seconds`` are those of scoring alone.
    """

    source: str
    target: str
    curve: Curve
    pred_clean: Tensor
    pred_adv: Tensor
    seconds: float


def transfers(
    sources: Sequence[AttackedModel],
    targets: Sequence[AttackedModel],
    data: ImageDataset,
    threat: ThreatModel,
    *,
    seed_at: Callable[[str, float], int],
    progress: Progress,
    steps: int = STEPS,
) -> Iterator[Transfer]:
    """Attack every source at every eps of ``threat`` and score its images on every target.

    Yields a source's row of the matrix when it is done, target by target; a source that is a target
    as well is scored on itself. ``seed_at`` maps a source's name and an eps to a seed. One batch of
    images is held at a time, for all targets. Defenses must be in evaluation mode and on the
    data's device. Whatever a source raises passes through, before any of its row is yielded.
    """
    clean = {model.name: _clean(model, data, seed_at) for model in targets}
    with progress.task("transferring", len(sources) * len(threat.eps) * len(data)) as advance:
        for source in sources:
            row = {model.name: _Row.empty(model, threat, clean[model.name]) for model in targets}
            for level, eps in enumerate(threat.eps):
                everyone = [source.defense, *(model.defense for model in targets)]
                with seeded(seed_at(source.name, eps), data.device, *everyone):
                    rng = generator(seed_at(source.name, eps), data.device)
                    for rows, found in _crafted(source, data, threat.norm, eps, rng, steps):
                        for model in targets:
                            row[model.name].score(level, rows, found, data.info.n_classes)
                        advance(len(rows), f"from {source.name}, eps {eps:g}")
            for model in targets:
                yield row[model.name].transfer(source.name, threat, data)


def from_others(target: str, matrix: Sequence[Transfer]) -> list[Transfer]:
    """Return what all other defenses' images do to ``target``."""
    return [t for t in matrix if t.target == target and t.source != target]


def substitute_for(spec: RunSpec) -> DefenseSpec | None:
    """Return the defense to train as a source where ``spec`` has only one; None if it has more.

    The undefended model, as the run's preset trains it on the run's dataset; where the preset is
    the user's own, with the settings of the one defense as far as they are its own too. A run of
    the undefended model alone needs none: its own gradient is what a substitute would stand in for.
    For a model that was handed over there is nothing to train one on.
    """
    if not spec.trains or len(spec.defenses) > 1 or spec.defenses[0].type == UNDEFENDED:
        return None
    if spec.preset in preset_names():
        return resolve_defense(preset_for(spec.preset, spec.dataset), UNDEFENDED)
    own = spec.defenses[0].params
    shared = {"training": own.get("training", {}), "defense_options": own}
    return resolve_defense(shared, UNDEFENDED)


def undefended_first(names: Sequence[str]) -> list[str]:
    """Return the sources in the order in which they are asked."""
    return sorted(names, key=lambda name: name != UNDEFENDED)


def _crafted(
    source: AttackedModel,
    data: ImageDataset,
    norm: str,
    eps: float,
    rng: torch.Generator,
    steps: int,
) -> Iterator[tuple[Tensor, Perturbed]]:
    """Yield rows (int64) and images made against ``source``, batch by batch."""
    # Every step is taken and the last image kept: one that has just crossed the source's boundary
    # rarely crosses another's.
    attack = PGD(norm=norm, steps=steps, loss="margin", early_stop=False, return_last=True)
    spec = AttackSpec("transfer", ThreatModel(norm, (eps,)), len(data), "pgd")
    inside = inside_for(source.defense, spec, data)
    settings = ViewSettings(source.eot, source.bpda, inside)
    batches = Batches(BATCH_SIZE)

    def craft(rows: Tensor) -> tuple[Tensor, Perturbed]:
        search, x, y = searching(attack, eps, rng), data.x(rows), data.labels[rows]
        options: dict[str, Any] = {"eps": eps, "norm": norm, "settings": settings}
        return rows, search_batch(source.defense, search, x, y, **options)

    for part in torch.split(torch.arange(len(data), device=data.device), BATCH_SIZE):
        yield from batches.each(part, craft, rng=rng)


def _clean(
    model: AttackedModel, data: ImageDataset, seed_at: Callable[[str, float], int]
) -> Tensor:
    clean = model.clean or CleanPredictions(model.defense)
    with seeded(seed_at(model.name, 0.0), data.device, model.defense):
        return clean.of(data)


@dataclass
class _Row:
    """One target's scores of one source's images, filled batch by batch; on the CPU."""

    model: AttackedModel
    clean: Tensor
    pred: Tensor
    distance: Tensor
    seconds: float = 0.0

    @classmethod
    def empty(cls, model: AttackedModel, threat: ThreatModel, clean: Tensor) -> "_Row":
        shape = (len(threat.eps), len(clean))
        return cls(model, clean, clean.expand(shape).clone(), torch.zeros(shape).double())

    def score(self, level: int, rows: Tensor, found: Perturbed, n_classes: int) -> None:
        start = time.perf_counter()
        at = rows.cpu()
        self.pred[level, at] = labels(self.model.defense, found.x_adv, n_classes)
        self.distance[level, at] = found.distance
        self.seconds += time.perf_counter() - start

    def transfer(self, source: str, threat: ThreatModel, data: ImageDataset) -> Transfer:
        y = data.labels.cpu()
        wrong = self.clean != y
        most = torch.tensor([reach(eps) for eps in threat.eps], dtype=torch.float64)
        success = wrong | ((self.pred != y) & (self.distance <= most[:, None]))
        far = torch.where(wrong, 0.0, self.distance)
        curve = Curve(f"from {source}", LIBRARY, threat.norm, threat.eps, success, far)
        pred = torch.where(wrong, self.clean, self.pred)
        return Transfer(source, self.model.name, curve, self.clean, pred, self.seconds)
