"""Distances, projections, steps and random starts in l-inf, l2, l1 and l0, per sample.

Images are float32 (N, C, H, W) in [0, 1]; ``eps`` is a float or a tensor (N,). l0 is no norm: it
counts the entries of the array that differ, each channel of a pixel for itself.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmark.attacks.projections import onto_l0, onto_l1, onto_l2, onto_linf

Eps = float | Tensor


def per_sample(eps: Eps, x: Tensor) -> Tensor:
    """Return ``eps`` as a tensor (N, 1, 1, ...) that broadcasts over the batch ``x``."""
    eps = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    return eps.expand(len(x)).reshape(-1, *[1] * (x.dim() - 1))


ORDERS: Mapping[str, float] = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
"""The order of each norm, as torch.linalg.vector_norm takes it."""

DUAL: Mapping[str, float] = {"linf": 1, "l2": 2, "l1": math.inf, "l0": math.inf}
"""The order of the dual norm: a linear function of slope g rises by eps times g's dual norm within
the ball. l0 has none; there one entry moves by at most 1, as in l1."""

_ONTO: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linf": onto_linf,
    "l2": onto_l2,
    "l1": onto_l1,
    "l0": onto_l0,
}


def distance(x_adv: Tensor, x: Tensor, norm: str) -> Tensor:
    """Return the distance (N,) between two batches of images, float64 for a fair comparison."""
    delta = (x_adv.double() - x.double()).flatten(1)
    return length(delta, norm)


def length(delta: Tensor, norm: str) -> Tensor:
    """Return the length (N,) of ``delta`` (N, ...) in ``norm``, in its own dtype."""
    flat: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=ORDERS[norm], dim=1)
    return flat


def dual_length(gradient: Tensor, norm: str) -> Tensor:
    """Return the dual length (N,) of ``gradient`` (N, ...): its rise per unit of ``norm``."""
    flat: Tensor = torch.linalg.vector_norm(gradient.flatten(1), ord=DUAL[norm], dim=1)
    return flat


def spread(eps: Tensor, x: Tensor, norm: str) -> Tensor:
    """Return by how much each entry of ``x`` may move when all move alike, by eps (N, ...) in all.

    In l0, where eps counts entries, it is their share.
    """
    return eps / math.pow(x[0].numel(), {"linf": 0.0, "l2": 0.5, "l1": 1.0, "l0": 1.0}[norm])


def project(x_adv: Tensor, x: Tensor, eps: Eps, norm: str) -> Tensor:
    """Return the point nearest to ``x_adv`` in the eps-ball around ``x`` within the box [0, 1].

    Nearest in the Euclidean sense, for every norm (:mod:`benchmark.attacks.projections`).
    """
    return (x + _ONTO[norm](x_adv - x, x, per_sample(eps, x))).clamp(0, 1)


SPARSE = 0.05
"""The share of the entries that a step in l1 moves (docs/constants.md)."""


def steepest_ascent(gradient: Tensor, norm: str) -> Tensor:
    """Return a step of length 1 that ascends: the sign in l-inf, the direction in l2.

    In l1 the steepest step moves a single entry and gets stuck where the box stops that one; so it
    is the sign of the ``SPARSE`` largest entries (Tramer and Boneh 2019,
    https://arxiv.org/abs/1904.13000). In l0, where a step has no length, it is the gradient with a
    largest entry of 1, of which the projection keeps the largest changes (Croce and Hein 2019,
    https://arxiv.org/abs/1909.05040): a weak search, for which sigma-zero is the attack.
    """
    if norm == "linf":
        return gradient.sign()
    flat = gradient.flatten(1)
    if norm == "l1":
        kept = flat.abs().topk(max(1, round(SPARSE * flat.shape[1])), dim=1)
        flat = torch.zeros_like(flat).scatter(1, kept.indices, flat.gather(1, kept.indices).sign())
    # Scaled by the largest entry first: squares of gradients near 1e-30 would underflow to 0.
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    order = {"l2": 2.0, "l1": 1.0, "l0": math.inf}[norm]
    step = torch.linalg.vector_norm(flat, ord=order, dim=1, keepdim=True).clamp_min(1e-12)
    direction: Tensor = flat / step
    return direction.view_as(gradient)


def unit_ball(x: Tensor, norm: str, generator: torch.Generator) -> Tensor:
    """Return points drawn uniformly from the unit ball around 0, shaped as the batch ``x``.

    The ball of l0 is unbounded: there it is the l-inf ball, and scaled by eps and projected
    eps entries are left, drawn at random, most of them black or white.
    """
    if norm in ("linf", "l0"):
        return torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) * 2 - 1
    if norm == "l1":
        # Exponential variables over their sum are uniform on a simplex, of which the l1 ball has
        # one per combination of signs; the one more is how far inside the point lies.
        count = math.prod(x.shape[1:]) + 1
        uniform = torch.rand(len(x), count, generator=generator, device=x.device, dtype=x.dtype)
        spread = -torch.log1p(-uniform)
        share = (spread / spread.sum(1, keepdim=True))[:, 1:].view(x.shape)
        sides = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 0.5
        return share.copysign(sides)
    direction = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    size = torch.linalg.vector_norm(direction.flatten(1), dim=1)
    radius = torch.rand(size.shape, generator=generator, device=x.device, dtype=x.dtype)
    # The share of a d-ball within radius r grows as r**d.
    return direction * per_sample(radius ** (1 / math.prod(x.shape[1:])) / size, x)


def random_start(x: Tensor, eps: Eps, norm: str, generator: torch.Generator) -> Tensor:
    """Return images drawn uniformly from the eps-ball around ``x``, clamped to the box."""
    return project(x + per_sample(eps, x) * unit_ball(x, norm, generator), x, eps, norm)
