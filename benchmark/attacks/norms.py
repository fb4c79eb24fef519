"""Distances, projections and random starts in l-inf and l2, per sample.

Images are float32 (N, C, H, W) in [0, 1]; ``eps`` is a float or a tensor (N,).
"""

import math

import torch
from torch import Tensor

Eps = float | Tensor


def per_sample(eps: Eps, x: Tensor) -> Tensor:
    """Return ``eps`` as a tensor (N, 1, 1, ...) that broadcasts over the batch ``x``."""
    eps = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    return eps.expand(len(x)).reshape(-1, *[1] * (x.dim() - 1))


def distance(x_adv: Tensor, x: Tensor, norm: str) -> Tensor:
    """Return the distance (N,) between two batches of images, float64 for a fair comparison."""
    delta = (x_adv.double() - x.double()).flatten(1)
    return delta.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(delta, dim=1)


def project(x_adv: Tensor, x: Tensor, eps: Eps, norm: str) -> Tensor:
    """Return the point nearest to ``x_adv`` in the eps-ball around ``x`` within the box [0, 1].

    For l-inf that is clamping twice. For l2, clamping after shortening would waste length that the
    free pixels could still use: see :func:`_share_within`.
    """
    eps = per_sample(eps, x)
    delta = x_adv - x
    if norm == "linf":
        delta = torch.minimum(torch.maximum(delta, -eps), eps)
    else:
        delta = delta * _share_within(delta, x, eps)
    return (x + delta).clamp(0, 1)


ROUNDS = 10
"""Rounds of :func:`_share_within`, at most; with fewer the result may lie inside the ball."""


def _share_within(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Return the largest t <= 1 (N, 1, ...) for which clip(x + t delta) - x is within ``eps``.

    By the optimality conditions clip(x + t delta, 0, 1) is the nearest point of ball and box to
    x + delta. Its length grows with t; given which pixels the box stops, t has a closed form,
    which is too small if further ones stop: so t grows round by round and never overshoots.
    """
    room = torch.where(delta > 0, 1 - x, -x)
    dims = tuple(range(1, x.dim()))
    length = torch.linalg.vector_norm(delta, dim=dims, keepdim=True)
    share = torch.where(length > eps, eps / length.clamp_min(1e-30), 1.0)
    stopped = torch.zeros_like(delta, dtype=torch.bool)
    for _ in range(ROUNDS):
        before, stopped = stopped, (delta * share).abs() > room.abs()
        if torch.equal(stopped, before):
            break
        left = eps.square() - (room * stopped).square().sum(dims, keepdim=True)
        free = (delta * ~stopped).square().sum(dims, keepdim=True)
        longer = (left / free.clamp_min(1e-30)).clamp_min(0).sqrt().clamp_max(1)
        share = torch.where(stopped.any(dims, keepdim=True), longer, share)
    return share


def steepest_ascent(gradient: Tensor, norm: str) -> Tensor:
    """Return the unit step of steepest ascent under ``norm``: the sign, or the l2 direction."""
    if norm == "linf":
        return gradient.sign()
    flat = gradient.flatten(1)
    # Scaled by the largest entry first: squares of gradients near 1e-30 would underflow to 0.
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    length = torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp_min(1e-12)
    direction: Tensor = flat / length
    return direction.view_as(gradient)


def unit_ball(x: Tensor, norm: str, generator: torch.Generator) -> Tensor:
    """Return points drawn uniformly from the unit ball around 0, shaped as the batch ``x``."""
    if norm == "linf":
        return torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) * 2 - 1
    direction = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    length = torch.linalg.vector_norm(direction.flatten(1), dim=1)
    radius = torch.rand(length.shape, generator=generator, device=x.device, dtype=x.dtype)
    # The share of a d-ball within radius r grows as r**d.
    return direction * per_sample(radius ** (1 / math.prod(x.shape[1:])) / length, x)


def random_start(x: Tensor, eps: Eps, norm: str, generator: torch.Generator) -> Tensor:
    """Return images drawn uniformly from the eps-ball around ``x``, clamped to the box."""
    return project(x + per_sample(eps, x) * unit_ball(x, norm, generator), x, eps, norm)
