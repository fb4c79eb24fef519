"""The sweep, whatever the model: monotone, independent, confirmed by its images, flat in memory."""

import gc
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from margins import MARGIN, clear_answers
from sweeps import outcomes
from toys import Function, Linear, Nearest, Scripted, dataset, images

from benchmark.attacks.cw import CarliniWagner
from benchmark.attacks.norms import distance
from benchmark.attacks.pgd import PGD, PGDL2
from benchmark.batching import LARGEST, Batches, fitting, gpu_batch_size
from benchmark.config.threat import tolerance
from benchmark.evaluation import sweep as sweep_module
from benchmark.results.pictures import PICTURED
from benchmark.seeding import generator

N = 14
GRIDS = st.lists(st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.3, 0.6]), min_size=1, unique=True)


def wavy(seed):
    """A curved model of sums and products alone, which have the same bits in any batch.

    Functions such as a sine are computed in other ways at the end of a batch than within.
    """
    a, b, c = (6 * torch.rand(3, generator=generator(seed)) - 3).tolist()

    def logits(x):
        p, q, r, s = x.double().flatten(1).unbind(1)
        wave = (p - q) * (a * r - 1) * (b * s + 0.5) + c * (p - 0.5) * (r - s) + q * s - 0.3
        return torch.stack([torch.zeros_like(wave), wave], 1).to(x)

    return Function(logits)


def data_for(model, seed, n=N):
    """Images of which the model gets about three quarters right."""
    data = dataset(images(n, (1, 2, 2), seed), torch.zeros(n).long())
    labels = model.predict(data.x())
    labels[::4] = 1 - labels[::4]
    return dataset(data.x(), labels)


ATTACKS = [
    PGD(steps=12, loss="margin"),
    PGD(steps=12, restarts=2, step_size=0.05, loss="margin"),
    PGDL2(steps=12, loss="margin"),
    PGD(steps=3, early_stop=False),
    CarliniWagner(steps=5, search_steps=2, lr=0.1),
]
DESCENDING = ATTACKS[:3]
assert all(attack.serves_sweeps for attack in DESCENDING)


def kept_images(model, attack, data, grid, monkeypatch):
    """The outcomes, and of each the images (N, C, H, W) that it was judged by."""
    monkeypatch.setattr(sweep_module, "PICTURED", len(data))
    return outcomes(model, attack, data, grid)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(ATTACKS), GRIDS)
def test_accuracies_never_rise_and_the_images_confirm_them(seed, attack, grid):
    model = wavy(seed)
    data = data_for(model, seed)
    with pytest.MonkeyPatch.context() as patch:
        found = kept_images(model, attack, data, sorted(grid), patch)
    for before, after in pairwise(found):
        assert (after.success | ~before.success).all()
    for outcome in found:
        assert torch.equal(outcome.pred_clean, model.predict(data.x()))
        assert torch.equal(outcome.correct, outcome.pred_clean == data.labels)
        far = distance(outcome.pictures, data.x(), attack.norm)
        rescored = model.predict(outcome.pictures) != data.labels
        fooled = rescored & (far <= outcome.eps + tolerance(outcome.eps))
        # No accuracy below what its own images give, and none above.
        assert torch.equal(outcome.success, ~outcome.correct | fooled)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([*DESCENDING, ATTACKS[-1]]),
    st.integers(1, N),
    st.permutations(range(N)),
)
def test_neither_batches_nor_order_change_an_outcome(seed, attack, batch_size, order):
    """Of what draws each sample's own random numbers, or none."""
    model, grid = wavy(seed), [0.05, 0.1, 0.3]
    data = data_for(model, seed)
    reference = outcomes(model, attack, data, grid)
    index = torch.tensor(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_module, "BATCH_SIZE", batch_size)
        found = outcomes(model, attack, data.select(index), grid)
    for one, other in zip(reference, found, strict=True):
        if attack in DESCENDING:
            assert torch.equal(one.success[index], other.success)
            assert torch.equal(one.distance[index], other.distance)
            assert torch.equal(one.n_forward[index], other.n_forward)
        else:  # C&W's tanh and its inverse are such functions: on the ball's edge, bits decide
            assert torch.allclose(one.distance[index], other.distance, atol=1e-5)
            clear = (other.distance - other.eps).abs() > MARGIN
            assert torch.equal(one.success[index][clear], other.success[clear])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(DESCENDING), st.integers(1, N - 1))
def test_further_images_change_nothing(seed, attack, n):
    model, grid = wavy(seed), [0.05, 0.3]
    data = data_for(model, seed)
    for one, other in zip(
        outcomes(model, attack, data, grid),
        outcomes(model, attack, data.head(n), grid),
        strict=True,
    ):
        assert torch.equal(one.success[:n], other.success)
        assert torch.equal(one.distance[:n], other.distance)


# --- an eps more on the grid
#
# An attack that ascends, an exact sweep and a minimal attack keep what they found at the other eps:
# an ascending one at those below the new one, for what falls there is kept above. A descending
# search takes other steps from the new ball on: what fell in a larger ball, and who stood in the
# largest, stays; below the new one either may find what the other misses.


@pytest.mark.parametrize("new", [0.02, 0.2])
def test_an_eps_more_changes_no_exact_number(new):
    grid = [0.05, 0.1, 0.3]
    for seed in range(4):
        model = wavy(seed)
        data = data_for(model, seed)
        for attack, exact in ((PGD(steps=4), True), (ATTACKS[-1], False)):
            before = {o.eps: o for o in outcomes(model, attack, data, grid, exact=exact)}
            after = outcomes(model, attack, data, sorted([*grid, new]), exact=exact)
            for outcome in after:
                if outcome.eps != new:
                    assert torch.equal(outcome.success, before[outcome.eps].success)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(DESCENDING), st.sampled_from([0.0, 0.02, 0.07, 0.2]))
def test_an_eps_more_leaves_the_larger_balls_as_they_were(seed, attack, new):
    model, grid = wavy(seed), [0.05, 0.1, 0.3]
    data = data_for(model, seed)
    before = {o.eps: o for o in outcomes(model, attack, data, grid)}
    for outcome in outcomes(model, attack, data, sorted([*grid, new])):
        larger_balls_end_here = outcome.eps > new and not any(
            new < eps < outcome.eps for eps in grid
        )
        if outcome.eps > new and (outcome.eps == 0.3 or not larger_balls_end_here):
            assert torch.equal(outcome.success, before[outcome.eps].success)


def test_a_smaller_grid_below_costs_no_strength_above():
    """Balls below the smallest change nothing: each sample has been there, or never gets there."""
    model = wavy(3)
    data = data_for(model, 3)
    few = outcomes(model, PGD(steps=6), data, [0.1, 0.3])
    more = outcomes(model, PGD(steps=6), data, [0.01, 0.05, 0.1, 0.3])
    assert torch.equal(few[-1].success, more[-1].success)


# --- memory


def image_bytes(shape):
    """Bytes of the live tensors that hold images of ``shape``, each storage once."""
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and tuple(thing.shape[-3:]) == shape:
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


def peak(attack_of, grid, *, exact=False):
    """The most bytes of images that live during a sweep, and what its outcomes hold after it."""
    shape, seen = (1, 9, 7), []

    def logits(x):
        seen.append(image_bytes(shape))
        value = x.flatten(1).mean(1) - 0.5
        return torch.stack([torch.zeros_like(value), value], 1)

    model = Function(logits)
    data = dataset(images(60, shape), torch.zeros(60).long())
    found = outcomes(model, attack_of(), data, grid, exact=exact)
    held = sum(o.pictures.untyped_storage().nbytes() for o in found)
    vectors = sum(
        value.nbytes
        for o in found
        for name, value in vars(o).items()
        if isinstance(value, torch.Tensor) and name != "pictures"
    )
    return max(seen), held, vectors


@pytest.mark.parametrize(
    ("attack_of", "exact"),
    [
        (lambda: PGD(steps=1), False),
        (lambda: PGD(steps=1), True),
        (lambda: PGD(steps=1, early_stop=False), False),
        (lambda: CarliniWagner(steps=1, search_steps=1), False),
    ],
)
def test_memory_is_flat_in_the_number_of_eps(attack_of, exact):
    few, many = ([0.4 * (i + 1) / n for i in range(n)] for n in (2, 8))
    image = 9 * 7 * 4
    (least, _, _), (most, held, vectors) = (
        peak(attack_of, grid, exact=exact) for grid in (few, many)
    )
    # Of each eps only the pictured images stay, and a few numbers per sample.
    assert most <= least + 6 * (PICTURED * image) + image
    assert held <= 8 * PICTURED * image
    assert vectors <= 8 * 60 * 6 * 8


# --- memory that runs out


def hungry(most, script):
    """An attack that runs out of memory above ``most`` images."""

    def run(view, x, y, eps):
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return script(view, x, y, eps)

    return Scripted(script=run)


def up(view, x, y, eps):
    view.logits(x)
    return (x + eps).clamp(0, 1)


# The mean of four grey levels is a multiple of 1 / 1020, as are the budgets 0.1 and 0.3: between
# two multiples no image stands on the boundary, attacked or not.
BOUNDARY = 440.5 / 1020
STEP = Linear(torch.ones(4) / 4, -BOUNDARY)


@pytest.mark.parametrize("most", [1, 3, 6, 13])
def test_a_batch_that_does_not_fit_is_run_again_in_halves(most):
    data = dataset(images(N, (1, 2, 2)) / 2, torch.zeros(N).long())
    attack = hungry(most, up)
    with clear_answers(STEP):
        reference = outcomes(STEP, Scripted(script=up), data, [0.1, 0.3])
        found = outcomes(STEP, attack, data, [0.1, 0.3])
    assert 0 < int(reference[0].success.sum()) < int(reference[1].success.sum()) < N
    for one, other in zip(reference, found, strict=True):
        assert torch.equal(one.success, other.success)
        assert torch.equal(one.distance, other.distance)
        assert torch.equal(one.n_forward, other.n_forward)
        assert "memory ran out: batches of" in other.notes
    failed = [n for n, _ in attack.calls if n > most]
    assert len(failed) <= 4  # once per halving, not once per batch or eps
    done = sum(n for n, eps in attack.calls if n <= most and eps == 0.1)
    assert done == int(reference[0].correct.sum())  # nothing twice, nothing left out


def test_a_defense_that_runs_out_of_memory_is_asked_for_less():
    class Hungry(Linear):
        def forward(self, x):
            if len(x) > 3:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
            return super().forward(x)

    hungry_step = Hungry(torch.ones(4) / 4, -BOUNDARY)
    data = dataset(images(N, (1, 2, 2)) / 2, torch.zeros(N).long())
    for attack in (PGD(steps=3), PGD(steps=3, early_stop=False), Nearest(norm="linf")):
        with pytest.MonkeyPatch.context() as patch, clear_answers(hungry_step):
            # The few images that tell whether the defense clamps fit.
            patch.setattr("benchmark.evaluation.scoring.inside_for", lambda *_: 0.0)
            found = outcomes(hungry_step, attack, data, [0.1, 0.3])
        with clear_answers(STEP):
            reference = outcomes(STEP, attack, data, [0.1, 0.3])
        for one, other in zip(reference, found, strict=True):
            assert torch.equal(one.success, other.success)


def test_one_image_too_many_raises_with_a_clear_line():
    data = dataset(images(N, (1, 2, 2)) / 2, torch.zeros(N).long())
    with pytest.raises(torch.OutOfMemoryError, match=r"a single image does not fit .* Tried to"):
        outcomes(STEP, hungry(0, up), data, [0.1])


def test_halves_draw_the_numbers_of_the_whole():
    """What the module promises on the CPU, for one l-inf start; where draws differ, it says so."""

    def noisy(view, x, y, eps):
        return (x + eps * (2 * torch.rand(x.shape) - 1)).clamp(0, 1)

    data = dataset(images(N, (1, 2, 2)) / 2, torch.zeros(N).long())
    (whole,) = outcomes(STEP, Scripted(script=noisy), data, [0.3])
    (halves,) = outcomes(STEP, hungry(4, noisy), data, [0.3])
    assert torch.equal(whole.distance, halves.distance)

    model = wavy(1)
    labelled = data_for(model, 1)
    attack = PGD(steps=3, early_stop=False, loss="margin")
    (whole,) = outcomes(model, attack, labelled, [0.2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_module, "BATCH_SIZE", 4)
        (halves,) = outcomes(model, attack, labelled, [0.2])
    assert torch.equal(whole.distance, halves.distance)


def test_what_failed_leaves_no_draw_behind():
    rng, drawn = generator(3), []

    def work(part):
        numbers = torch.rand(len(part), generator=rng), torch.rand(1)
        if len(part) > 2:
            raise torch.OutOfMemoryError("out of memory")
        drawn.append(numbers[0])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        Batches(8).each(torch.arange(8), work, rng=rng)
    assert torch.equal(torch.cat(drawn), torch.rand(8, generator=generator(3)))


def test_batches_keep_the_order_and_pass_other_errors_on():
    batches = Batches(3)
    assert batches.each(torch.arange(8), lambda part: part.tolist()) == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7],
    ]
    assert not batches.halved

    def boom(part):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match=r"^boom$"):
        batches.each(torch.arange(8), boom)
    assert batches.size == 3


@pytest.mark.parametrize(
    ("free", "per_image", "expected"),
    [(0, 10, 1), (1000, 1000, 1), (1000, 1, 256), (1024, 1, 512), (1e12, 1e3, LARGEST), (10, 0, 4)],
)
def test_a_batch_takes_its_share_of_the_free_memory(free, per_image, expected):
    assert fitting(free, per_image) == expected


def test_a_gpu_is_asked_what_an_image_takes(monkeypatch):
    allocated, probed = {"now": 500, "peak": 0}, []
    for name, value in {
        "reset_peak_memory_stats": lambda _: None,
        "memory_allocated": lambda _: allocated["now"],
        "max_memory_allocated": lambda _: allocated["peak"],
        "mem_get_info": lambda _: (64 * 1000, 10**9),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def probe(n):
        probed.append(n)
        allocated["peak"] = allocated["now"] + 100 * n

    assert gpu_batch_size(torch.device("cuda"), 1000, probe) == 256  # half of 64 kB, 100 B each
    assert probed == [32, 32]
    assert gpu_batch_size(torch.device("cuda"), 5, probe) == 256
    assert probed[2:] == [5, 5]
