"""The eps sweep: the harness judges, whatever an attack returns."""

import json
import math
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import outcomes
from toys import Function, Linear, Nearest, Noisy, Scripted, SmallCNN, dataset, images, pixels

from benchmark.attacks import precision
from benchmark.attacks.cw import CarliniWagner
from benchmark.attacks.peers import torchattacks
from benchmark.attacks.pgd import PGD, PGDL2
from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.errors import PluginError
from benchmark.evaluation.sweep import sweep
from benchmark.execution import runner
from benchmark.execution.plan import plan
from benchmark.hashing import derive_seed
from benchmark.progress import Progress
from benchmark.seeding import generator

# Label 1 from 0.5 on: 0.2, 0.3, 0.4 are label 0 and right, 0.6 is wrong.
STEP = Linear(torch.ones(1), -0.5)


DATA = dataset(pixels(0.2, 0.3, 0.4, 0.6), torch.zeros(4).long())


def up(view, x, y, eps):
    """The best attack on STEP; one forward."""
    view.logits(x)
    return (x + eps).clamp(0, 1)


def accuracy(outcome):
    return 1 - outcome.success.double().mean().item()


def test_outcomes_by_hand():
    attack = Scripted(script=up)
    zero, small, large = outcomes(STEP, attack, DATA, [0, 0.15, 0.25])
    assert zero.pred_clean.tolist() == small.pred_clean.tolist() == [0, 0, 0, 1]
    assert zero.correct.tolist() == [True, True, True, False]
    assert zero.success.tolist() == [False, False, False, True]
    assert small.success.tolist() == [False, False, True, True]
    assert large.success.tolist() == [False, True, True, True]
    assert [accuracy(o) for o in (zero, small, large)] == [0.75, 0.5, 0.25]
    # The image kept from the smaller budget keeps its own distance.
    assert large.distance.tolist() == pytest.approx([0.25, 0.25, 0.15, 0])
    assert large.pred_adv.tolist() == [0, 1, 1, 1]


def test_clean_errors_are_successes_at_distance_0_and_cost_nothing():
    for outcome in outcomes(STEP, Scripted(script=up), DATA, [0, 0.1, 0.4]):
        assert outcome.success[3]
        assert outcome.distance[3] == 0
        assert outcome.pred_adv[3] == outcome.pred_clean[3] == 1
        assert outcome.n_forward[3] == outcome.n_backward[3] == 0


def test_eps_0_asks_no_attack():
    attack = Scripted(script=up)
    (outcome,) = outcomes(STEP, attack, DATA, [0.0])
    assert attack.calls == []
    assert outcome.success.tolist() == [False, False, False, True]
    assert outcome.n_forward.tolist() == [0] * 4


def test_what_fell_is_not_attacked_again():
    attack = Scripted(script=up)
    found = outcomes(STEP, attack, DATA, [0.15, 0.25, 0.35, 0.4])
    assert attack.calls == [(3, 0.15), (2, 0.25), (1, 0.35)]
    assert [o.n_forward.tolist() for o in found] == [
        [1, 1, 1, 0],
        [1, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert found[3].success.all()


def test_all_wrong_and_all_right():
    attack = Scripted(script=up)
    (wrong,) = outcomes(STEP, attack, dataset(pixels(0.7, 0.8), torch.zeros(2).long()), [0.1])
    assert wrong.success.all()
    assert attack.calls == []
    (right,) = outcomes(STEP, attack, dataset(pixels(0.0), torch.zeros(1).long()), [0.1])
    assert not right.success.any()
    assert len(right.success) == 1


GREY = 1 / 255  # images come from 8 bits


def test_the_pictures_are_the_images_that_were_scored(monkeypatch):
    # Two images a batch, so that the pictured ones come from several.
    monkeypatch.setattr("benchmark.evaluation.sweep.BATCH_SIZE", 2)
    data = dataset(pixels(0.2, 0.3, 0.6, 0.4, 0.1, 0.1), torch.zeros(6).long())
    monkeypatch.setattr("benchmark.evaluation.sweep.PICTURED", 4)
    zero, small, large = outcomes(STEP, Scripted(script=up), data, [0, 0.15, 0.25])
    assert zero.pictures.flatten().tolist() == pytest.approx([0.2, 0.3, 0.6, 0.4], abs=GREY)
    # The third is wrong without any attack; what fell at the smaller budget is kept as it fell.
    assert small.pictures.flatten().tolist() == pytest.approx([0.35, 0.45, 0.6, 0.55], abs=GREY)
    assert large.pictures.flatten().tolist() == pytest.approx([0.45, 0.55, 0.6, 0.55], abs=GREY)


def test_pictures_are_projected_as_they_are_scored():
    far = Scripted(script=lambda view, x, y, eps: x + 2 * eps)
    _, found = outcomes(STEP, far, DATA, [0, 0.05])
    assert found.pictures.flatten().tolist() == pytest.approx([0.25, 0.35, 0.45, 0.6], abs=GREY)


def test_every_tensor_has_n_rows_of_its_type():
    for outcome in outcomes(STEP, Scripted(script=up), DATA, [0, 0.15]):
        for name in ("pred_clean", "pred_adv", "n_forward", "n_backward"):
            assert getattr(outcome, name).shape == (4,)
            assert getattr(outcome, name).dtype == torch.int64
        assert outcome.success.dtype == outcome.correct.dtype == torch.bool
        assert outcome.distance.dtype == torch.float64
        assert outcome.notes == ""


def test_the_cells_seconds_add_up_to_no_more_than_the_sweep_took():
    start = time.perf_counter()
    found = outcomes(STEP, Scripted(script=up), DATA, [0, 0.15, 0.25])
    assert 0 < sum(outcome.seconds for outcome in found) <= time.perf_counter() - start


def test_leaving_the_ball_is_noted_and_projected():
    attack = Scripted(script=lambda view, x, y, eps: x + 0.35)
    (outcome,) = outcomes(STEP, attack, DATA, [0.15])
    assert outcome.notes == "images left the ball, projected: 3 (by up to 0.2)"
    assert outcome.distance[:3].tolist() == pytest.approx([0.15] * 3, rel=1e-5)
    assert outcome.success.tolist() == [False, False, True, True]


def test_breaches_are_counted_over_all_batches(monkeypatch):
    monkeypatch.setattr("benchmark.evaluation.sweep.BATCH_SIZE", 1)
    attack = Scripted(script=lambda view, x, y, eps: x + x)  # 0.2, 0.3 and 0.4 away
    (outcome,) = outcomes(STEP, attack, DATA, [0.1])
    assert outcome.notes == "images left the ball, projected: 3 (by up to 0.3)"


def test_notes_stand_beside_each_other_and_are_said_once():
    class Outside(Nearest):
        def run(self, view, x, y, *, generator):
            return x - 1

    model = Noisy(torch.ones(1), [0.0], -0.5)
    first, second = outcomes(model, Outside(norm="linf"), DATA, [0.1, 0.2])
    boundary = "the nearest adversarial image lies on the boundary, where this defense's noise"
    assert first.notes.startswith("images left the box, projected: 3 (by up to 0.8); " + boundary)
    assert second.notes.startswith(boundary)


def test_leaving_the_box_is_noted_and_projected():
    attack = Scripted(script=lambda view, x, y, eps: x - 0.35)
    (outcome,) = outcomes(STEP, attack, DATA, [0.35])
    assert outcome.notes == "images left the box, projected: 2 (by up to 0.15)"
    assert outcome.distance[:3].tolist() == pytest.approx([0.2, 0.3, 0.35], abs=0.002)


def test_rounding_alone_is_no_violation():
    attack = Scripted(script=lambda view, x, y, eps: x + eps * (1 + 5e-6))
    (outcome,) = outcomes(STEP, attack, DATA, [0.15])
    assert outcome.notes == ""
    assert outcome.success.tolist() == [False, False, True, True]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_no_number_is_noted_and_taken_as_the_clean_image(broken):
    def script(view, x, y, eps):
        x_adv = x + eps
        x_adv[1] = broken
        return x_adv

    (outcome,) = outcomes(STEP, Scripted(script=script), DATA, [0.35])
    assert outcome.notes == "images not a number, taken as the clean image: 1"
    assert outcome.success.tolist() == [True, False, True, True]
    assert outcome.distance[1] == 0


@pytest.mark.parametrize(
    "wrong", [lambda x: x[:2], lambda x: x.flatten(1), lambda x: x.expand(-1, 3, -1, -1)]
)
def test_a_wrong_shape_raises(wrong):
    attack = Scripted(script=lambda view, x, y, eps: wrong(x))
    with pytest.raises(PluginError, match="the attack returned shape"):
        outcomes(STEP, attack, DATA, [0.1])


def test_an_attack_cannot_declare_success():
    # What is left in the box and fools nobody is no success, whatever the attack believes.
    (outcome,) = outcomes(STEP, Scripted(script=lambda view, x, y, eps: x), DATA, [0.4])
    assert outcome.success.tolist() == [False, False, False, True]


def test_an_attack_that_raises_passes_through_and_leaves_the_model_usable():
    def script(view, x, y, eps):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        outcomes(STEP, Scripted(script=script), DATA, [0.1])
    assert all(p.requires_grad for p in STEP.parameters())


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([PGD(steps=3), PGDL2(steps=3), PGD(steps=1, early_stop=False)]),
    st.lists(st.floats(0, 1), min_size=2, max_size=4, unique=True).map(sorted),
)
def test_accuracy_never_rises_with_eps(seed, attack, eps):
    rng = generator(seed)
    model = Linear(torch.randn(4, generator=rng), float(torch.randn((), generator=rng)))
    data = dataset(images(16, (1, 2, 2), seed), torch.randint(2, (16,), generator=rng))
    found = outcomes(model, attack, data, eps)
    for before, after in pairwise(found):
        assert (after.success | ~before.success).all()
    for outcome in found:
        inside = outcome.distance <= outcome.eps + 1e-6
        assert (outcome.success == (inside & (outcome.pred_adv != data.labels))).all()


def test_a_minimal_attack_runs_once_and_is_judged_at_every_eps():
    attack = Nearest(norm="linf")
    found = outcomes(STEP, attack, DATA, [0, 0.15, 0.25, 0.5])
    assert attack.calls == [3]  # the clean error is not attacked
    assert [accuracy(o) for o in found] == [0.75, 0.5, 0.25, 0]
    assert [o.n_forward.tolist() for o in found] == [[1, 1, 1, 0], [0] * 4, [0] * 4, [0] * 4]
    assert [o.n_backward.sum().item() for o in found] == [3, 0, 0, 0]
    for outcome in found[1:]:
        # The distances are the images' own, from inside the ball or outside.
        assert outcome.distance.tolist() == pytest.approx([0.3, 0.2, 0.1, 0], abs=0.005)
        assert outcome.notes == ""


def test_a_minimal_attack_that_finds_nothing_is_no_success_at_any_eps():
    class Nothing(Nearest):
        def run(self, view, x, y, *, generator):
            return x

    found = outcomes(STEP, Nothing(), DATA, [0, 5.0])
    assert found[1].success.tolist() == [False, False, False, True]


def test_pgd_searches_once_and_its_queries_count_in_the_first_cell():
    found = outcomes(STEP, PGD(steps=12), DATA, [0, 0.15, 0.25, 0.35])
    assert [accuracy(o) for o in found] == [0.75, 0.5, 0.25, 0]
    assert all(o.n_forward[3] == 0 for o in found)  # wrong without any attack
    assert (found[0].n_forward[:3] > 0).all()
    assert all(o.n_forward.sum() == o.n_backward.sum() == 0 for o in found[1:])
    for outcome in found:
        # Each image is the nearest found: judged at every eps by its distance, inside or outside.
        assert outcome.distance[0] <= 0.35 + 1e-6


def test_eps_0_is_no_ball_to_search(monkeypatch):
    seen = []
    monkeypatch.setattr(PGD, "descend", lambda self, view, x, y, **how: seen.append(how) or x)
    outcomes(STEP, PGD(steps=12), DATA, [0, 0.15, 0.25])
    assert seen[0]["budgets"] == [0.15, 0.25]
    outcomes(STEP, PGD(steps=12), DATA, [0])
    assert len(seen) == 1


def test_an_exact_sweep_attacks_every_image_at_every_eps():
    attack = Scripted(script=up)
    found = outcomes(STEP, attack, DATA, [0, 0.15, 0.25, 0.4], exact=True)
    assert attack.calls == [(3, 0.15), (3, 0.25), (3, 0.4)]
    assert [accuracy(o) for o in found] == [0.75, 0.5, 0.25, 0]
    assert [o.n_forward.sum().item() for o in found] == [0, 3, 3, 3]
    # Each eps has images of its own: none is kept from a smaller one.
    assert found[3].distance[:3].tolist() == pytest.approx([0.4] * 3, abs=1e-6)


def test_an_exact_sweep_of_pgd_runs_it_at_every_eps(monkeypatch):
    monkeypatch.setattr(PGD, "descend", None)
    found = outcomes(STEP, PGD(steps=4, random_start=False), DATA, [0.15, 0.25], exact=True)
    assert [accuracy(o) for o in found] == [0.5, 0.25]
    assert all((o.n_forward[:3] > 0).all() for o in found)


def test_an_exact_sweep_keeps_no_success():
    def script(view, x, y, eps):
        return x + eps if eps < 0.35 else x

    data = dataset(pixels(0.2), torch.tensor([0]))
    found = outcomes(STEP, Scripted(script=script), data, [0.34, 0.36], exact=True)
    assert [accuracy(o) for o in found] == [0, 1]


def test_a_minimal_attack_runs_once_in_an_exact_sweep_too():
    attack = Nearest(norm="linf")
    outcomes(STEP, attack, DATA, [0.15, 0.25], exact=True)
    assert attack.calls == [3]


class Steps(Progress):
    """Keeps how far the bar is and what stands behind it."""

    @contextmanager
    def task(self, description, total):
        self.description, self.total, self.done, self.texts = description, total, 0, []

        def advance(steps=1, status=None):
            self.done += steps
            self.texts += [status] if status else []

        yield advance


@pytest.mark.parametrize(
    ("attack", "exact", "texts"),
    [
        (Scripted(script=up), False, ["eps 0", "eps 0.15", "eps 0.25"]),
        (Scripted(script=up), True, ["eps 0", "eps 0.15", "eps 0.25"]),
        (Nearest(norm="linf"), False, ["nearest adversarial images"]),
    ],
)
def test_the_bar_is_full_at_the_end(attack, exact, texts):
    progress, budgets = Steps(), (0.0, 0.15, 0.25)
    spec = AttackSpec("toy", ThreatModel("linf", budgets), len(DATA))
    seeds = []
    found = sweep(
        *(STEP, attack, spec, DATA),
        seed_at=lambda eps: seeds.append(eps) or 7,
        progress=progress,
        exact=exact,
    )
    assert len(list(found)) == 3
    assert progress.description == "attacking"
    assert progress.done == progress.total == 3 * len(DATA)
    assert progress.texts == texts
    # The clean predictions' seed, then each search's own.
    assert seeds == [0.0, *([math.inf] if isinstance(attack, Nearest) else budgets)]


def test_a_sweep_is_not_exact_unless_that_is_asked_for():
    attack = Scripted(script=up)
    spec = AttackSpec("toy", ThreatModel("linf", (0.15, 0.25)), len(DATA))
    list(sweep(STEP, attack, spec, DATA, seed_at=lambda _: 7, progress=Progress()))
    assert attack.calls == [(3, 0.15), (2, 0.25)]


def test_an_attack_draws_from_the_cells_seed():
    seen = []

    class Seeing(Scripted):
        def run(self, view, x, y, *, eps, generator):
            seen.append((generator.initial_seed(), y.tolist()))
            return x

    class SeeingNearest(Nearest):
        def run(self, view, x, y, *, generator):
            seen.append((generator.initial_seed(), y.tolist()))
            return x

    for attack in (Seeing(script=up), SeeingNearest(norm="linf")):
        outcomes(STEP, attack, DATA, [0.1])
    seeds = [derive_seed("test", eps) for eps in (0.1, math.inf)]
    assert seen == [(generator(seed).initial_seed(), [0, 0, 0]) for seed in seeds]


def test_a_descending_search_has_a_seed_for_every_sample(monkeypatch):
    seen = []
    monkeypatch.setattr(PGD, "descend", lambda self, view, x, y, **how: seen.append(how) or x)
    outcomes(STEP, PGD(steps=12), DATA, [0.1])
    seed = derive_seed("test", math.inf)
    assert seen[0]["seeds"] == [derive_seed(seed, int(row)) for row in DATA.sample_ids[:3]]


def test_a_stochastic_defense_is_attacked_from_scratch_at_every_eps():
    model = Noisy(torch.ones(1), [0.0], -0.5)
    attack = Scripted(script=up)
    found = outcomes(model, attack, DATA, [0, 0.15, 0.25, 0.4])
    assert attack.calls == [(3, 0.15), (3, 0.25), (3, 0.4)]
    assert [accuracy(o) for o in found] == [0.75, 0.5, 0.25, 0]
    assert all(o.n_forward.tolist() == [1, 1, 1, 0] for o in found[1:])


def test_lucky_draws_are_not_collected():
    # Attacks that succeed at the first budget only: a deterministic defense has fallen for good,
    # a stochastic one has not.
    def script(view, x, y, eps):
        return x + eps if eps < 0.35 else x

    for model, accuracies in (
        (STEP, [0, 0]),
        (Noisy(torch.ones(1), [0.0], -0.5), [0, 1]),
    ):
        data = dataset(pixels(0.2), torch.tensor([0]))
        found = outcomes(model, Scripted(script=script), data, [0.34, 0.36])
        assert [accuracy(o) for o in found] == accuracies


def test_eot_and_bpda_reach_the_view():
    seen = []

    def script(view, x, y, eps):
        seen.append((view.eot, view.bpda, view.rows))
        return x

    outcomes(STEP, Scripted(script=script), DATA, [0.1], eot=3, bpda=True)
    assert seen == [(3, True, 3)]


def test_same_seed_same_outcome_and_global_random_state_untouched():
    model = Linear(torch.tensor([1.0, -1.0, 0.5, -0.5]), 0.1)
    data = dataset(images(20, (1, 2, 2)), torch.arange(20) % 2)
    state = torch.get_rng_state()
    first, again = (outcomes(model, PGD(steps=2), data, [0.05, 0.1]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.distance, other.distance)
        assert torch.equal(one.n_forward, other.n_forward)


def test_batches_do_not_mix_up_the_rows(monkeypatch):
    monkeypatch.setattr("benchmark.evaluation.sweep.BATCH_SIZE", 3)
    values = [0.1 + 0.01 * i for i in range(8)]
    attack = Scripted(script=lambda view, x, y, eps: x + x)  # moves by the pixel's own value
    (outcome,) = outcomes(STEP, attack, dataset(pixels(*values), torch.zeros(8).long()), [0.4])
    assert [n for n, _ in attack.calls] == [3, 3, 2]
    assert outcome.distance.tolist() == pytest.approx(values, abs=0.003)


def test_a_clamping_defense_is_noted_and_differentiated_inside():
    def logits(x):
        held = 1 - torch.relu(1 - torch.relu(x))
        value = 10 * (held.flatten(1).mean(1) - 0.25)
        return torch.stack([torch.zeros_like(value), value], 1)

    data = dataset(torch.zeros(4, 1, 2, 2), torch.zeros(4).long())
    (outcome,) = outcomes(Function(logits), PGD(steps=4, random_start=False), data, [0.3])
    assert "the defense clamps its input: gradients were taken 1e-06 inside" in outcome.notes
    assert outcome.success.all()  # without that the gradient is 0 and no step is made


def test_a_run_is_exact_where_its_spec_says_so_and_older_specs_are_not():
    spec = plan(dataset="digits", preset="smoke", device="cpu", defenses=["undefended"], exact=True)
    assert spec.exact
    assert RunSpec.from_json(spec.to_json()) == spec
    older = json.loads(spec.to_json())
    del older["exact"]
    assert RunSpec.from_json(json.dumps(older)).exact is False


def test_the_runner_hands_exact_on(tmp_path, monkeypatch):
    asked = []

    def spy(*args, exact, **options):
        asked.append(exact)
        return sweep(*args, exact=exact, **options)

    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(runner, "sweep", spy)
    attack = AttackSpec("pgd", ThreatModel("linf", (0.0, 0.1)), 10, params={"steps": 2})
    spec = RunSpec("digits", "smoke", 60, 10, (0,), "cpu", (DefenseSpec("toys:Tiny"),), (attack,))
    for exact in (False, True):
        runner.run(
            replace(spec, exact=exact),
            out=tmp_path,
            command="run",
            progress=Progress(),
        )
    assert asked == [False, True]


class Upwards(Scripted):
    """Another library's attack, run at each eps."""


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    "attack",
    [PGD(steps=12), PGDL2(steps=12), CarliniWagner(steps=20), Nearest(), Upwards(script=up)],
    ids=lambda attack: type(attack).__name__,
)
def test_at_eps_0_there_is_the_clean_image_and_nothing_else(attack, exact):
    found = outcomes(STEP, attack, DATA, [0, 0.15, 0.5], exact=exact)
    at_rest, *others = found
    assert torch.equal(at_rest.pred_adv, at_rest.pred_clean)
    assert (at_rest.distance == 0).all()
    assert torch.equal(at_rest.pictures, DATA.x())
    assert torch.equal(at_rest.success, ~at_rest.correct)
    assert others[-1].success.all()
    assert (others[-1].distance[:3] > 0).all()


@pytest.mark.parametrize(
    "attack",
    [
        PGD(steps=12),
        PGDL2(steps=12),
        CarliniWagner(steps=20),
        torchattacks.PGDL2(steps=12),
    ],
    ids=["pgd", "pgd-l2", "cw", "torchattacks"],
)
def test_nan_at_one_pixel_of_the_gradient_stops_no_attack(attack):
    def score(x):
        whole = x.flatten(1)
        # The gradient of its first pixel is NaN everywhere, its value is 0.
        hole = (whole[:, 0] - whole[:, 0]).sqrt()
        value = whole[:, 1:].sum(1) + hole - 1.5
        return torch.stack([torch.zeros_like(value), value], 1)

    data = dataset(torch.full((6, 1, 2, 2), 0.4), torch.zeros(6).long())
    found = outcomes(Function(score), attack, data, [0, 0.01, 0.8])
    assert [accuracy(outcome) for outcome in found] == [1, 1, 0]
    notes = "; ".join(outcome.notes for outcome in found)
    assert "the gradient held NaN or infinity at 6 images: NaN was taken as 0" in notes


def test_images_with_a_broken_gradient_are_counted_over_all_batches(monkeypatch):
    monkeypatch.setattr("benchmark.evaluation.sweep.BATCH_SIZE", 4)

    def score(x):
        whole = x.flatten(1)
        value = whole[:, 1:].sum(1) + (whole[:, 0] - whole[:, 0]).sqrt() - 1.5
        return torch.stack([torch.zeros_like(value), value], 1)

    data = dataset(torch.full((6, 1, 2, 2), 0.4), torch.zeros(6).long())
    (outcome,) = outcomes(Function(score), PGD(steps=4), data, [0.01])
    assert "the gradient held NaN or infinity at 6 images" in outcome.notes


def test_the_cells_say_what_was_searched_in(monkeypatch):
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: True)
    model, x = SmallCNN(seed=3), images(12, seed=3)
    data = dataset(x, model.predict((x * 255).round() / 255), 3)
    assert {o.search_dtype for o in outcomes(model, PGD(), data, [0, 0.1])} == {"bfloat16"}
    assert {o.search_dtype for o in outcomes(model, PGDL2(), data, [0.1], exact=True)} == {
        "float32"
    }
    assert outcomes(model, PGD(), data, [0])[0].search_dtype == ""
