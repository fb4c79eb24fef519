"""DDN, FMN, ALMA and sigma-zero: closed forms on linear models, a peer, and queries."""

import pytest
import torch
from linear import linear_classes, nearest_linear
from toys import SmallCNN, images

from benchmark.attacks.alma import ALMA, penalty_slope, rate_for
from benchmark.attacks.ddn import DDN
from benchmark.attacks.fmn import FMN, FMNL0, FMNL1, FMNLinf
from benchmark.attacks.norms import distance
from benchmark.attacks.sigma_zero import SigmaZero, count_slope
from benchmark.attacks.view import attack_view
from benchmark.seeding import generator

EVERY = (DDN, FMN, FMNLinf, FMNL1, FMNL0, ALMA, SigmaZero)


def attack(model, found_by, x, y):
    with attack_view(model, len(x)) as view:
        x_adv = found_by.run(view, x, y, generator=generator(0))
        return x_adv, *view.counts()


def fooled(model, x_adv, y):
    return model.predict(x_adv) != y


@pytest.mark.parametrize(
    ("found_by", "within"),
    [
        (DDN(steps=200, loss="margin"), 1.05),
        (FMN(steps=200), 1.02),
        (FMNLinf(steps=200), 1.1),
        (ALMA(steps=200), 1.02),
    ],
)
def test_nearest_of_a_linear_model(found_by, within):
    """The lead over the dual norm of the weights' difference, as long as the box does not bind."""
    model, w = linear_classes()
    x = 0.4 + 0.2 * images(32, seed=3)
    y = model.predict(x)
    x_adv, _, _ = attack(model, found_by, x, y)
    far = distance(x_adv, x, found_by.norm) / nearest_linear(x, y, w, found_by.norm)
    assert fooled(model, x_adv, y).all()
    assert far.min() > 0.999
    assert far.median() < within


@pytest.mark.parametrize(
    "found_by", [FMNL1(steps=200), FMNL0(steps=200), SigmaZero(steps=200)], ids=lambda a: a.norm
)
def test_few_entries_of_a_linear_model(found_by):
    """A bound from below in l1, where the box binds; in l0 the greedy choice is the best."""
    model, w = linear_classes()
    x = 0.4 + 0.2 * images(32, seed=3)
    y = model.predict(x)
    x_adv, _, _ = attack(model, found_by, x, y)
    far, least = distance(x_adv, x, found_by.norm), nearest_linear(x, y, w, found_by.norm)
    assert fooled(model, x_adv, y).all()
    assert (far >= least - 1e-4).all()
    if found_by.norm == "l0":
        assert (far - least).median() <= 1
    else:
        assert (far / least).median() < 1.1


@pytest.mark.parametrize("name", ["L2FMNAttack", "LInfFMNAttack", "L1FMNAttack", "DDNAttack"])
def test_as_near_as_foolbox(name):
    foolbox = pytest.importorskip("foolbox")
    own = {"L2FMNAttack": FMN, "LInfFMNAttack": FMNLinf, "L1FMNAttack": FMNL1, "DDNAttack": DDN}
    x, model = 0.2 + 0.6 * images(32, seed=5), SmallCNN(2)
    y = model.predict(x)
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs = getattr(foolbox.attacks, name)(steps=100).run(
        peer, x, foolbox.criteria.Misclassification(y)
    )
    found, _, _ = attack(model, own[name](steps=100), x, y)
    norm, both = own[name]().norm, fooled(model, theirs, y)
    assert fooled(model, found, y).all()
    assert both.double().mean() >= 0.5  # in l1 theirs may end on the boundary
    ratio = distance(found, x, norm)[both].median() / distance(theirs, x, norm)[both].median()
    # In l2 theirs does not project, and ends four times as far.
    assert ratio < 1.03


@pytest.mark.parametrize("cls", EVERY)
def test_queries_by_hand(cls):
    model, _ = linear_classes()
    x = 0.4 + 0.2 * images(3)
    y = model.predict(x)
    y[1] = (y[1] + 1) % 4  # misclassified as it is
    x_adv, forwards, backwards = attack(model, cls(steps=7), x, y)
    assert torch.equal(x_adv[1], x[1])
    assert forwards.tolist() == [8, 1, 8]
    assert backwards.tolist() == [7, 1, 7]


@pytest.mark.parametrize("cls", EVERY)
def test_neighbours_do_not_matter(cls):
    """Of a batch without noise each image is found as if it were alone."""
    model, x = SmallCNN(1), 0.3 + 0.4 * images(6, seed=7)
    y = model.predict(x)
    y[0] = (y[0] + 1) % 3
    together, _, _ = attack(model, cls(steps=5), x, y)
    for i in range(6):
        alone, _, _ = attack(model, cls(steps=5), x[i : i + 1], y[i : i + 1])
        assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-3)


@pytest.mark.parametrize("cls", EVERY)
def test_a_model_without_slope_is_no_failure(cls):
    model, _ = linear_classes()
    flat = type(model)(lambda x: torch.zeros(len(x), 4) + 0 * x.flatten(1)[:, :4] + torch.eye(4)[0])
    x, y = images(2), torch.zeros(2).long()
    x_adv, _, _ = attack(flat, cls(steps=5), x, y)
    assert torch.isfinite(x_adv).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_almas_penalty_slope_is_the_derivative_of_p2():
    h = torch.tensor([-2.0, -0.3, 0.0, 0.4, 1.5], dtype=torch.float64, requires_grad=True)
    mu, rho = torch.full_like(h, 0.7), torch.full_like(h, 1.9)
    above = mu * h + mu * rho * h**2 + rho**2 * h**3 / 6
    below = mu * h / (1 - rho * h.clamp(max=0))
    (slope,) = torch.autograd.grad(torch.where(h >= 0, above, below).sum(), h)
    assert torch.allclose(penalty_slope(h, rho, mu).detach(), slope)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_almas_first_step_goes_as_far_as_it_says(scale):
    x = 0.3 + 0.4 * images(4)
    descent = torch.randn(x.shape, generator=generator(0)) * scale
    rate = rate_for(x, descent, 0.5).view(-1, 1, 1, 1)
    moved = (x - rate * descent).clamp(0, 1)
    assert torch.allclose(distance(moved, x, "l2"), torch.full((4,), 0.5).double(), rtol=1e-3)


def test_sigma_zeros_count_slope_is_the_derivative():
    delta = torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 1, 2, 2).requires_grad_()
    count = (delta**2 / (delta**2 + 0.01)).flatten(1).mean(1)
    (slope,) = torch.autograd.grad(count.sum(), delta)
    assert torch.allclose(count_slope(delta.detach(), 0.01), slope)


@pytest.mark.parametrize("cls", EVERY)
@pytest.mark.parametrize("wrong", [{"steps": 0}, {"target": "any"}, {"norm": "l7"}])
def test_wrong_settings_are_refused(cls, wrong):
    with pytest.raises(ValueError, match=r"got|must"):
        cls(**wrong)


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (DDN, {"gamma": 1.0}),
        (DDN, {"initial_norm": 0.0}),
        (DDN, {"loss": "hinge"}),
        (FMN, {"step_size": 0.0}),
        (ALMA, {"first_step": 0.0}),
        (SigmaZero, {"lr": 0.0}),
    ],
)
def test_wrong_parameters_are_refused(cls, wrong):
    with pytest.raises(ValueError, match=r"must|between"):
        cls(**wrong)
