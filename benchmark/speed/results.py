"""What a speed measurement found, as the object that ``--json`` prints and speed.json holds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmark.attacks.base import MinimalAttack
from benchmark.attacks.loader import load_attack
from benchmark.config.spec import INHOUSE
from benchmark.evaluation.sweep import Outcome
from benchmark.speed.plan import EXACT, Contestant, SpeedPlan, Task

FILE = "speed.json"


@dataclass
class Runs:
    """What one contestant did: ``seconds`` of each turn, the outcomes of the first, or a failure.

    ``peak_memory`` is in bytes, None where the device does not tell.
    """

    contestant: Contestant
    seconds: list[float] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    peak_memory: int | None = None
    failure: str = ""
    traceback: str = ""

    @property
    def ok(self) -> bool:
        """Whether it has a result."""
        return bool(self.seconds) and not self.failure


@dataclass(frozen=True)
class Measured:
    """A task's runs, in the order of its contestants; ``floor`` is in seconds per pass and image.

    A pass is one forward and one backward.
    """

    task: Task
    runs: Sequence[Runs]
    doubling: Sequence[Runs]
    floor: float


@dataclass(frozen=True)
class Speed:
    """The whole measurement: ``result`` is what ``--json`` prints, ``path`` the folder."""

    path: Path
    result: Mapping[str, Any]

    @property
    def failed(self) -> bool:
        """Whether some library failed in some task."""
        return bool(self.result["failed"])


def summary(plan: SpeedPlan, found: Sequence[Measured], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object that ``--json`` prints.

    Each of ``results`` is one library in one task; accuracies are fractions of its ``n`` images,
    queries are per attacked image, seconds of one turn (their median, least and most).
    """
    return {
        "dataset": plan.settings.dataset,
        "preset": plan.settings.preset,
        "device": about["device"],
        "versions": {**about["versions"], **plan.versions},
        "repeats": plan.settings.repeats,
        "results": [row for measured in found for row in rows(measured)],
        "doubling": [_doubled(one) for measured in found for one in measured.doubling if one.ok],
        "floors": {measured.task.name: measured.floor for measured in found},
        "absent": dict(plan.absent),
        "failed": {
            f"{one.contestant.name} in {measured.task.name}": one.failure
            for measured in found
            for one in (*measured.runs, *measured.doubling)
            if one.failure
        },
    }


def rows(measured: Measured) -> list[dict[str, Any]]:
    """Return the results of one task, one for each library that has any."""
    done = [one for one in measured.runs if one.ok]
    seconds = {one.contestant.name: statistics.median(one.seconds) for one in done}
    accuracies = {one.contestant.name: accuracy_by_eps(one.outcomes) for one in done}
    distances = {one.contestant.name: median_distance(one) for one in done}
    nearest = min((far for far in distances.values() if far is not None), default=None)
    peers = [by_eps for name, by_eps in accuracies.items() if name not in (INHOUSE, EXACT)]
    found = []
    for one in done:
        name, spec = one.contestant.name, one.contestant.spec
        attacked = int(one.outcomes[0].correct.sum())
        floor = measured.floor * one.contestant.passes * attacked
        far = distances[name]
        found.append(
            {
                "task": measured.task.name,
                "library": name,
                "seconds": seconds[name],
                "floor_ratio": seconds[name] / floor if floor else None,
                "forwards_per_sample": _per_image(one, "n_forward", attacked),
                "backwards_per_sample": _per_image(one, "n_backward", attacked),
                "robust_accuracy": {f"{eps:g}": share for eps, share in accuracies[name].items()},
                "median_distance": far,
                "seconds_min": min(one.seconds),
                "seconds_max": max(one.seconds),
                "times_inhouse": seconds[name] / seconds[INHOUSE] if INHOUSE in seconds else None,
                "distance_ratio": far / nearest if far is not None and nearest else None,
                "excess_points": (
                    excess_points(accuracies[name], peers) if name in (INHOUSE, EXACT) else None
                ),
                "floor_passes": one.contestant.passes,
                "n": measured.task.n,
                "attacked": attacked,
                "defense": measured.task.defense.name,
                "norm": spec.threat.norm,
                "settings": dict(spec.params),
                "remarks": list(one.contestant.remarks),
                "notes": sorted({outcome.notes for outcome in one.outcomes if outcome.notes}),
            }
        )
    return found


def accuracy_by_eps(outcomes: Sequence[Outcome]) -> dict[float, float]:
    """Return the robust accuracy at each eps, a share of all images."""
    return {outcome.eps: 1 - float(outcome.success.double().mean()) for outcome in outcomes}


def excess_points(
    ours: Mapping[float, float], others: Sequence[Mapping[float, float]]
) -> float | None:
    """Return by how many points ``ours`` exceeds the lowest of ``others`` where it does so most.

    Negative where ours is the lowest at every eps; None if there are no others.
    """
    if not others:
        return None
    return max(100 * (share - min(other[eps] for other in others)) for eps, share in ours.items())


def median_distance(one: Runs) -> float | None:
    """Return the median distance over the attacked images, at any eps; None for a budget attack.

    An image without an adversarial example counts as infinitely far, so that a library gains
    nothing by giving up on the far ones.
    """
    if not isinstance(load_attack(one.contestant.spec), MinimalAttack):
        return None
    found = one.outcomes[-1]  # any above 0 has the images that the attack found
    fooled = found.pred_adv != found.pred_clean
    far = torch.where(fooled, found.distance, math.inf)[found.correct]
    return statistics.median(far.tolist()) if len(far) else None


def _per_image(one: Runs, name: str, attacked: int) -> float:
    total = sum(int(getattr(outcome, name).sum()) for outcome in one.outcomes)
    return total / max(1, attacked)


def _doubled(one: Runs) -> dict[str, Any]:
    """Return what the in-house sweep costs over some number of levels."""
    attacked = int(one.outcomes[0].correct.sum())
    return {
        "levels": len(one.outcomes),
        "forwards_per_sample": _per_image(one, "n_forward", attacked),
        "backwards_per_sample": _per_image(one, "n_backward", attacked),
        "seconds": statistics.median(one.seconds),
        "seconds_min": min(one.seconds),
        "seconds_max": max(one.seconds),
        "peak_memory": one.peak_memory,
    }
