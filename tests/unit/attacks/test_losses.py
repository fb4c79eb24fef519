"""The losses against hand-computed values, scales and class counts."""

import pytest
import torch
from torch.nn import functional as F

from benchmark.attacks.losses import LOSSES, cross_entropy, dlr, margin

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


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ([5.0, 2.0, 2.0, 1.0], 0),  # the second and the third tie
        ([5.0, 2.0, 2.0, 2.0], 0),  # and all runners-up
        ([1e5 + 5, 1e5 + 2, 1e5 + 2, 1e5], 0),
        ([3.0, 3.0, 1.0, 0.0], 0),  # the first and the second
        ([2.0, 2.0, 2.0, 2.0], 0),  # all
        ([2.0, 2.0, 2.0], 0),
        ([5.0, 2.0, 2.0], 0),
        ([2.0, 2.0], 0),
        ([5.0, 2.0], 0),
    ],
)
def test_dlr_with_ties_has_a_gradient_that_narrows_the_lead(logits, labels):
    """The runners-up are one function of the image, as in a model with classes of no use."""
    at = torch.tensor([logits])
    y = torch.tensor([labels])
    slopes = torch.linspace(1, 2, len(logits)).unsqueeze(0)
    slopes[at == at[0, -2]] = 1.5  # tied logits stay tied
    slopes[0, 0] = -1
    x = torch.zeros(1, requires_grad=True)
    loss = dlr(at + x[:, None] * slopes, y)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert torch.isfinite(loss).all()
    assert gradient > 0
    assert gradient < 100


def test_dlr_is_the_published_one_without_ties():
    rng = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(200, 10, generator=rng)).requires_grad_()
    y = torch.arange(200) % 10
    top = logits.sort(1, descending=True)
    other = torch.where(top.indices[:, 0] == y, top.values[:, 1], top.values[:, 0])
    published = -(logits.gather(1, y[:, None])[:, 0] - other) / (
        top.values[:, 0] - top.values[:, 2] + 1e-12
    )
    assert torch.allclose(dlr(logits, y), published)
    found, wanted = (torch.autograd.grad(v.sum(), logits)[0] for v in (dlr(logits, y), published))
    assert torch.allclose(found, wanted, atol=1e-5)
