"""APGD: the published one, closed forms on linear models, and hand-counted queries."""

import pytest
import torch
from linear import best_linear, linear_classes
from toys import Function, Linear, SmallCNN, images

from benchmark.attacks.apgd import APGD, APGDL1, APGDL2, APGDTargeted
from benchmark.attacks.apgd_steps import Halving, Iterates, Sparse
from benchmark.attacks.losses import LOSSES, margin
from benchmark.attacks.norms import distance
from benchmark.attacks.view import attack_view
from benchmark.seeding import generator, seeded

NORMS = {"linf": APGD, "l2": APGDL2, "l1": APGDL1}


def attack(defense, apgd, x, y, eps, seed=0):
    with attack_view(defense, len(x)) as view:
        x_adv = apgd.run(view, x, y, eps=eps, generator=generator(seed))
        forwards, backwards = view.counts()
    return x_adv, forwards, backwards


# --- the published one -------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_equals_torchattacks(norm, loss):
    """From the same start: the same iterates, but for rounding."""
    torchattacks = pytest.importorskip("torchattacks")
    # Grey images: where the box binds, our projection in l2 keeps length that theirs gives away.
    x = 0.3 + 0.4 * images(16, seed=4)
    net, eps = SmallCNN(), 0.03 if norm == "linf" else 0.3
    # A fourth class: of three, their ratio is constant.
    model = Function(lambda x: torch.cat([net(x), -9 + x.flatten(1)[:, :1]], 1))
    y = model.predict(x)
    word = {"cross_entropy": "ce", "dlr": "dlr"}[loss]
    theirs = torchattacks.APGD(
        model, norm="Linf" if norm == "linf" else "L2", eps=eps, steps=100, loss=word, seed=0
    )
    with seeded(0):
        torch.manual_seed(0)
        best, _, highest, _ = theirs.attack_single_run(x, y)
    own, _, _ = attack(model, NORMS[norm](loss=loss, early_stop=False), x, y, eps)
    value = LOSSES[loss](model(own), y).detach()
    held = margin(model(best), y) < 0  # of those that fall, ours returns one that fell
    assert held.any()
    assert torch.allclose(value[held], highest[held], rtol=0, atol=1e-5)
    assert torch.allclose(own[held], best[held], rtol=0, atol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_equals_the_authors(norm):
    """In l1, too, where torchattacks has none; with a package that few have installed."""
    authors = pytest.importorskip("pyautoattack.autopgd_base")
    x = 0.3 + 0.4 * images(16, seed=4)
    model, eps = SmallCNN(), {"linf": 0.03, "l2": 0.3, "l1": 2.0}[norm]
    y = model.predict(x)
    theirs = authors.APGDAttack(
        model, n_iter=100, norm={"linf": "Linf"}.get(norm, norm.upper()), eps=eps, seed=0
    )
    theirs.init_hyperparam(x)
    with seeded(0):
        torch.manual_seed(0)
        if norm == "l1":
            best = theirs.decr_eps_pgd(x, y, [3 * eps, 2 * eps, eps], [30, 30, 40])
        else:
            best = theirs.attack_single_run(x, y)
    own, _, _ = attack(model, NORMS[norm](early_stop=False), x, y, eps)
    held = margin(model(best[0]), y) < 0
    value = LOSSES["cross_entropy"](model(own), y).detach()
    assert torch.allclose(value[held], best[2][held], rtol=0, atol=1e-5)


# --- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_reaches_the_optimal_margin_of_a_linear_model(norm, eps):
    w = torch.randn(64, generator=torch.Generator().manual_seed(1)) / 8
    x, y = images(32, seed=2), torch.arange(32) % 2
    apgd = NORMS[norm](steps=50, loss="margin", early_stop=False)
    x_adv, _, _ = attack(Linear(w, 0.1), apgd, x, y, eps)
    towards = torch.where(y[:, None] == 1, -w, w)
    start = x.flatten(1).double()
    optimum = ((best_linear(start, towards, eps, norm) - start) * towards).sum(1)
    reached = ((x_adv.flatten(1).double() - start) * towards).sum(1)
    assert (distance(x_adv, x, norm) <= eps + 1e-6).all()
    assert (optimum - reached).abs().max() < 1e-3 * max(1.0, float(optimum.max()))


def test_reaches_the_optimal_margin_in_l1():
    """The best use of eps goes to the steepest entries, each as far as the box lets it."""
    w = torch.randn(64, generator=torch.Generator().manual_seed(1)) / 8
    x, y, eps = images(32, seed=2), torch.arange(32) % 2, 3.0
    towards = torch.where(y[:, None] == 1, -w, w).double()
    x_adv, _, _ = attack(Linear(w), APGDL1(loss="margin", early_stop=False), x, y, eps)
    flat = x.flatten(1).double()
    room = torch.where(towards > 0, 1 - flat, flat)
    order = towards.abs().argsort(dim=1, descending=True)
    left = (eps - room.gather(1, order).cumsum(1) + room.gather(1, order)).clamp_min(0)
    used = torch.minimum(room.gather(1, order), left)
    optimum = (used * towards.abs().gather(1, order)).sum(1)
    reached = ((x_adv.flatten(1).double() - flat) * towards).sum(1)
    assert (distance(x_adv, x, "l1") <= eps + 1e-5).all()
    assert (reached / optimum).median() > 0.97
    assert (reached / optimum).min() > 0.8


def test_eps_per_sample():
    x, eps = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0.0, 0.1, 0.4])
    for norm, cls in NORMS.items():
        apgd = cls(steps=20, early_stop=False)
        x_adv, _, _ = attack(Linear(torch.ones(4), -10), apgd, x, torch.zeros(3).long(), eps)
        assert torch.allclose(distance(x_adv, x, norm), eps.double(), atol=1e-5)


# --- steps -------------------------------------------------------------------------------------


def state(n=2):
    x = torch.full((n, 1, 2, 2), 0.5)
    s = Iterates.at(
        torch.arange(n), x, x, torch.zeros(n), torch.zeros(n), torch.full((n, 1, 1, 1), 0.1)
    )
    s.observe(torch.zeros(n), torch.ones_like(x))
    return s


def test_the_checkpoints_are_the_papers():
    rule, s, seen = Halving("linf", 100, 0.75), state(), []
    rule.begin(s)
    for k in range(1, 101):
        before = rule.checked
        rule.check(s, k)
        if rule.checked != before:
            seen.append(k)
    # p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), from 0 and 0.22 on
    assert seen == [22, 41, 57, 70, 80, 87, 93, 99]


def test_a_step_is_halved_where_the_loss_rises_too_rarely():
    rule, s = Halving("linf", 10, 0.75), state()  # the first checkpoint is the second step
    rule.begin(s)
    for k, loss in ((1, [1.0, 1.0]), (2, [2.0, 0.5])):
        s.observe(torch.tensor(loss), torch.ones_like(s.x))
        rule.check(s, k)
    assert s.eta.flatten().tolist() == pytest.approx([0.2, 0.1])


def test_a_step_is_halved_where_the_best_loss_stays():
    rule, s = Halving("linf", 10, 0.4), state()
    rule.begin(s)
    # One of two steps rises: often enough, but the second time the best loss is no better.
    for k, loss in ((1, 5.0), (2, 1.0), (3, 2.0)):
        s.observe(torch.full((2,), loss), torch.ones_like(s.x))
        rule.check(s, k)
    assert s.eta.flatten().tolist() == pytest.approx([0.1, 0.1])


def test_in_l1_the_step_starts_again_where_the_support_shrinks():
    rule, s = Sparse(10, warm=False), state()
    rule.begin(s)
    s.x_max = s.x.clone()
    s.x_max[0, 0, 0, 0] = 0.6  # one of four entries; of the second image none
    s.x_max[1] = 0.6
    rule.check(s, 1)
    assert s.eta.flatten().tolist() == pytest.approx([0.1, 0.1 / 1.5])


# --- targets, queries and refusals -------------------------------------------------------------


def test_targets_find_what_a_misleading_loss_does_not():
    """The nearest class by logits recedes; the one behind it can be reached."""

    def logits(x):
        a, b = x.flatten(1).unbind(1)
        near = -0.1 - (a - 0.5).abs() - (b - 0.5).abs()
        return torch.stack([a * 0, near, a + b - 1.75, a * 0 - 9], 1)

    x, y = torch.full((1, 1, 1, 2), 0.5), torch.zeros(1).long()
    one, _, _ = attack(Function(logits), APGDTargeted(n_targets=1), x, y, 0.4)
    two, forwards, _ = attack(Function(logits), APGDTargeted(n_targets=2), x, y, 0.4)
    assert Function(logits).predict(one).item() == 0
    assert Function(logits).predict(two).item() == 2
    assert forwards.item() < 2 * 101 + 1  # it left on the way


def test_queries_by_hand():
    model, _ = linear_classes()
    x = torch.full((3, 1, 8, 8), 0.5) + 0.2 * images(3) - 0.1
    y = model.predict(x)
    # A forward more for the last iterate, in l1 for that of each of three balls.
    for cls, more in ((APGD, 1), (APGDL2, 1), (APGDL1, 3)):
        never = cls(steps=10, restarts=2, early_stop=False)
        _, forwards, backwards = attack(model, never, x, y, 1e-4)
        assert forwards.tolist() == [2 * (10 + more)] * 3
        assert backwards.tolist() == [2 * 10] * 3
    _, forwards, backwards = attack(model, APGDTargeted(steps=10, n_targets=9), x, y, 1e-4)
    assert forwards.tolist() == [1 + 3 * 11] * 3  # three wrong classes
    assert backwards.tolist() == [3 * 10] * 3


def test_what_fell_costs_no_more():
    model = Linear(torch.ones(1), -0.65)  # label 1 from 0.65 on
    x = torch.tensor([0.7, 0.1]).view(2, 1, 1, 1)
    _, forwards, _ = attack(model, APGD(steps=5, restarts=3), x, torch.zeros(2).long(), 0.01)
    assert forwards.tolist() == [1, 18]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("cls", [APGD, APGDTargeted])
def test_few_classes_are_enough(cls, classes):
    """Where the ratio has no third or fourth logit, its range is that of all."""
    model, _ = linear_classes(classes=classes)
    x = 0.3 + 0.4 * images(8)
    y = model.predict(x)
    x_adv, _, _ = attack(model, cls(steps=20, loss="dlr"), x, y, 0.3)
    assert (model.predict(x_adv) != y).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"norm": "l0"},
        {"steps": 0},
        {"restarts": 0},
        {"loss": "hinge"},
        {"rho": 1.0},
        {"n_targets": -1},
        {"target": "any"},
        {"target": True},
        {"n_targets": 2, "target": 1},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"got|must|give|between"):
        APGD(**wrong)
