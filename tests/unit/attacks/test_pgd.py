"""PGD: closed forms on linear models, a peer, the best iterate, and hand-counted queries."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear import best_linear
from toys import Function, Linear, Noisy, SmallCNN, images, pixels

from benchmark.attacks.losses import cross_entropy, margin
from benchmark.attacks.norms import distance
from benchmark.attacks.pgd import PGD, PGDL2
from benchmark.attacks.view import attack_view
from benchmark.seeding import generator

NORMS = {"linf": PGD, "l2": PGDL2}


def attack(defense, pgd, x, y, eps, seed=0, **view_options):
    """Run ``pgd``; return its images and the forwards and backwards per sample."""
    with attack_view(defense, len(x), **view_options) as view:
        x_adv = pgd.run(view, x, y, eps=eps, generator=generator(seed))
        forwards, backwards = view.counts()
    return x_adv, forwards, backwards


def gap(norm, x, y, w, eps):
    """How far, relative to the optimum, the gain in margin of a linear model falls short of it."""
    # Steps of eps: on the sphere the angle to the optimum halves at each.
    pgd = NORMS[norm](steps=30, step_size=max(eps, 0.1), early_stop=False)
    x_adv, _, _ = attack(Linear(w, 0.1), pgd, x, y, eps)
    assert (distance(x_adv, x, norm) <= eps + 1e-6).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    towards = torch.where(y[:, None] == 1, -w, w)
    start = x.flatten(1).double()
    optimum = ((best_linear(start, towards, eps, norm) - start) * towards).sum(1)
    reached = ((x_adv.flatten(1).double() - start) * towards).sum(1)
    return (optimum - reached).abs()


@pytest.mark.parametrize("n", [1, 64])
@pytest.mark.parametrize("eps", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("norm", NORMS)
def test_reaches_the_optimal_margin_of_a_linear_model(norm, eps, n):
    w = torch.randn(64, generator=torch.Generator().manual_seed(1)) / 8
    # Two thirds of the pixels stand at 0 or 1, and the attack pushes half of those outwards.
    assert gap(norm, images(n, seed=2), torch.arange(n) % 2, w, eps).max() < 1e-4


@pytest.mark.parametrize("norm", NORMS)
def test_eps_0_returns_the_images(norm):
    x = images(4)
    x_adv, _, _ = attack(Linear(torch.ones(64)), NORMS[norm](steps=3), x, torch.ones(4).long(), 0)
    assert torch.equal(x_adv, x)


@pytest.mark.parametrize("norm", NORMS)
def test_eps_per_sample(norm):
    x, eps = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0.0, 0.1, 0.4])
    model = Linear(torch.ones(4), -10)
    pgd = NORMS[norm](steps=10, random_start=False, early_stop=False)
    x_adv, _, _ = attack(model, pgd, x, torch.zeros(3).long(), eps)
    assert torch.allclose(distance(x_adv, x, norm), eps.double(), atol=1e-6)


def test_default_step_reaches_any_border_from_anywhere():
    x = torch.full((1, 1, 2, 2), 0.5)
    for eps in (1e-4, 0.02, 0.4):
        for steps in (1, 2, 40):
            pgd = PGD(steps=steps, early_stop=False)
            x_adv, _, _ = attack(Linear(torch.ones(4), -10), pgd, x, torch.zeros(1).long(), eps)
            assert distance(x_adv, x, "linf").item() == pytest.approx(eps, rel=1e-3)


def test_margin_is_the_other_logits_lead():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 1.0, 0.0]], requires_grad=True)
    loss = margin(logits, torch.tensor([1, 2]))
    assert loss.tolist() == [-1, 5]
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.tolist() == [[0, -1, 1], [1, 0, -1]]


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("norm", NORMS)
def test_equals_torchattacks(norm, steps):
    torchattacks = pytest.importorskip("torchattacks")
    x, y, model = images(16, seed=4), torch.arange(16) % 3, SmallCNN()
    if norm == "l2":  # where the box binds, our projection keeps length that theirs gives away
        x = 0.3 + 0.4 * x
    # Steps so short that the loss rises at each: the last iterate, theirs, is the best, ours.
    eps, step_size = (0.03, 0.01) if norm == "linf" else (0.3, 0.1)
    theirs = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm](
        model, eps=eps, alpha=step_size, steps=steps, random_start=False
    )(x, y)
    pgd = NORMS[norm](steps=steps, step_size=step_size, random_start=False, early_stop=False)
    ours, _, _ = attack(model, pgd, x, y, eps)
    start, end = (cross_entropy(model(images), y) for images in (x, theirs))
    assert (end > start).all()
    # Where an iterate fools the model, ours keeps the one of these with the highest loss.
    assert torch.allclose(ours, theirs, rtol=0, atol=2e-6)


def hill(x):
    """The loss of label 0 peaks at 0.6 and the model is never fooled."""
    score = -5 - 50 * (x.flatten(1)[:, 0] - 0.6).square()
    return torch.stack([torch.zeros_like(score), score], 1)


def test_returns_the_best_iterate_not_the_last():
    pgd = PGD(steps=2, step_size=0.15, random_start=False, early_stop=False)
    # 0.5 -> 0.65 -> 0.5: the last step overshoots.
    x_adv, _, _ = attack(Function(hill), pgd, pixels(0.5), torch.tensor([0]), 0.4)
    assert x_adv.item() == pytest.approx(0.65)


def test_the_last_iterate_counts_too():
    pgd = PGD(steps=1, step_size=0.15, random_start=False, early_stop=False)
    x_adv, _, _ = attack(Function(hill), pgd, pixels(0.5), torch.tensor([0]), 0.4)
    assert x_adv.item() == pytest.approx(0.65)


def test_an_iterate_that_fools_beats_one_with_a_higher_loss():
    def logits(x):
        v = x.flatten(1)[:, 0]
        fooled = torch.stack([v * 0, v * 0 + 0.1, v - 10], 1)  # loss 0.65
        not_fooled = torch.stack([v * 0, v - 1.01, v - 1.01], 1)  # loss about 0.9
        return torch.where((v < 0.55)[:, None], fooled, not_fooled)

    pgd = PGD(steps=1, step_size=0.1, random_start=False, early_stop=False)
    x_adv, _, _ = attack(Function(logits), pgd, pixels(0.5), torch.tensor([0]), 0.4)
    assert x_adv.item() == pytest.approx(0.5)


def test_of_a_stochastic_defense_the_last_iterate_is_kept_not_a_lucky_draw():
    # Loss of label 0 with three classes: lucky 0.70 (fooled), then 1.08, then 0.01.
    draws = iter([[0.0, 0.01, -10.0], [0.0, -0.02, -0.02], [0.0, -5.0, -5.0]])

    def logits(x):
        return torch.tensor(next(draws)).expand(len(x), 3) + 0.0001 * x.flatten(1)[:, :1] * (
            torch.tensor([0.0, 1.0, 1.0])
        )

    model = Function(logits)
    model.__class__ = type("Lottery", (Function,), {"stochastic": True})
    pgd = PGD(steps=2, step_size=0.1, random_start=False)
    x_adv, forwards, _ = attack(model, pgd, pixels(0.5), torch.tensor([0]), 0.4)
    assert x_adv.item() == pytest.approx(0.7)
    assert forwards.tolist() == [3]  # and no sample left early


def test_a_loss_that_is_no_number_leaves_the_image():
    model = Function(lambda x: x.flatten(1)[:, :1] * torch.tensor([0.0, torch.nan]))
    x_adv, _, _ = attack(model, PGD(steps=2), pixels(0.5, 0.7), torch.tensor([0, 1]), 0.1)
    assert torch.isfinite(x_adv).all()


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_only_help(norm):
    x, y, model = images(32, seed=5), torch.arange(32) % 3, SmallCNN(1)
    losses = []
    for restarts in (1, 2, 4):
        pgd = NORMS[norm](steps=2, restarts=restarts, early_stop=False)
        x_adv, _, _ = attack(model, pgd, x, y, 0.05, seed=7)
        logits = model(x_adv).detach()
        losses.append((logits.argmax(1) != y, cross_entropy(logits, y)))
    for (fooled, loss), (more, higher) in pairwise(losses):
        assert (more | ~fooled).all()
        assert ((higher >= loss - 1e-6) | (more & ~fooled)).all()


COUNTED = Linear(torch.ones(1), -0.65)  # label 1 from 0.65 on


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4))
def test_without_early_stop_every_sample_costs_the_same(steps, restarts, n):
    pgd = PGD(steps=steps, restarts=restarts, early_stop=False)
    _, forwards, backwards = attack(COUNTED, pgd, torch.rand(n, 1, 1, 1), torch.zeros(n).long(), 1)
    assert forwards.tolist() == [restarts * (steps + 1)] * n
    assert backwards.tolist() == [restarts * steps] * n


def test_samples_leave_as_they_fall():
    x = pixels(0.7, 0.62, 0.5, 0.1)  # misclassified after 0, 1, 2 steps, and never
    pgd = PGD(steps=4, step_size=0.1, random_start=False)
    x_adv, forwards, backwards = attack(COUNTED, pgd, x, torch.zeros(4).long(), 0.9)
    assert x_adv.flatten().tolist() == pytest.approx([0.7, 0.72, 0.7, 0.5])
    # The step at which a sample falls costs a forward and a backward as well.
    assert forwards.tolist() == [1, 2, 3, 5]
    assert backwards.tolist() == [1, 2, 3, 4]


def test_a_sample_that_fell_has_no_further_restart():
    x = pixels(0.7, 0.1)
    pgd = PGD(steps=2, step_size=0.01, restarts=3, random_start=False)
    _, forwards, backwards = attack(COUNTED, pgd, x, torch.zeros(2).long(), 0.9)
    assert forwards.tolist() == [1, 9]
    assert backwards.tolist() == [1, 6]


def test_the_defense_was_asked_exactly_as_often_as_counted():
    model = Linear(torch.ones(4), -2.2)
    x = images(20, (1, 2, 2), seed=3)
    _, forwards, _ = attack(model, PGD(steps=5, restarts=2), x, torch.zeros(20).long(), 0.1)
    assert model.forwards == forwards.sum().item()


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("label", [0, 1], ids=["all right", "all wrong"])
@pytest.mark.parametrize("n", [1, 3])
def test_all_right_and_all_wrong(early_stop, label, n):
    x = torch.full((n, 1, 1, 1), 0.1)
    pgd = PGD(steps=1, early_stop=early_stop)
    x_adv, forwards, _ = attack(COUNTED, pgd, x, torch.full((n,), label), 0.05)
    assert (distance(x_adv, x, "linf") <= 0.05 + 1e-6).all()
    assert forwards.tolist() == [1 if label and early_stop else 2] * n


def test_same_seed_same_images():
    x, y, model = images(8), torch.arange(8) % 3, SmallCNN()
    pgd = PGD(steps=3, restarts=2)
    first, again, other = (attack(model, pgd, x, y, 0.1, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_touches_neither_its_input_nor_the_model():
    x, y, model = images(8), torch.arange(8) % 3, SmallCNN()
    before, state = x.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    attack(model, PGD(steps=2), x, y, 0.1)
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_noise_is_averaged_by_the_view():
    # Two draws for each of the two queries; only the first needs a gradient.
    model = Noisy(torch.ones(1), [0.0, 1.0], -3)
    pgd = PGD(steps=1, step_size=0.1, random_start=False)
    _, forwards, backwards = attack(model, pgd, pixels(0.5), torch.tensor([0]), 0.3, eot=2)
    assert forwards.tolist() == [4]
    assert backwards.tolist() == [2]


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"restarts": 0}, {"step_size": 0.0}, {"step_size": float("nan")}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="must be"):
        PGD(**wrong)
