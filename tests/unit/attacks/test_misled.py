"""Defenses that purify what looks noisy do not mislead the search for all eps."""

import pytest
import torch
from descents import descend, levels
from maskings import PURIFIERS, between, case_of, make_bench

from benchmark.attacks import precision
from benchmark.attacks.pgd import PGD
from benchmark.attacks.view import attack_view
from benchmark.audit.case import Curve
from benchmark.audit.checks.other_budgets import rises_with_eps
from benchmark.seeding import generator

N = 24
GRID = [0.05, 0.1, 0.2, 0.4]


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch):
    monkeypatch.setattr(precision, "fast_bfloat16", lambda device: False)


@pytest.fixture(scope="module")
def bench():
    return make_bench(N)


def right(defense, bench):
    x, y = bench.test.x(), bench.test.labels
    correct = defense.predict(x) == y
    return x[correct], y[correct]


def default(defense, x, y):
    """The accuracy (E,) at each eps among ``x`` by one search for all."""
    x_adv, forwards, _ = descend(defense, PGD(), x, y, GRID)
    level = levels(defense, x_adv, x, y, GRID, "linf")
    standing = torch.stack([level > index for index in range(len(GRID))])
    return standing.double().mean(1), float(forwards.double().mean())


def exact(defense, x, y):
    """The same by PGD from scratch at each eps."""
    standing = []
    with attack_view(defense, len(x)) as view:
        for index, eps in enumerate(GRID):
            x_adv = PGD().run(view, x, y, eps=eps, generator=generator(index))
            standing.append(defense.predict(x_adv) == y)
    return torch.stack(standing).double().mean(1)


@pytest.mark.parametrize("eps", [0.15, 0.3])
@pytest.mark.parametrize("name", PURIFIERS)
def test_a_purifier_does_not_mislead_the_search(name, eps, bench):
    defense = between(PURIFIERS[name](bench), bench.test.x(), eps)
    x, y = right(defense, bench)
    found, _ = default(defense, x, y)
    scratch = exact(defense, x, y)
    # What falls at one eps has fallen at every larger one, whatever the exact attack finds there.
    assert (found <= scratch.cummin(0).values + 0.1).all(), (found.tolist(), scratch.tolist())
    assert found.mean() <= scratch.cummin(0).values.mean() + 0.03


def test_the_walk_costs_an_honest_model_little(bench, monkeypatch):
    x, y = right(bench.bare, bench)
    found, passes = default(bench.bare, x, y)
    monkeypatch.setattr("benchmark.attacks.eps_descent.WALK", 0)
    without, before = default(bench.bare, x, y)
    assert passes <= 1.15 * before
    assert (found <= without + 0.05).all()


def asked(defense, bench):
    fallen = torch.zeros(1, N, dtype=torch.bool)
    curves = [Curve("pgd", "inhouse", "linf", (GRID[-1],), fallen, fallen.double())]
    return rises_with_eps(case_of(defense, bench, curves=curves))


def test_an_accuracy_that_rises_with_eps_is_an_alarm(bench):
    assert asked(bench.bare, bench).answer == "pass"
    # In the ball of 0.2 random starts are left as they are; in that of 0.4 none is.
    defense = between(PURIFIERS["NoisyPurifier"](bench), bench.test.x(), 0.33)
    finding = asked(defense, bench)
    assert (finding.answer, finding.reason) == ("alarm", "accuracy rises with eps"), finding
