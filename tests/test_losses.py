"""The losses against hand-computed values, scales and class counts."""

import pytest
import torch
from torch.nn import functional as F

from benchmark.losses import LOSSES, cross_entropy, dlr, margin

LOGITS = torch.tensor([[4.0, 1.0, 3.0, 0.0], [0.0, 2.0, 1.0, 5.0]])
Y = torch.tensor([0, 1])


def test_values():
    assert torch.equal(cross_entropy(LOGITS, Y), F.cross_entropy(LOGITS, Y, reduction="none"))
    assert margin(LOGITS, Y).tolist() == [-1, 3]
    # Over the range from the first to the third largest logit: 4 - 1 and 5 - 1.
    assert dlr(LOGITS, Y).tolist() == pytest.approx([-1 / 3, 3 / 4])


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_dlr_has_no_scale_and_a_gradient_for_any_number_of_classes(classes):
    rng = torch.Generator().manual_seed(classes)
    logits = torch.randn(32, classes, generator=rng).requires_grad_()
    y = torch.arange(32) % classes
    loss = dlr(logits, y)
    assert torch.isfinite(loss).all()
    assert torch.allclose(loss, dlr(1e4 * logits, y), rtol=1e-4)
    assert torch.equal(loss > 0, logits.argmax(1) != y)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(gradient).all()
    # Where the model is right, a step up the gradient narrows its lead.
    right = logits.argmax(1) == y
    assert right.any()
    assert (margin(logits + 1e-3 * gradient, y) > margin(logits, y))[right].all()


@pytest.mark.parametrize("name", LOSSES)
def test_equal_logits_are_no_division_by_zero(name):
    logits = torch.zeros(3, 4, requires_grad=True)
    loss = LOSSES[name](logits, torch.zeros(3).long())
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


def test_only_the_cross_entropy_saturates():
    logits = torch.tensor([[200.0, 0.0, 0.0, 0.0]], requires_grad=True)
    for name, loss in LOSSES.items():
        (gradient,) = torch.autograd.grad(loss(logits, torch.tensor([0])).sum(), logits)
        assert bool(gradient.any()) == (name != "cross_entropy")
