"""The best perturbation of a linear model, and its nearest one, in closed form."""

import torch
from toys import TOY, Function

from benchmark.attacks.norms import dual_length


def best_linear(x, direction, eps, norm):
    """The x' in ball and box that is furthest along ``direction``, per sample, in float64.

    In l2 the optimality conditions make it clip(x + t direction, 0, 1), with t such that it
    lies on the sphere (or all pixels at the box's corner): found by bisection.
    """
    x, direction = x.double(), direction.double()
    if norm == "linf":
        return (x + eps * direction.sign()).clamp(0, 1)
    low, high = torch.zeros(len(x), 1, dtype=x.dtype), torch.full((len(x), 1), 1e6, dtype=x.dtype)
    for _ in range(200):
        middle = (low + high) / 2
        far = ((x + middle * direction).clamp(0, 1) - x).norm(dim=1, keepdim=True) > eps
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    return (x + low * direction).clamp(0, 1)


def linear_classes(seed=0, classes=4, entries=64):
    """Return a model with logits W (x - 0.5), and W (classes, entries)."""
    w = torch.randn(classes, entries, generator=torch.Generator().manual_seed(seed)) / entries**0.5
    model = Function(lambda x: (x - 0.5).flatten(1) @ w.T)
    model.info = TOY
    return model, w


def nearest_linear(x, y, w, norm):
    """Return how far (N,) the nearest other class of :func:`linear_classes` is, in float64.

    Where the box does not bind: to each class it is the lead over the dual norm of the difference
    of weights. In l0, where every entry goes to the end of the box that helps most, it is the
    smallest number of entries whose gains sum up to the lead.
    """
    x, w = x.flatten(1).double(), w.double()
    logits = (x - 0.5) @ w.T
    each = []
    for other in range(len(w)):
        slope = w[other] - w[y]
        lead = logits.gather(1, y[:, None])[:, 0] - logits[:, other]
        if norm == "l0":
            gains = torch.where(slope > 0, slope * (1 - x), -slope * x)
            total = gains.sort(dim=1, descending=True).values.cumsum(1)
            far = (total <= lead[:, None]).sum(1) + 1.0
        else:
            far = lead / dual_length(slope, norm)
        each.append(torch.where(y == other, torch.inf, far))
    return torch.stack(each).amin(0)
