"""C&W: closed forms on linear models, hand-counted queries, saturated pixels, targets."""

import pytest
import torch
from toys import Function, Linear, SmallCNN, images, pixels

from benchmark.attacks.cw import CarliniWagner, Constants, linearised
from benchmark.attacks.losses import margin
from benchmark.attacks.norms import distance
from benchmark.attacks.view import attack_view
from benchmark.seeding import generator


def attack(defense, cw, x, y):
    """Run ``cw``; return its images and the forwards and backwards per sample."""
    with attack_view(defense, len(x)) as view:
        x_adv = cw.run(view, x, y, generator=generator(0))
        forwards, backwards = view.counts()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    return x_adv, forwards, backwards


def nearest_on_hyperplane(x, w, b):
    """The distance from each x to w.x' + b = 0 within the box, in float64.

    The optimality conditions make the nearest point clip(x - t w, 0, 1); t by bisection.
    """
    x, w = x.double().flatten(1), w.double()
    sign = torch.sign(x @ w + b)[:, None]
    low, high = torch.zeros(len(x), 1).double(), torch.full((len(x), 1), 1e4).double()
    for _ in range(200):
        middle = (low + high) / 2
        there = (x - sign * middle * w).clamp(0, 1)
        short = sign * (there @ w + b)[:, None] > 0
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return ((x - sign * high * w).clamp(0, 1) - x).norm(dim=1)


@pytest.mark.parametrize("n", [1, 64])
@pytest.mark.parametrize("kind", ["grey", "saturated"])
@pytest.mark.parametrize("lr", [0.003, 0.01, 0.03])
def test_distance_on_a_linear_model_is_the_known_minimum(lr, kind, n):
    w = torch.randn(64, generator=torch.Generator().manual_seed(1)) / 8
    x = images(n, seed=3)  # two thirds of the pixels stand at 0 or at 1
    if kind == "grey":
        x = 0.3 + 0.4 * x
    model = Linear(w, 0.1)
    y = model.predict(x)
    # Some images stand 0.01 from the boundary, others 1: one learning rate must do for both.
    cw = CarliniWagner(steps=400, search_steps=9, initial_c=0.1, lr=lr)
    x_adv, _, _ = attack(model, cw, x, y)
    # On the other side, or on the boundary to within what orders of summation differ by.
    assert (margin(model(x_adv), y) > -1e-6).all()
    least = nearest_on_hyperplane(x, w, 0.1)
    ratio = distance(x_adv, x, "l2") / least
    assert ratio.min() > 0.999
    assert ratio.max() < 1.02


def test_a_linear_model_tells_the_constant_and_the_move_exactly():
    # ||d||^2 + c (0.6 - g.d) with g = (2, 1, -4): the third pixel is 0 and held by the box.
    x, f = torch.tensor([0.2, 0.5, 0.0]).view(1, 1, 1, 3), torch.tensor([0.6])
    gradient = torch.tensor([-2.0, -1.0, 4.0]).view(1, 1, 1, 3)
    c, move = linearised(x, x, f, gradient)
    assert c.item() == pytest.approx(2 * 0.6 / 5)
    assert move.item() == pytest.approx(0.12 * 2)
    # From anywhere else the same model says the same.
    d = torch.tensor([0.1, -0.05, 0.0]).view(1, 1, 1, 3)
    there, _ = linearised(x + d, x, f + (gradient * d).sum(), gradient)
    assert there.item() == pytest.approx(c.item(), rel=1e-5)
    assert linearised(x, x, 0 * f, gradient)[0].item() == 0
    assert linearised(x, x, f, 0 * gradient)[0].item() == 0


def test_the_next_constant_stays_within_the_bracket():
    search = Constants(torch.zeros(4, 1), 1.0)
    needed = torch.tensor([0.0, 0.1, 3.0, 50.0])
    search.narrow(torch.zeros(4).bool(), needed)
    assert search.c.tolist() == [10, 2, 6, 100]  # times ten; at least twice; twice what is needed
    search.narrow(torch.ones(4).bool(), torch.tensor([0.0, 0.6, 2.0, 80.0]))
    assert search.c.tolist() == pytest.approx([5.5, 1.2, 4, 100])


def test_every_pixel_black_or_white_still_moves():
    # The published change of variables leaves these pixels a slope of 0.
    x = torch.tensor([0.0, 1.0]).repeat(32).view(1, 1, 8, 8)
    w = torch.where(x.flatten() == 0, 1.0, -1.0) / 8
    model = Linear(w, 4 - 1.0)  # w.x = -4 at x: one step of length 1 along w from the boundary
    assert model.predict(x).item() == 0
    cw = CarliniWagner(steps=100, search_steps=6, initial_c=1.0, lr=0.05)
    x_adv, _, _ = attack(model, cw, x, torch.zeros(1).long())
    assert model.predict(x_adv).item() == 1
    assert distance(x_adv, x, "l2").item() == pytest.approx(1, rel=0.02)


def test_queries_are_hand_counted():
    x, y = images(3, seed=1), torch.zeros(3).long()
    cw = CarliniWagner(steps=7, search_steps=4, abort_early=False)
    _, forwards, backwards = attack(Linear(torch.ones(64), -40), cw, x, y)
    assert forwards.tolist() == [1 + 4 * (7 + 1)] * 3
    assert backwards.tolist() == [1 + 4 * 7] * 3


def test_finished_samples_leave_the_batch():
    # The first sample's objective is 0 and stays 0; the second's falls on, towards the boundary.
    x = pixels(0.9, 0.1)
    model = Linear(torch.ones(1), -0.5)
    cw = CarliniWagner(steps=100, search_steps=1, initial_c=1.0, lr=0.001)
    _, forwards, backwards = attack(model, cw, x, torch.zeros(2).long())
    # One at the image, then looks a twentieth of the steps apart: a first, a cut, the end.
    assert backwards[0] == 1 + 15
    assert forwards[0] == 1 + 15
    assert backwards[1] == 1 + 100
    assert forwards[1] == 1 + 101


def test_a_boundary_crossed_by_the_first_step_alone_does_not_lower_c():
    # 0.01 from the boundary, which the first step crosses with any c; a c this small holds none.
    x, model = pixels(0.5), Linear(torch.ones(1), -0.51)
    cw = CarliniWagner(steps=100, search_steps=8, initial_c=0.001, lr=0.1)
    x_adv, _, _ = attack(model, cw, x, torch.zeros(1).long())
    assert distance(x_adv, x, "l2").item() == pytest.approx(0.01, rel=0.02)


def test_an_image_that_is_wrong_already_comes_back_as_it_is():
    x = images(4, seed=2)
    model = Linear(torch.ones(64), -40)
    wrong = 1 - model.predict(x)
    x_adv, _, _ = attack(model, CarliniWagner(steps=20, search_steps=3), x, wrong)
    assert torch.equal(x_adv, x)


def test_failure_returns_the_closest_attempt():
    # Label 1 lies beyond the box.
    x, model = pixels(0.2), Linear(torch.ones(1), -2.0)
    cw = CarliniWagner(steps=50, search_steps=3, initial_c=10.0, lr=0.1)
    x_adv, _, _ = attack(model, cw, x, torch.zeros(1).long())
    assert x_adv.item() > 0.9


def test_confidence_is_the_lead_over_the_true_class():
    x, model = images(8, seed=5), SmallCNN()
    y = model.predict(x)
    near, far = (
        attack(model, CarliniWagner(steps=80, initial_c=1.0, lr=0.05, confidence=k), x, y)[0]
        for k in (1e-3, 0.5)
    )
    # The attack asks fewer images at a time, whose logits differ in the last bits.
    assert (margin(model(far), y) > 0.5 - 1e-5).all()
    assert (margin(model(near), y) > 1e-3 - 1e-5).all()
    assert (distance(far, x, "l2") > distance(near, x, "l2")).all()


def test_targeted_reaches_the_target():
    x, model = images(9, seed=6), SmallCNN()
    target = (model.predict(x) + 1) % 3
    cw = CarliniWagner(steps=80, initial_c=1.0, lr=0.05, targeted=True, confidence=1e-3)
    x_adv, _, _ = attack(model, cw, x, target)
    assert torch.equal(model.predict(x_adv), target)


def test_the_result_does_not_depend_on_the_batch():
    x, model = images(8, seed=7), SmallCNN()
    y, cw = model.predict(x), CarliniWagner(steps=40, search_steps=4, initial_c=1.0, lr=0.05)
    together, _, _ = attack(model, cw, x, y)
    alone = torch.cat([attack(model, cw, x[i : i + 1], y[i : i + 1])[0] for i in range(8)])
    assert torch.allclose(
        distance(together, x, "l2"), distance(alone, x, "l2"), rtol=1e-3, atol=1e-5
    )


def test_the_nearest_iterate_is_kept():
    # Adversarial only between 0.3 and 0.4, and the descent's long steps run past it.
    model = Function(lambda x: torch.stack([0 * x.flatten(), 0.05 - (x.flatten() - 0.35).abs()], 1))
    x = pixels(0.1)
    cw = CarliniWagner(steps=60, search_steps=1, initial_c=100.0, lr=0.05, abort_early=False)
    x_adv, _, _ = attack(model, cw, x, torch.zeros(1).long())
    assert 0.3 < x_adv.item() < 0.4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "linf"}, "l2 only"),
        ({"steps": 0}, "steps and search_steps"),
        ({"lr": 0.0}, "above 0"),
        ({"initial_c": 0.0}, "initial_c must be above 0"),
        ({"confidence": -1.0}, "at least 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        CarliniWagner(**settings)
