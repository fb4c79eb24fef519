"""The nearest point of ball and box, in closed form for each norm, per sample.

Each takes the change ``delta`` (N, C, H, W) of images ``x`` in [0, 1] and ``eps`` (N, 1, 1, 1), and
returns a change that, once the sum is clamped to the box, makes the nearest point, in the Euclidean
sense, that the ball and the box allow.
"""

import torch
from torch import Tensor


def onto_linf(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Clamp to the ball; the box does not come in its way."""
    return torch.minimum(torch.maximum(delta, -eps), eps)


def onto_l2(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Shorten by the share of :func:`_share_within`.

    Clamping after shortening to eps would waste length that the free pixels could still use.
    """
    return delta * _share_within(delta, x, eps)


def onto_l1(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Shorten every entry by the same amount, down to 0, and clamp it to the box.

    That this is the nearest point, and how the amount is found, is due to Croce and Hein (2021,
    https://arxiv.org/abs/2103.01208): with r_i the room that the box leaves entry i in its
    direction, the length sum_i min(max(|delta_i| - t, 0), r_i) falls piecewise linearly in t, with
    kinks where an entry leaves its bound, at |delta_i| - r_i, or becomes 0, at |delta_i|.
    """
    size = delta.double().abs().flatten(1)
    room = torch.where(delta > 0, 1 - x, x).double().flatten(1)
    budget = eps.double().flatten(1)
    bound = (size - room).clamp_min(0)
    kinks, order = torch.cat([size, bound], 1).sort(1, descending=True)
    # Below its kink an entry's length grows as t falls; below the bound's it no longer does.
    sign = torch.where(order < size.shape[1], 1.0, -1.0).to(kinks)
    slope, height = sign.cumsum(1), (sign * kinks).cumsum(1)
    length = height - slope * kinks  # at t equal to each kink, ascending
    passed = (length < budget).sum(1, keepdim=True)
    last = (passed - 1).clamp_min(0)
    steepness = slope.gather(1, last).clamp_min(1)
    t = torch.where(passed > 0, (height.gather(1, last) - budget) / steepness, kinks[:, :1])
    short = torch.minimum((size - t.clamp_min(0)).clamp_min(0), room)
    return short.view_as(delta).to(delta.dtype).copysign(delta)


def onto_l0(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Keep the eps entries that it costs most to give up; eps is rounded down.

    The cost of an entry is by how much the squared distance grows where it is set to 0 (Croce and
    Hein 2019, https://arxiv.org/abs/1909.05040). Entries of the array count, so that a colour pixel
    counts up to three times, as in AttackBench and sigma-zero.
    """
    stopped = torch.minimum(torch.maximum(delta, -x), 1 - x)
    cost = (delta.square() - (delta - stopped).square()).flatten(1)
    order = cost.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=x.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return torch.where((rank < eps.flatten(1).floor()).view_as(delta), delta, 0)


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
