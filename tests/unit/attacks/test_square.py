"""Square: by answers only, closed forms on a linear model, windows and queries."""

import pytest
import torch
from toys import Linear, images

from benchmark.attacks.norms import distance
from benchmark.attacks.square import Square, SquareL2
from benchmark.attacks.square_shapes import bumps, eta, l2_start, windows
from benchmark.attacks.view import attack_view
from benchmark.models.defense import Defense
from benchmark.seeding import generator

NORMS = {"linf": Square, "l2": SquareL2}


def attack(model, square, x, y, eps, seed=0):
    with attack_view(model, len(x)) as view:
        x_adv = square.run(view, x, y, eps=eps, generator=generator(seed))
        return x_adv, *view.counts()


def test_comes_close_to_the_best_of_a_linear_model():
    """The weights are smooth, as squares are: the sign of a wave over the image."""
    wave = torch.sin(torch.linspace(0, 3, 8))[:, None] * torch.cos(torch.linspace(0, 3, 8))
    w, eps = wave.flatten() / 8, 0.1
    x, y = 0.4 + 0.2 * images(8, seed=2), torch.ones(8).long()
    x_adv, _, _ = attack(Linear(w, 50.0), Square(n_queries=1000), x, y, eps)
    gained = ((x - x_adv).flatten(1) @ w) / (eps * w.abs().sum())
    assert gained.min() > 0.9
    assert (distance(x_adv, x, "linf") <= eps + 1e-6).all()


def test_gains_in_l2():
    wave = torch.sin(torch.linspace(0, 3, 10))[:, None] * torch.cos(torch.linspace(0, 3, 10))
    w, eps = wave.flatten() / 8, 0.5
    x, y = 0.4 + 0.2 * images(8, (1, 10, 10), seed=2), torch.ones(8).long()
    few, many = (attack(Linear(w, 50.0), SquareL2(n_queries=n), x, y, eps)[0] for n in (1, 1000))
    gains = [((x - x_adv).flatten(1) @ w / (eps * w.norm())).mean() for x_adv in (few, many)]
    assert gains[1] > max(0.6, gains[0])
    assert (distance(many, x, "l2") <= eps + 1e-5).all()


class Answers(Defense):
    """Answers that carry no gradient."""

    def forward(self, x):
        with torch.no_grad():
            score = x.flatten(1).mean(1) - 0.52
            return torch.stack([torch.zeros_like(score), score], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_needs_no_gradient(norm):
    model = Answers(Linear(torch.ones(1)).info)
    x, y = torch.full((4, 1, 8, 8), 0.5), torch.zeros(4).long()
    eps = {"linf": 0.1, "l2": 0.8}[norm]
    x_adv, _, backwards = attack(model, NORMS[norm](n_queries=200), x, y, eps)
    assert (model.predict(x_adv) != y).all()
    assert backwards.tolist() == [0] * 4
    assert not NORMS[norm].needs_gradient


def test_queries_by_hand():
    model = Linear(torch.ones(1), -0.65)  # label 1 from 0.65 on
    x, y = torch.tensor([0.7, 0.1]).view(2, 1, 1, 1), torch.zeros(2).long()
    square = Square(n_queries=6, restarts=2)
    _, forwards, _ = attack(model, square, x, y, 0.01)
    assert forwards.tolist() == [1, 12]


@pytest.mark.parametrize("norm", NORMS)
def test_neighbours_that_fall_change_nothing(norm):
    """Each image's squares are drawn whether or not the others are still searched."""
    w = torch.randn(64, generator=generator(1)) / 8
    x, y = images(4, seed=3), torch.ones(4).long()
    square = NORMS[norm](n_queries=30)
    near = Linear(w, 5.0)
    both, _, _ = attack(near, square, x, y, 0.05)
    wrong = y.clone()
    wrong[0] = 0  # leaves at once
    some, _, _ = attack(near, square, x, wrong, 0.05)
    assert torch.equal(both[1:], some[1:])


@pytest.mark.parametrize("side", [1, 3, 8])
def test_windows_are_squares_within_the_image(side):
    inside = windows(torch.zeros(50, 3, 8, 8), side, generator(0))
    assert inside.shape == (50, 1, 8, 8)
    assert (inside.flatten(1).sum(1) == side**2).all()
    rows = inside.any(3).sum(2)
    assert (rows == side).all()


@pytest.mark.parametrize("side", [2, 3, 5, 7])
def test_bumps_have_length_1_and_two_signs(side):
    shape = eta(side)
    assert shape.norm().item() == pytest.approx(1)
    assert (shape[: side // 2] >= 0).all()
    assert (shape[side // 2 :] <= 0).all()
    inside = windows(torch.zeros(20, 1, 9, 9), side, generator(1))
    placed = bumps(inside, side, generator(2))
    assert torch.allclose(placed.flatten(1).norm(dim=1), torch.ones(20))
    assert not placed[~inside].any()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 4, 4), (1, 1, 1)])
def test_the_first_bumps_fill_the_image(shape):
    x = torch.zeros(2, *shape)
    delta = l2_start(x, generator(0))
    assert (delta != 0).double().mean() > 0.5


@pytest.mark.parametrize(
    "wrong",
    [{"norm": "l1"}, {"n_queries": 0}, {"restarts": 0}, {"p": 0.0}, {"p": 1.1}, {"target": "any"}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"got|must"):
        Square(**wrong)
