"""How fast the in-house attacks are beside other libraries', on the user's own machine.

All run through :func:`benchmark.evaluation.sweep.sweep`, so every image is judged alike, and in
turns (A B C, A B C, ...), so that a machine that slows down slows all of them. What is reported are
medians.

The floor is what the wasteful plan must cost: the bare model's forward and backward pass on a full
batch, timed between the turns of the same task, times the passes of the plan that runs every image
through every step of every eps. Images that the model gets wrong without any attack are attacked by
nobody and count on neither side. A ratio below 1 means that work was saved, not that passes were
faster; a ratio above 1 is the attack's own overhead.
"""

import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.base import MinimalAttack
from benchmark.attacks.loader import load_attack
from benchmark.attacks.view import attack_view
from benchmark.batching import BATCH_SIZE
from benchmark.config.spec import INHOUSE, AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.load import load_images, say_classes, say_repeats
from benchmark.errors import options_named
from benchmark.evaluation.sweep import Outcome, sweep
from benchmark.hashing import derive_seed
from benchmark.io.atomic import write_atomic
from benchmark.io.json_files import write_json
from benchmark.io.paths import own_folder, safe_name
from benchmark.machine_errors import open_folder, rescued
from benchmark.models.contract import get_ready
from benchmark.models.defense import Defense
from benchmark.progress import Advance, Progress
from benchmark.results.model_records import finite
from benchmark.results.provenance import provenance
from benchmark.speed.plan import EXACT, Contestant, SpeedPlan, Task
from benchmark.training.fit import trained

FILE = "speed.json"
SEED = 0
FLOOR_PASSES = 8
"""So many batches are timed whenever the floor is taken; the median counts."""

WARM_STEPS = 10
"""Steps before any time is taken: libraries load, and PyTorch picks its kernels."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Stopwatch:
    """Reads ``clock`` (in seconds) when the device has done what it was told."""

    device: torch.device
    clock: Clock = time.perf_counter

    def read(self) -> float:
        """Return the time in seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()


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


def measure_speed(
    plan: SpeedPlan, *, out: Path, data_dir: Path | None, command: str, progress: Progress
) -> Speed:
    """Run all tasks of ``plan`` and write the results under ``out``; nothing is taken from there.

    A library that raises keeps its message, and the others go on. Raises UsageError before
    anything is computed when the folder or the data will not do.
    """
    spec = plan.spec
    with options_named({"--n-test": "--n"}):
        train_set, test_set = load_images(spec, data_dir)
    path = out / plan.folder_name
    open_folder(path)
    about = provenance(spec, train_set, test_set, command)
    say_repeats(about, spec, progress)
    say_classes(test_set, spec, progress)
    models = {}
    for defense in spec.defenses:
        models[defense.name], record = trained(
            defense, train_set, test_set, seed=SEED, progress=progress
        )
        get_ready(models[defense.name], test_set, SEED)
        about.setdefault("models", {})[defense.name] = record.key
    watch = Stopwatch(test_set.device)
    found = [
        measure(task, models[task.defense.name], test_set.head(task.n), plan, watch, progress)
        for task in plan.tasks
    ]
    result = finite(summary(plan, found, about))
    with rescued(result, path):
        for measured in found:
            for runs in measured.runs:
                if runs.failure:
                    name = safe_name(f"{measured.task.name}-{runs.contestant.name}")
                    file = own_folder(path / "errors", path) / f"{name}.txt"
                    write_atomic(file, runs.traceback.encode())
        write_json(path / FILE, result | {"provenance": about, "settings": asdict(plan.settings)})
    return Speed(path, result)


# --- measuring -------------------------------------------------------------------------------


def measure(
    task: Task,
    model: Defense,
    data: ImageDataset,
    plan: SpeedPlan,
    watch: Stopwatch,
    progress: Progress,
) -> Measured:
    """Let the contestants of ``task`` take turns on ``data``, the floor timed between them."""

    def seed_at(eps: float) -> int:
        # Without the library's name: those that can start alike at random do.
        attack = task.contestants[0].spec.seed_name
        return derive_seed(SEED, data.info.name, task.defense.seed_name, attack, eps)

    repeats = plan.settings.repeats
    runs = [Runs(contestant) for contestant in task.contestants]
    doubling = [Runs(contestant) for contestant in task.doubling]
    everyone = [*runs, *doubling]
    floors: list[float] = []
    bare_pass_seconds(model, data, watch)
    work = sum(one.contestant.passes for one in everyone) * repeats
    with progress.task(f"speed: {task.name}", work) as advance:
        for one in everyone:
            advance(0, f"warming up {one.contestant.name}")
            _guarded(one, partial(_warm_up, one.contestant, model, data), progress, task)
        for turn in range(1, repeats + 1):
            floors.append(bare_pass_seconds(model, data, watch))
            for one in everyone:
                _take_turn(one, model, data, seed_at, watch, progress, task, turn, advance)
        floors.append(bare_pass_seconds(model, data, watch))
    return Measured(task, runs, doubling, statistics.median(floors))


def bare_pass_seconds(model: Defense, data: ImageDataset, watch: Stopwatch) -> float:
    """Return the seconds per image of one forward and backward pass of the model alone.

    The batch is as large as the sweep's; too few images are repeated to fill it.
    """
    rows = torch.arange(BATCH_SIZE, device=data.device) % len(data)
    x, y = data.x(rows), data.labels[rows]
    seconds = []
    with attack_view(model, len(x)):
        for _ in range(FLOOR_PASSES):
            start = watch.read()
            _bare_pass(model, x, y)
            seconds.append(watch.read() - start)
    return statistics.median(seconds) / len(x)


def _bare_pass(model: Defense, x: Tensor, y: Tensor) -> None:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(model(x), y, reduction="sum")
        torch.autograd.grad(loss, x)


def _take_turn(
    one: Runs,
    model: Defense,
    data: ImageDataset,
    seed_at: Callable[[float], int],
    watch: Stopwatch,
    progress: Progress,
    task: Task,
    turn: int,
    advance: Advance,
) -> None:
    contestant = one.contestant
    if not one.failure:
        advance(0, f"turn {turn}: {contestant.name}")

        def attack() -> None:
            with _peak_memory(one, data.device):
                start = watch.read()
                outcomes = _sweep(contestant, contestant.spec, model, data, seed_at)
                one.seconds.append(watch.read() - start)
            one.outcomes = one.outcomes or outcomes

        if _guarded(one, attack, progress, task):
            what = f"{task.name}, {contestant.name}, turn {turn}"
            progress.say(f"{what}: {one.seconds[-1]:.2f} s")
    advance(contestant.passes)


def _sweep(
    contestant: Contestant,
    spec: AttackSpec,
    model: Defense,
    data: ImageDataset,
    seed_at: Callable[[float], int],
    **settings: Any,
) -> list[Outcome]:
    """Attack ``data``; no bar is drawn meanwhile, which would cost time."""
    attack = replace(load_attack(spec), **settings)
    silent = Progress()
    return list(
        sweep(model, attack, spec, data, seed_at=seed_at, progress=silent, exact=contestant.exact)
    )


def _warm_up(contestant: Contestant, model: Defense, data: ImageDataset) -> None:
    spec, few = contestant.spec, data.head(min(BATCH_SIZE, len(data)))
    attack = load_attack(spec)
    wanted = {"steps": WARM_STEPS, "search_steps": 1}
    fewer = {
        name: min(getattr(attack, name), n) for name, n in wanted.items() if hasattr(attack, name)
    }
    once = replace(spec, threat=ThreatModel(spec.threat.norm, spec.threat.eps[-1:]))
    _sweep(contestant, once, model, few, lambda _: SEED, **fewer)


def _guarded(one: Runs, run: Callable[[], None], progress: Progress, task: Task) -> bool:
    """Call ``run`` and return whether it did well; what it raises is the failure of ``one``."""
    try:
        run()
    except Exception as error:
        one.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
        one.traceback = traceback.format_exc()
        progress.say(f"{task.name}, {one.contestant.name}: failed: {one.failure}")
    return not one.failure


@contextmanager
def _peak_memory(one: Runs, device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.reset_peak_memory_stats(device)
    yield
    one.peak_memory = max(one.peak_memory or 0, torch.cuda.max_memory_allocated(device))


# --- what was found --------------------------------------------------------------------------


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
    """Return the share of all images that stand at each eps."""
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

    An image that was not turned counts as infinitely far, so that a library gains nothing by
    giving up on the far ones.
    """
    if not isinstance(load_attack(one.contestant.spec), MinimalAttack):
        return None
    found = one.outcomes[-1]  # any above 0 has the images that the attack found
    turned = found.pred_adv != found.pred_clean
    far = torch.where(turned, found.distance, math.inf)[found.correct]
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
