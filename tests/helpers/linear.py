"""The best perturbation of a linear model, in closed form."""

import torch


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
