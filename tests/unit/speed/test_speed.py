"""Timing: turns, the floor's arithmetic, what is made of the outcomes, and memory."""

import gc
from dataclasses import dataclass, replace
from itertools import count

import pytest
import torch
from speed_toys import planned, task_of, use_toys
from toys import Function, Linear, Nearest, dataset, images, pixels

from benchmark.attacks.pgd import PGD
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.evaluation.sweep import sweep
from benchmark.progress import Progress
from benchmark.speed import measure as speed_measure
from benchmark.speed.measure import Stopwatch, measure
from benchmark.speed.plan import EXACT, Contestant
from benchmark.speed.results import Measured, Runs, excess_points, median_distance, rows


@pytest.fixture
def toys(monkeypatch):
    use_toys(monkeypatch)


# --- turns and the floor -------------------------------------------------------------------------

# Label 1 from 0.5 on: three images are right, one is wrong without any attack.
STEP = Linear(torch.ones(1), -0.5)
DATA = dataset(pixels(0.2, 0.3, 0.4, 0.6), torch.zeros(4).long())


def toy_task(plan, *eps, steps=3):
    """The plan's sweep with other budgets and steps, and nothing to double."""
    task = task_of(plan, "sweep")
    threat = ThreatModel("linf", eps)
    contestants = tuple(
        replace(
            one, spec=replace(one.spec, threat=threat, params={**one.spec.params, "steps": steps})
        )
        for one in task.contestants
    )
    return replace(task, contestants=contestants, n=len(DATA), doubling=())


def run(plan, task, clock, model=STEP, data=DATA):
    return measure(task, model, data, plan, Stopwatch(torch.device("cpu"), clock), Progress())


def test_floor_arithmetic_with_a_clock_of_our_own(toys) -> None:
    plan = planned(libraries=("inhouse", "toy"), repeats=3)
    task = toy_task(plan, 0.05, 0.15)
    seconds = count()
    measured = run(plan, task, seconds.__next__)
    assert measured.floor == 1 / 256  # every batch of 256 took a second
    for row in rows(measured):
        assert (row["seconds"], row["seconds_min"], row["seconds_max"]) == (1, 1, 1)
        assert (row["n"], row["attacked"], row["floor_passes"]) == (4, 3, 6)
        assert row["floor_ratio"] == pytest.approx(256 / (3 * 6))
        assert row["times_inhouse"] == 1


def test_medians_not_means_and_ratios_to_ours(toys) -> None:
    plan = planned(libraries=("inhouse", "toy"), repeats=3)
    task = replace(toy_task(plan, 0.15), contestants=toy_task(plan, 0.15).contestants[::2])
    assert [one.name for one in task.contestants] == ["inhouse", "toy"]
    passes = [[9.0, *[0.5] * (speed_measure.FLOOR_PASSES - 1)]] * 4  # a batch that was disturbed
    turns = [[1.0, 2.0], [1.0, 30.0], [7.0, 4.0]]
    durations = [*([1e9] * speed_measure.FLOOR_PASSES)]  # the first floor only warms up
    for taken, turn in zip(passes, [*turns, []], strict=True):
        durations += taken + turn
    readings = iter([value for d in durations for value in (0.0, d)])
    measured = run(plan, task, lambda: next(readings))
    assert next(readings, None) is None
    ours, toy = rows(measured)
    assert measured.floor == 0.5 / 256
    assert (ours["seconds"], ours["seconds_min"], ours["seconds_max"]) == (1, 1, 7)
    assert (toy["seconds"], toy["seconds_min"], toy["seconds_max"]) == (4, 2, 30)
    assert toy["times_inhouse"] == 4
    assert toy["floor_ratio"] == pytest.approx(4 / (0.5 / 256 * 3 * 3))


def test_libraries_take_turns_and_the_floor_is_between(toys, monkeypatch) -> None:
    plan = planned(libraries=("inhouse", "toy", "half"), repeats=2)
    log = []
    found = speed_measure._sweep

    def sweeping(contestant, *args, **settings):
        log.append(("warm " if settings else "") + contestant.name)
        return found(contestant, *args, **settings)

    floor = lambda *_: log.append("floor") or 1.0  # noqa: E731
    monkeypatch.setattr(speed_measure, "_sweep", sweeping)
    monkeypatch.setattr(speed_measure, "bare_pass_seconds", floor)
    run(plan, toy_task(plan, 0.15), count().__next__)
    names = ["inhouse", EXACT, "toy", "half"]
    turn = ["floor", *names]
    assert log == ["floor", *(f"warm {name}" for name in names), *turn, *turn, "floor"]


def test_the_bare_pass_leaves_the_model_as_it_was() -> None:
    model = Linear(torch.ones(1), -0.5)
    speed_measure.bare_pass_seconds(model, DATA, Stopwatch(torch.device("cpu")))
    assert model.forwards == speed_measure.FLOOR_PASSES * 256
    assert model.w.requires_grad
    assert model.w.grad is None


def test_queries_are_per_attacked_image(toys) -> None:
    plan = planned(libraries=("inhouse", "toy"), repeats=2)
    # No image falls within 0.05: full runs take every step, and score the last iterate.
    measured = run(plan, toy_task(plan, 0.04, 0.05, steps=12), count().__next__)
    found = {row["library"]: row for row in rows(measured)}
    assert (found["toy"]["forwards_per_sample"], found["toy"]["backwards_per_sample"]) == (26, 24)
    assert found["inhouse"]["backwards_per_sample"] < 24
    assert found["toy"]["robust_accuracy"] == {"0.04": 0.75, "0.05": 0.75}
    assert found["inhouse"]["excess_points"] == 0
    assert found["toy"]["excess_points"] is None


# --- arithmetic ----------------------------------------------------------------------------------


def test_excess_is_over_the_lowest_where_it_is_largest() -> None:
    ours = {0.1: 0.90, 0.2: 0.50, 0.3: 0.10}
    assert excess_points(ours, [{0.1: 0.9, 0.2: 0.6, 0.3: 0.2}]) == 0
    others = [{0.1: 0.9, 0.2: 0.48, 0.3: 0.2}, {0.1: 0.95, 0.2: 0.49, 0.3: 0.09}]
    assert excess_points(ours, others) == pytest.approx(2)
    assert excess_points({0.1: 0.1}, [{0.1: 0.3}]) == pytest.approx(-20)
    assert excess_points(ours, []) is None


def minimal_runs(script, x):
    @dataclass(frozen=True, kw_only=True)
    class Moves(Nearest):
        def run(self, view, x, y, *, generator):
            return script(x)

    spec = AttackSpec("cw", ThreatModel("l2", (0.25,)), len(x))
    data = dataset(x, torch.zeros(len(x)).long())
    found = sweep(STEP, Moves(), spec, data, seed_at=lambda _: 0, progress=Progress())
    return Runs(Contestant("inhouse", spec), [1.0], list(found))


def test_an_image_that_was_not_turned_is_infinitely_far() -> None:
    x = pixels(0.2, 0.3, 0.4, 0.6)

    def turned(*far):
        return minimal_runs(lambda x: x + torch.tensor(far).view(-1, 1, 1, 1), x)

    # Also beyond the largest eps of the grid; the clean error is nobody's.
    assert median_distance(turned(0.4, 0.3, 0.2)) == pytest.approx(0.3, abs=0.01)
    assert median_distance(turned(0.0, 0.3, 0.2)) == pytest.approx(0.3, abs=0.01)
    assert median_distance(turned(0.0, 0.0, 0.2)) == float("inf")
    assert median_distance(minimal_runs(lambda x: x, pixels(0.6, 0.7))) is None


def test_distances_are_compared_with_the_nearest() -> None:
    near, far = (minimal_runs(lambda x, by=by: x + by, pixels(0.4, 0.4, 0.4)) for by in (0.2, 0.3))
    lost = minimal_runs(lambda x: x, pixels(0.4, 0.4, 0.4))
    for name, one in (("inhouse", far), ("near", near), ("lost", lost)):
        one.contestant = replace(one.contestant, name=name)
    plan = planned(tasks=("cw",), libraries=("inhouse",), defense="rse")
    found = rows(Measured(plan.tasks[0], [far, near, lost], [], 0.001))
    assert [row["distance_ratio"] for row in found[:2]] == pytest.approx([1.5, 1], abs=0.01)
    # None in JSON, where there is no infinity.
    assert speed_measure.finite(found[2])["median_distance"] is None


def test_memory_is_flat_in_the_number_of_levels() -> None:
    torch.manual_seed(0)
    weights = torch.randn(64, 3)
    peak: dict[int, int] = {}
    calls = count()

    def held() -> int:
        tensors = [o for o in gc.get_objects() if type(o) is torch.Tensor]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(storages.values())

    data = dataset(images(600), torch.zeros(600).long(), 3)
    for levels in (2, 32):

        def logits(x, levels=levels):
            if next(calls) % 4 == 0:  # looking takes long
                peak[levels] = max(peak.get(levels, 0), held())
            return x.flatten(1) @ weights + torch.tensor([3.0, 0.0, 0.0])

        grid = tuple(0.3 * i / levels for i in range(1, levels + 1))
        spec = AttackSpec("pgd", ThreatModel("linf", grid), 600)
        attack = PGD(steps=2, step_size=0.1)
        before = held()
        for _ in sweep(
            Function(logits), attack, spec, data, seed_at=lambda _: 0, progress=Progress()
        ):
            pass
        peak[levels] -= before
    batch = 256 * 64 * 4
    assert peak[2] > batch  # it did look
    assert peak[32] < peak[2] + batch // 4


# --- the libraries themselves


def test_with_the_libraries_that_are_installed() -> None:
    for name in ("art", "torchattacks"):
        pytest.importorskip(name)
    x = images(6, (1, 8, 8))
    weights = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    model = Function(lambda x: x.flatten(1) @ weights)
    data = dataset(x, model(x).argmax(1), 10)
    model.info = data.info
    for name in ("sweep", "cw"):
        plan = planned(n=6, levels=2, repeats=1, tasks=(name,), defense="madry")
        task = plan.tasks[0]
        assert {"inhouse", "art", "torchattacks"} <= {one.name for one in task.contestants}
        small = {"steps": 2} if name == "sweep" else {"steps": 10}
        contestants = tuple(
            replace(one, spec=replace(one.spec, params={**one.spec.params, **small}))
            for one in task.contestants
        )
        task = replace(task, contestants=contestants, n=6, doubling=())
        measured = run(plan, task, count().__next__, model, data)
        assert not [one.failure for one in measured.runs if one.failure]
        for row in rows(measured):
            assert row["backwards_per_sample"] > 0
