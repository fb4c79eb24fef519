"""Targets: which class is meant, and that every attack goes there."""

import pytest
import torch
from linear import linear_classes
from toys import images

from benchmark.attacks.alma import ALMA
from benchmark.attacks.apgd import APGD
from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.cw import CarliniWagner
from benchmark.attacks.ddn import DDN
from benchmark.attacks.fmn import FMN
from benchmark.attacks.losses import LOSSES, TARGETED, towards
from benchmark.attacks.pgd import PGD
from benchmark.attacks.sigma_zero import SigmaZero
from benchmark.attacks.square import Square
from benchmark.attacks.targets import check_target, targets_of, wrong_classes
from benchmark.attacks.view import attack_view
from benchmark.errors import UsageError
from benchmark.execution.plan import plan
from benchmark.seeding import generator

LOGITS = torch.tensor([[5.0, 1.0, 3.0, 0.0], [0.0, 2.0, 1.0, 5.0]])
Y = torch.tensor([0, 3])


def test_wrong_classes_likeliest_first():
    assert wrong_classes(LOGITS, Y).tolist() == [[2, 1, 3], [1, 2, 0]]


@pytest.mark.parametrize(
    ("target", "wanted"),
    [("next-likely", [2, 1]), ("least-likely", [3, 0]), (1, [1, 1]), (3, [3, 1]), (0, [2, 0])],
)
def test_the_class_that_is_meant(target, wanted):
    """An image of the target's own class goes to its likeliest wrong one."""
    model, _ = linear_classes()
    fixed = type(model)(lambda x: LOGITS)
    with attack_view(fixed, 2) as view:
        assert targets_of(view, images(2), Y, target).tolist() == wanted
        assert targets_of(view, images(2), Y, "untargeted") is None
        assert view.counts()[0].tolist() == [1, 1]


def test_a_class_that_the_model_lacks_is_said():
    model, _ = linear_classes()
    with attack_view(model, 2) as view, pytest.raises(UsageError, match="classes are 0 to 3"):
        targets_of(view, images(2), Y, 4)


@pytest.mark.parametrize("target", ["any", -1, True, 1.5, None])
def test_other_targets_are_refused(target):
    with pytest.raises(ValueError, match="target must be"):
        check_target(target)


@pytest.mark.parametrize("name", TARGETED)
def test_targeted_losses_rise_towards_the_class(name):
    logits = torch.randn(16, 5, generator=generator(0)).requires_grad_()
    y = torch.arange(16) % 5
    target = (y + 2) % 5
    (g,) = torch.autograd.grad(towards(name, target)(logits, y).sum(), logits)
    lead = g.gather(1, target[:, None]) - g.gather(1, y[:, None])
    assert torch.isfinite(g).all()
    assert (lead > 0).all()
    assert towards(name, None) is LOSSES[name]


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_targeted_dlr_has_no_scale_and_survives_ties(classes):
    logits = torch.randn(32, classes, generator=generator(classes))
    y = torch.arange(32) % classes
    target = (y + 1) % classes
    dlr = TARGETED["dlr"]
    assert torch.allclose(dlr(logits, y, target), dlr(1e4 * logits, y, target), rtol=1e-4)
    tied = torch.zeros(3, classes, requires_grad=True)
    loss = dlr(tied, torch.zeros(3).long(), torch.ones(3).long())
    (g,) = torch.autograd.grad(loss.sum(), tied)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(g).all()


@pytest.mark.parametrize(
    "cls", [PGD, APGD, Square, CarliniWagner, DDN, FMN, ALMA, SigmaZero], ids=lambda c: c.__name__
)
def test_every_attack_goes_to_its_target(cls):
    """More often than without one: on its way it may cross another class, which counts as well."""
    model, _ = linear_classes(seed=3)
    few = {"n_queries": 100} if cls is Square else {"steps": 30}
    x = 0.4 + 0.2 * images(24, seed=9)
    y = model.predict(x)

    def ends(target):
        with attack_view(model, len(x)) as view:
            budget = {"eps": 0.1} if issubclass(cls, BudgetAttack) else {}
            found_by = cls(target=target, **few)
            return model.predict(found_by.run(view, x, y, generator=generator(0), **budget))

    free = ends("untargeted")
    for target in range(4):
        asked = y != target
        aimed = (ends(target) == target)[asked].sum()
        assert aimed > (free == target)[asked].sum()


def test_from_the_command_line():
    spec = plan(
        dataset="digits",
        preset="smoke",
        device="cpu",
        defenses=["undefended"],
        attacks=["inhouse:apgd(target='least-likely', steps=20)", "inhouse:apgd-t(n_targets=3)"],
    )
    first, second = spec.attacks
    assert (first.type, first.params) == ("apgd", {"target": "least-likely", "steps": 20})
    assert (second.type, second.params) == ("apgd-t", {"n_targets": 3})
