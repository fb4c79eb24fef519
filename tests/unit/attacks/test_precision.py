"""The search in bfloat16: only where device and model bear it, and nothing counts but float32."""

import pytest
import torch
from descents import NORMS, X, Y, _per_sample_model, descend, levels
from toys import Function, SmallCNN, images

from benchmark.attacks import eps_descent, precision
from benchmark.attacks.losses import cross_entropy, margin
from benchmark.attacks.precision import fast_bfloat16, search_dtype
from benchmark.attacks.view import attack_view

GRID = [0.02 * i for i in range(1, 9)]


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """bfloat16 is emulated where the processor has no instructions for it: slow, but the same."""
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: True)


def cnn(seed=0):
    model, x = SmallCNN(seed=seed), images(48, seed=seed)
    return model, x, model.predict(x)


def dtype_of(model, x, y):
    with attack_view(model, len(x)) as view:
        found = search_dtype(view, x, y, cross_entropy)
        assert [counts.sum() for counts in view.counts()] == [0, 0]
    return found


def coarse():
    return torch.is_autocast_enabled("cpu")


def test_an_honest_network_is_searched_in_bfloat16():
    model, x, y = cnn()
    assert dtype_of(model, x, y) == torch.bfloat16
    with attack_view(model, len(x)) as view:
        view.dtype = torch.bfloat16
        rough = view.select(torch.arange(len(x))).gradient(x, y, cross_entropy)
        assert {tensor.dtype for tensor in rough} == {torch.float32}
        view.dtype = torch.float32
        assert not torch.equal(rough[1], view.gradient(x, y, cross_entropy)[1])
        assert not coarse()


def rounded(x):
    return x.to(torch.bfloat16).float() if coarse() else x


def refuses(x):
    if coarse():
        raise RuntimeError("expected Float but found BFloat16")
    return x.flatten(1)


@pytest.mark.parametrize(
    "logits",
    [
        refuses,
        # Waves far shorter than bfloat16's spacing: its gradient points anywhere.
        lambda x: torch.sin(3e4 * rounded(0.7 * x + 0.01)).flatten(1),
        lambda x: x.flatten(1) * (torch.nan if coarse() else 1),
        lambda x: x.flatten(1).round(),
    ],
    ids=["raises", "points elsewhere", "NaN", "no gradient"],
)
def test_a_model_that_does_not_bear_it_is_searched_in_float32(logits):
    x = images(20)
    assert dtype_of(Function(logits), x, torch.zeros(len(x), dtype=torch.int64)) == torch.float32


def test_a_device_that_is_slow_in_it_keeps_float32(monkeypatch):
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: False)
    assert dtype_of(*cnn()) == torch.float32
    assert not fast_bfloat16(torch.device("meta"))


def test_an_older_torch_keeps_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not fast_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize("norm", NORMS)
def test_what_fools_in_bfloat16_alone_counts_for_nothing(norm, monkeypatch):
    """In bfloat16 every image fools this model, in float32 none."""

    def logits(x):
        score = 1e-3 * x.flatten(1).sum(1)
        margin = score + (10 if coarse() else -10)
        return torch.stack([torch.zeros_like(margin), margin], 1)

    model, x = Function(logits), images(12)
    y = torch.zeros(len(x), dtype=torch.int64)
    assert dtype_of(model, x, y) == torch.float32
    monkeypatch.setattr(eps_descent, "search_dtype", lambda *_: torch.bfloat16)
    x_adv, forwards, backwards = descend(model, NORMS[norm](steps=12), x, y, GRID)
    assert (levels(model, x_adv, x, y, GRID, norm) == len(GRID)).all()
    # Every claim was looked at in float32, and each sample paid the walk and a whole run. Of the
    # image itself, where the walk begins, nothing is claimed.
    assert (backwards == 2 + 13).all()
    assert forwards.tolist() == [2 * count - 1 for count in backwards.tolist()]


def test_who_stands_was_looked_at_in_float32(monkeypatch):
    """In float32 every image beyond 0.02 fools this model, in bfloat16 none seems to."""

    def logits(x):
        score = x.flatten(1).mean(1) - 0.5
        lead = score - (10 if coarse() else 0.02)
        return torch.stack([torch.zeros_like(lead), lead], 1)

    monkeypatch.setattr(eps_descent, "search_dtype", lambda *_: torch.bfloat16)
    model, x = Function(logits), torch.full((5, 1, 8, 8), 0.5)
    y = torch.zeros(len(x), dtype=torch.int64)
    x_adv, _, _ = descend(model, NORMS["linf"](steps=12), x, y, [0.05, 0.1])
    assert (levels(model, x_adv, x, y, [0.05, 0.1], "linf") < 2).all()


def shifted(model, constant):
    """The same function: one constant more for every class."""

    def logits(x):
        found = model(x)
        return found + torch.as_tensor(constant(x)).to(found.dtype)

    return Function(logits)


SHIFTS = {
    "a constant": lambda x: 1000.0,
    "one an image": lambda x: 1000 * x.flatten(1).mean(1, keepdim=True),
    "a large constant": lambda x: 3e4,
}


@pytest.mark.parametrize("name", SHIFTS)
def test_a_constant_on_all_logits_is_searched_in_float32_and_moves_nothing(name):
    model, x, y = cnn(3)
    moved = shifted(model, SHIFTS[name])
    assert dtype_of(model, x, y) == torch.bfloat16
    assert dtype_of(moved, x, y) == torch.float32
    pgd, grid = NORMS["linf"](steps=20), [0.05 * i for i in range(1, 9)]
    plain, other = (
        levels(model, descend(m, pgd, x, y, grid)[0], x, y, grid, "linf") for m in (model, moved)
    )
    assert (plain < len(grid)).float().mean() > 0.5
    assert (other != plain).sum() <= len(x) / 20


def test_one_scale_for_all_logits_keeps_the_dtype():
    model, x, y = cnn(3)
    scaled = Function(lambda x: 100 * model(x))
    with attack_view(scaled, len(x)) as view:
        assert search_dtype(view, x, y, margin) == torch.bfloat16


def test_float32_itself_bears_a_constant():
    model, x, y = cnn(3)
    model = model.double()  # so that adding the constant is what rounds
    moved = Function(lambda x: (model(x.double()) + 1e5).float())
    plain = Function(lambda x: model(x.double()).float())
    pgd = NORMS["linf"](steps=20)
    one, other = (
        levels(plain, descend(m, pgd, x, y, GRID)[0], x, y, GRID, "linf") for m in (plain, moved)
    )
    assert (other > one).sum() <= len(x) / 10


@pytest.mark.parametrize("norm", NORMS)
def test_it_does_not_depend_on_the_batch(norm):
    """Shown of sums and products alone: a convolution's bits depend on how many images it has."""
    model, x = Function(lambda x: _per_sample_model(rounded(x))), X.float()
    assert dtype_of(model, x, Y) == torch.bfloat16
    pgd = NORMS[norm](steps=20, loss="margin")
    together = descend(model, pgd, x, Y, GRID)
    fooled = levels(model, together[0], x, Y, GRID, norm) < len(GRID)
    assert 0 < fooled.sum() < len(x)
    for size in (1, 7):
        found = descend(model, pgd, x, Y, GRID, batch_size=size)
        assert all(map(torch.equal, together, found))


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_nearly_as_strong(norm, monkeypatch):
    grid = GRID if norm == "linf" else [10 * eps for eps in GRID]
    model, x, y = cnn(3)
    pgd = NORMS[norm](steps=20)
    rough, *_ = descend(model, pgd, x, y, grid)
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: False)
    fine, *_ = descend(model, pgd, x, y, grid)
    assert not torch.equal(rough, fine)
    fooled = [levels(model, x_adv, x, y, grid, norm) for x_adv in (rough, fine)]
    assert (fooled[1] < len(grid)).any()
    assert abs(fooled[0] - fooled[1]).max() <= 1
    assert (fooled[0] - fooled[1]).sum().abs() <= len(x) / 10
