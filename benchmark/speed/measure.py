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

import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.attacks.loader import load_attack
from benchmark.attacks.view import attack_view
from benchmark.batching import BATCH_SIZE
from benchmark.config.spec import AttackSpec
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
from benchmark.speed.plan import Contestant, SpeedPlan, Task
from benchmark.speed.results import FILE, Measured, Runs, Speed, summary
from benchmark.training.fit import trained

SEED = 0
FLOOR_PASSES = 8
"""Batches timed whenever the floor is taken; the median counts."""

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
