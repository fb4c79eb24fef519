"""The standard ensemble: closed forms, no more than its first attack leaves, one search for all."""

import pytest
import torch
from sweeps import outcomes
from toys import Function, Linear, Noisy, SmallCNN, dataset, images

from benchmark.attacks.apgd import APGD
from benchmark.attacks.pgd import PGD
from benchmark.attacks.standard import Standard, first_of, later
from benchmark.attacks.view import attack_view
from benchmark.seeding import generator

EPS = (0.0, 0.02, 0.04, 0.08)


def data_of(model, n=24):
    x = images(n, seed=3)
    return dataset(x, model.predict(x), 3)


def left(found):
    return [1 - float(outcome.success.double().mean()) for outcome in found]


def test_on_a_linear_model_it_is_the_closed_form():
    w = torch.linspace(-1, 1, 64)
    model = Linear(w, 0.0)
    # Grey images, which no step takes out of the box.
    x = 0.4 + 0.2 * images(40, seed=1)
    data = dataset(x, model.predict(x))
    far = (data.x().flatten(1) @ w).abs() / w.abs().sum()
    budgets = [eps for eps in EPS if ((far - eps).abs() > 1e-4).all()]
    expected = [float((far > eps).double().mean()) for eps in budgets]
    assert left(outcomes(model, Standard(), data, budgets)) == pytest.approx(expected)


@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("l2", (0.0, 0.1, 0.3, 0.6))])
def test_it_leaves_no_more_than_its_first_attack(norm, eps):
    model = SmallCNN()
    data = data_of(model)
    found = left(outcomes(model, Standard(norm=norm), data, eps))
    assert found == sorted(found, reverse=True)
    first = left(outcomes(model, first_of(norm), data, eps))
    assert all(own <= other for own, other in zip(found, first, strict=True))


def test_what_the_first_attack_cannot_follow_the_second_finds():
    """A gradient that vanishes but for one class, of the three that PGD's margin does not take."""
    net = SmallCNN()

    def masked(x):
        logits = net(x)
        flat = logits.detach()
        # The likeliest wrong class hides its gradient: only another one leads anywhere.
        order = flat.argsort(1, descending=True)
        hidden = torch.zeros_like(flat).scatter(1, order[:, 1:2], 1.0)
        return torch.where(hidden.bool(), flat - 5, logits)

    model = Function(masked)
    x = images(16, seed=5)
    data = dataset(x, model.predict(x), 3)
    both = left(outcomes(model, Standard(), data, (0.0, 0.2)))
    assert both[1] <= left(outcomes(model, PGD(), data, (0.0, 0.2)))[1]


def test_the_result_does_not_depend_on_the_batch():
    model = SmallCNN()
    data = data_of(model, 12)
    x, y = data.x(), data.labels

    def go(rows, batch_size):
        with attack_view(model, len(rows)) as view:
            return Standard().descend(
                view,
                x[rows],
                y[rows],
                budgets=EPS[1:],
                seeds=[7 + int(row) for row in rows],
                batch_size=batch_size,
                advance=lambda n: None,
            )

    whole = go(torch.arange(12), 12)
    backwards = torch.arange(11, -1, -1)
    assert torch.allclose(go(backwards, 5)[backwards], whole, atol=1e-5)


def test_a_robust_image_pays_one_failed_run_of_each_attack():
    model = Linear(torch.ones(64), 0.0)  # every image is far from the boundary
    x = 0.9 + 0.05 * images(4, seed=2)
    data = dataset(x, model.predict(x))
    found = outcomes(model, Standard(), data, (0.0, 0.01, 0.02, 0.03))
    passes = sum(outcome.n_backward for outcome in found)
    (second,) = later("linf")
    first = outcomes(model, PGD(steps=40), data, (0.0, 0.01, 0.02, 0.03))
    # Of two classes there is one to move towards.
    assert (passes == sum(o.n_backward for o in first) + second.steps).all()


def test_at_one_eps_it_attacks_what_stands():
    model = SmallCNN()
    data = data_of(model)
    with attack_view(model, len(data)) as view:
        x_adv = Standard().run(view, data.x(), data.labels, eps=0.04, generator=generator(0))
    assert (x_adv - data.x()).abs().max() <= 0.04 + 1e-6
    fooled = model.predict(x_adv) != data.labels
    alone = APGD(loss="margin", n_targets=2, steps=40)
    with attack_view(model, len(data)) as view:
        other = alone.run(view, data.x(), data.labels, eps=0.04, generator=generator(0))
    assert fooled.sum() >= (model.predict(other) != data.labels).sum()


def test_a_stochastic_defense_gets_the_first_attack_alone():
    model = Noisy(torch.ones(64), [0.0, 0.1], -32.0)
    x = images(4, seed=2)
    with attack_view(model, 4) as view:
        Standard().run(view, x, torch.zeros(4).long(), eps=0.1, generator=generator(0))
        forwards, _ = view.counts()
    assert (forwards == PGD(steps=40).steps + 1).all()


@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_the_other_norms(norm):
    model = SmallCNN()
    data = data_of(model, 10)
    found = left(outcomes(model, Standard(norm=norm), data, (0, 2, 40)))
    assert found[0] == 1
    assert found[2] < 1


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="got norm 'l7'"):
        Standard(norm="l7")
