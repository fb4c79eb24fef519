"""PGD's one search for all eps: closed forms on linear models, PGD from scratch, independence."""

from itertools import pairwise

import pytest
import torch
from descents import MODEL, NORMS, X, Y, _per_sample_model, descend, levels
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from linear import best_linear
from margins import lead
from toys import Function, Linear, SmallCNN, images

from benchmark.attacks import eps_descent, precision
from benchmark.attacks.norms import distance
from benchmark.attacks.pgd import FGSM, PGD
from benchmark.attacks.view import attack_view
from benchmark.config.threat import tolerance
from benchmark.seeding import generator


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch):
    """Steps and queries are counted here; :mod:`test_precision` has the coarser search."""
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: False)


GRIDS = {
    "linf": [[0.1], [0.02, 0.4], [0.05 * i for i in range(1, 9)], [1e-3, 0.01, 0.1, 1.0]],
    "l2": [[1.0], [0.2, 4.0], [0.25 * i for i in range(1, 9)], [0.01, 0.1, 1.0, 8.0]],
}


def linear(seed, n=24, pixels=64):
    """A linear model in float64, images, and its own answers as their labels."""
    w = torch.randn(pixels, generator=generator(seed)).double()
    x = images(n, (1, 8, 8), seed).double()
    # Half of the images on either side, at all distances from the boundary.
    middle = (x.flatten(1) @ w).sort().values[n // 2 - 1 : n // 2 + 1]
    assert middle.diff() > 1e-9
    model = Linear(w, -float(middle.mean()))
    return model, x, model.predict(x)


def closed_form(model, x, y, budgets, norm):
    """The level at which each sample falls, and who is too near to a level to tell (N,)."""
    towards = torch.where(y[:, None] == 1, -model.w, model.w).detach()
    start = x.flatten(1)
    lacking = (-(start @ model.w + model.b) * torch.where(y == 1, -1.0, 1.0)).detach()
    level, unclear = torch.full((len(x),), len(budgets)), torch.zeros(len(x), dtype=torch.bool)
    for index in reversed(range(len(budgets))):
        gained = ((best_linear(start, towards, budgets[index], norm) - start) * towards).sum(1)
        level[gained > lacking] = index
        unclear |= (gained - lacking).abs() < 2e-3 * lacking
    return level, unclear


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_finds_the_smallest_ball_of_a_linear_model(norm, random_start):
    clear = 0
    for seed, budgets in enumerate(GRIDS[norm]):
        model, x, y = linear(seed)
        level, unclear = closed_form(model, x, y, budgets, norm)
        x_adv, _, _ = descend(model, NORMS[norm](random_start=random_start), x, y, budgets)
        found = levels(model, x_adv, x, y, budgets, norm)
        assert torch.equal(found[~unclear], level[~unclear])
        clear += int((~unclear).sum())
    assert clear > 80  # of 96


@pytest.mark.parametrize("step_size", [None, 0.05])
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 40])
def test_reaches_the_smallest_linf_ball_with_any_number_of_steps(steps, restarts, step_size):
    # Two eps away is the far corner of the ball, the furthest that a random start can be.
    if step_size is not None:
        step_size = min(1.0, max(step_size, 0.8 / steps * 4 / 3))
    budgets = GRIDS["linf"][2]
    model, x, y = linear(9)
    level, unclear = closed_form(model, x, y, budgets, "linf")
    pgd = PGD(steps=steps, restarts=restarts, step_size=step_size)
    found = levels(model, descend(model, pgd, x, y, budgets)[0], x, y, budgets, "linf")
    assert torch.equal(found[~unclear], level[~unclear])


@pytest.mark.parametrize("norm", NORMS)
def test_who_falls_nowhere_and_who_falls_at_once(norm):
    x = images(5)
    y = torch.zeros(5).long()
    never, at_once = Linear(torch.ones(64), -1000), Linear(torch.ones(64), 1000)
    budgets = GRIDS[norm][2]
    robust, forwards, backwards = descend(never, NORMS[norm](steps=4), x, y, budgets)
    assert (levels(never, robust, x, y, budgets, norm) == len(budgets)).all()
    assert (distance(robust, x, norm) <= budgets[-1] + tolerance(budgets[-1])).all()
    assert forwards.tolist() == backwards.tolist() == [5] * 5  # the start and four steps
    # The start may lie anywhere in the largest ball: one step down each ball at most.
    fooled, forwards, _ = descend(at_once, NORMS[norm](steps=4), x, y, budgets)
    assert (levels(at_once, fooled, x, y, budgets, norm) == 0).all()
    assert (forwards <= len(budgets)).all()


def test_one_level_is_pgd():
    model, x, y = linear(3)
    x_adv, forwards, _ = descend(model, PGD(steps=7), x, y, [0.05])
    fooled = levels(model, x_adv, x, y, [0.05], "linf") == 0
    level, unclear = closed_form(model, x, y, [0.05], "linf")
    assert torch.equal(fooled[~unclear], (level == 0)[~unclear])
    assert (forwards[~fooled] == 8).all()
    assert (forwards[fooled] <= 8).all()


def test_the_last_step_of_a_run_is_the_shortest():
    lengths = []

    def logits(x):
        seen.append(x.detach().clone())
        value = x.flatten(1).sum(1) - 5
        return torch.stack([torch.zeros_like(value), value], 1)

    seen = []
    x = torch.full((1, 1, 1, 1), 0.5)
    descend(Function(logits), PGD(steps=40, random_start=False), x, torch.tensor([0]), [0.4])
    # A slope of 1 towards 0.9: the iterates climb by each step's length until the border.
    climbed = [float(b - a) for a, b in pairwise(seen[-41:])]
    assert len(climbed) == 40
    assert climbed[0] == pytest.approx(0.25 * 0.4, rel=1e-4)
    search = eps_descent.Descent("linf", lambda *_: None, 40, 1, None, True)
    for age in range(1, 41):
        one = search._length(torch.tensor([1.0]), torch.tensor([age]), torch.tensor([True]))
        lengths.append(float(one))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == pytest.approx(eps_descent.LAST, abs=2e-3)


@pytest.mark.parametrize("restarts", [1, 2, 3])
def test_every_run_takes_its_steps(restarts):
    """Counted by where the iterates are: no step away from a new start may be left out."""
    seen = []

    def logits(x):
        seen.append(float(x.detach()))
        value = x.flatten(1).sum(1) - 5
        return torch.stack([torch.zeros_like(value), value], 1)

    x = torch.full((1, 1, 1, 1), 0.5)
    pgd = PGD(steps=3, restarts=restarts)
    _, forwards, backwards = descend(Function(logits), pgd, x, torch.tensor([0]), [0.4])
    assert forwards.tolist() == backwards.tolist() == [4 * restarts]
    for run in range(restarts):
        assert seen[4 * run + 3] == pytest.approx(0.9)  # at the border after three steps
    starts = {round(seen[4 * run], 6) for run in range(restarts)}
    assert len(starts) == restarts


def standing(model, pgd, x, y, budgets, seed=0):
    """How many stand at each eps, by PGD from scratch and by the descent."""
    scratch = []
    with attack_view(model, len(x)) as view:
        for index, eps in enumerate(budgets):
            x_adv = pgd.run(view, x, y, eps=eps, generator=generator(1000 * seed + index))
            scratch.append(int((model.predict(x_adv) == y).sum()))
    seeds = [1000 * seed + i for i in range(len(x))]
    x_adv, _, _ = descend(model, pgd, x, y, budgets, seeds=seeds)
    level = levels(model, x_adv, x, y, budgets, pgd.norm)
    return scratch, [int((level > index).sum()) for index in range(len(budgets))]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 4, 10]), st.booleans())
def test_no_weaker_than_pgd_from_scratch_on_a_linear_model(seed, steps, random_start):
    model, x, y = linear(seed)
    budgets = GRIDS["linf"][2]
    _, unclear = closed_form(model, x, y, budgets, "linf")
    x, y = x[~unclear], y[~unclear]
    assume(len(x))
    pgd = PGD(steps=steps, random_start=random_start)
    scratch, descended = standing(model, pgd, x, y, budgets, seed)
    assert descended <= scratch  # element by element they are equal: both find the optimum
    assert descended == scratch


@pytest.mark.parametrize("norm", NORMS)
def test_as_strong_as_pgd_from_scratch_on_random_networks(norm):
    """Both are heuristics and either may find what the other misses, so the sum is bounded."""
    scratch, descended = torch.zeros(6), torch.zeros(6)
    for seed in range(12):
        model, x = SmallCNN(seed), images(32, seed=seed)
        y = model.predict(x)
        far = 0.03 if norm == "linf" else 0.25
        budgets = [far * i for i in range(1, 7)]
        one, other = standing(model, NORMS[norm](steps=20), x, y, budgets, seed)
        scratch += torch.tensor(one)
        descended += torch.tensor(other)
    assert 0 < scratch[-1] < scratch[0] < 12 * 32  # the grid is where the answer changes
    assert (descended <= scratch + 0.01 * 12 * 32).all()
    assert descended.sum() <= scratch.sum() + 0.005 * 6 * 12 * 32


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(1, 6),
    st.sampled_from(list(NORMS)),
)
def test_queries_are_bounded(seed, steps, restarts, n_levels, norm):
    model, x = SmallCNN(seed), images(12, seed=seed)
    y = model.predict(x)
    budgets = [(0.03 if norm == "linf" else 0.25) * i for i in range(1, n_levels + 1)]
    pgd = NORMS[norm](steps=steps, restarts=restarts)
    x_adv, forwards, backwards = descend(model, pgd, x, y, budgets)
    assert torch.equal(forwards, backwards)
    # In doubt is whose image the search, of fewer images at a time, may have seen elsewhere.
    clear = (lead(model(x_adv)) > 1e-5) & (lead(model(x)) > 1e-5)
    assert clear.sum() >= 10
    forwards = forwards[clear]
    level = levels(model, x_adv, x, y, budgets, norm)[clear]
    full = (steps + 1) * restarts
    robust = (level > 0).long()
    assert (forwards >= full * robust).all()
    # In each ball with an adversarial image, it was found by the last iterate of a run.
    assert (forwards <= full * (robust + n_levels - level)).all()


def test_falling_costs_little_where_the_model_is_smooth():
    """The walk, a full run where it is robust, a few steps for each ball where it is not."""
    model, x, y = linear(0)
    budgets = [0.025 * i for i in range(1, 17)]
    x_adv, forwards, _ = descend(model, PGD(), x, y, budgets)
    fell_in = len(budgets) - levels(model, x_adv, x, y, budgets, "linf")
    assert (forwards <= 6 + 41 + 4 * fell_in).all()


def test_the_walk_grows_from_the_image_towards_the_largest_ball():
    seen = []

    def logits(x):
        seen.append(float(x.detach()) - 0.5)
        value = x.flatten(1).sum(1) - 5
        return torch.stack([torch.zeros_like(value), value], 1)

    x = torch.full((1, 1, 1, 1), 0.5)
    descend(Function(logits), PGD(steps=40), x, torch.tensor([0]), [0.1, 0.4])
    assert seen[0] == 0
    assert seen[1:6] == pytest.approx([0.05 * 8 ** (k / 5) for k in range(5)], rel=1e-4)
    assert len(seen) == 6 + 41  # and then the run in the largest ball


def test_a_ball_that_misleads_is_left_for_the_next_smaller_one():
    """Beyond 0.2 the image is what it was; it takes 0.18, and the walk has nothing between."""

    def logits(x):
        far = (x - 0.5).abs().flatten(1).amax(1)
        seen = torch.where((far > 0.2).view(-1, 1, 1, 1), torch.full_like(x, 0.5), x)
        value = seen.flatten(1).mean(1) - 0.68
        return torch.stack([torch.zeros_like(value), value], 1)

    model, x = Function(logits), torch.full((8, 1, 4, 4), 0.5)
    y, budgets = torch.zeros(8).long(), GRIDS["linf"][2]
    x_adv, forwards, _ = descend(model, PGD(steps=40), x, y, budgets)
    level = levels(model, x_adv, x, y, budgets, "linf")
    assert (level == 3).all()  # 0.2 is the smallest eps above 0.18
    assert (forwards <= 6 + 41 * len(budgets)).all()


BUDGETS = [0.05, 0.1, 0.2, 0.4]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 40])
def test_results_do_not_depend_on_the_batch_size(pgd, batch_size):
    reference = descend(MODEL, pgd, X, Y, BUDGETS)
    again = descend(MODEL, pgd, X, Y, BUDGETS, batch_size=batch_size)
    for one, other in zip(reference, again, strict=True):
        assert torch.equal(one, other)


def test_results_do_not_depend_on_the_order_or_on_further_images(pgd):
    reference, forwards, _ = descend(MODEL, pgd, X, Y, BUDGETS)
    order = torch.randperm(40, generator=generator(1))
    shuffled, shuffled_forwards, _ = descend(
        MODEL, pgd, X[order], Y[order], BUDGETS, seeds=order.tolist(), batch_size=3
    )
    assert torch.equal(shuffled, reference[order])
    assert torch.equal(shuffled_forwards, forwards[order])
    fewer, _, _ = descend(MODEL, pgd, X[:11], Y[:11], BUDGETS)
    assert torch.equal(fewer, reference[:11])


def test_a_convolution_may_differ_in_the_last_bits_only():
    """Its kernels sum in another order for another batch size, so bits are no promise there."""
    model, x = SmallCNN(3), images(24, seed=3)
    y = model.predict(x)
    budgets = [0.03, 0.06, 0.09]
    found = [
        levels(
            model, descend(model, PGD(), x, y, budgets, batch_size=size)[0], x, y, budgets, "linf"
        )
        for size in (1, 5, 24)
    ]
    assert (found[0] != found[2]).sum() <= 1
    assert (found[1] != found[2]).sum() <= 1


@pytest.mark.parametrize("stride", [2, 8])
def test_looking_less_often_changes_nothing_but_the_count(pgd, stride, monkeypatch):
    reference, forwards, _ = descend(MODEL, pgd, X, Y, BUDGETS, batch_size=7)
    monkeypatch.setitem(eps_descent.STRIDE, "cpu", stride)
    strided, more, _ = descend(MODEL, pgd, X, Y, BUDGETS, batch_size=7)
    assert torch.equal(strided, reference)
    assert ((more >= forwards) & (more < forwards + stride)).all()


def test_one_step_of_fgsm_is_one_step_in_every_ball():
    """Descending would stop at the first ball that one step misses; smaller ones may still fall."""
    assert not FGSM().serves_sweeps


def test_no_number_never_replaces_an_image_that_fools():
    """The slope is NaN near the boundary: the image from the larger ball must survive."""

    def logits(x):
        value = x.flatten(1).sum(1)
        root = torch.where(value < 0.75, (value - value).sqrt() * 0, 0.0)  # 0, its slope not
        return torch.stack([torch.zeros_like(value), value - 0.7 + root], 1)

    x = torch.full((6, 1, 1, 1), 0.5)
    y = torch.zeros(6).long()
    model = Function(logits)
    x_adv, _, _ = descend(model, PGD(steps=6), x, y, [0.05, 0.1, 0.4])
    assert x_adv.isfinite().all()
    fooled = levels(model, x_adv, x, y, [0.05, 0.1, 0.4], "linf") < 3
    starts = descend(model, PGD(steps=6), x, y, [0.4])[0]
    assert torch.equal(fooled, model.predict(starts) != y)
    assert fooled.any()


class Hungry(Function):
    """Runs out of memory above ``most`` images, or whenever ``when`` says so."""

    def __init__(self, most, error=None, when=None):
        super().__init__(_per_sample_model)
        self.most = most
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        self.when = when or (lambda call: True)
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most and self.when(len(self.sizes)):
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("most", [1, 5, 39])
def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(pgd, most, error):
    reference, forwards, backwards = descend(MODEL, pgd, X, Y, BUDGETS)
    model = Hungry(most, error)
    found, more, as_many = descend(model, pgd, X, Y, BUDGETS)
    assert torch.equal(found, reference)
    assert torch.equal(backwards, as_many)  # no step that succeeded was taken twice
    assert torch.equal(forwards, more)
    assert [size for size in model.sizes if size > most] == {
        1: [40, 20, 10, 5, 2],
        5: [40, 20, 10],
        39: [40],
    }[most]


def test_memory_may_run_out_in_the_middle(pgd, monkeypatch):
    monkeypatch.setitem(eps_descent.STRIDE, "cpu", 4)
    reference, _, _ = descend(MODEL, pgd, X, Y, BUDGETS)
    # The stride in which it happens starts again, from the state of the pool before it.
    model = Hungry(6, when=lambda call: call % 5 == 0)
    found, _, _ = descend(model, pgd, X, Y, BUDGETS)
    assert torch.equal(found, reference)
    assert sum(size > 6 for size in model.sizes) > 5


def test_one_image_too_many_says_so(pgd):
    with pytest.raises(torch.OutOfMemoryError, match=r"a single image does not fit .*CUDA out of"):
        descend(Hungry(0), pgd, X, Y, BUDGETS)


def test_another_error_passes_through_as_it_is(pgd):
    with pytest.raises(RuntimeError, match=r"^boom$"):
        descend(Hungry(3, RuntimeError("boom")), pgd, X, Y, BUDGETS)
