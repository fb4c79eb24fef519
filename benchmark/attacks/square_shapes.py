"""Windows and bumps of the Square attack (:mod:`benchmark.attacks.square`)."""

import torch
from torch import Tensor

GRID = 5
"""A search in l2 begins with a grid of this many bumps each way."""


def windows(x: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Draw a square window of ``side`` pixels per image (N, 1, H, W), bool."""
    height, width = x.shape[2:]
    top = _place(height - side, x, rng)
    left = _place(width - side, x, rng)
    row = torch.arange(height, device=x.device).view(1, 1, -1, 1) - top
    column = torch.arange(width, device=x.device).view(1, 1, 1, -1) - left
    return (row >= 0) & (row < side) & (column >= 0) & (column < side)


def _place(room: int, x: Tensor, rng: torch.Generator) -> Tensor:
    """Draw a place (N, 1, 1, 1) from 0 to ``room``."""
    return torch.randint(0, room + 1, (len(x), 1, 1, 1), generator=rng, device=x.device)


def bumps(inside: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Return the shape eta of the paper in each window ``inside`` (N, 1, H, W), of length 1.

    Two bumps of opposite sign beside or above each other, drawn per image.
    """
    n = len(inside)
    upright = eta(side).to(inside.device)
    turned = torch.rand(n, generator=rng, device=inside.device) < 0.5
    shape = torch.where(turned.view(-1, 1, 1), upright.T, upright)
    placed = torch.zeros(inside.shape, device=inside.device)
    placed[inside] = shape.flatten()
    return placed


def eta(side: int) -> Tensor:
    """Return the two bumps (side, side): the upper half positive, the lower negative."""
    half = side // 2
    return _unit(torch.cat([_bump(half, side), -_bump(side - half, side)]))


def _bump(height: int, width: int) -> Tensor:
    """Return a bump (height, width) that falls from its middle, of length 1: nested rectangles."""
    bump = torch.zeros(height, width)
    row, column = height // 2, width // 2
    for k in range(max(row, column) + 1):
        rows = slice(max(row - k, 0), min(row + k + 1, height))
        columns = slice(max(column - k, 0), min(column + k + 1, width))
        bump[rows, columns] += 1 / (k + 1) ** 2
    return _unit(bump)


def _unit(shape: Tensor) -> Tensor:
    scaled: Tensor = shape / torch.linalg.vector_norm(shape).clamp_min(1e-12)
    return scaled


def l2_start(x: Tensor, rng: torch.Generator) -> Tensor:
    """Return bumps in a grid (N, C, H, W), with random signs and directions."""
    n, c, height, width = x.shape
    side = max(1, min(height, width) // GRID)
    delta = torch.zeros_like(x)
    upright = eta(side).to(x) if side > 1 else torch.ones(1, 1).to(x)
    for top in range((height % side) // 2, height - side + 1, side):
        for left in range((width % side) // 2, width - side + 1, side):
            turned = torch.rand(n, 1, 1, 1, generator=rng, device=x.device) < 0.5
            sign = torch.rand(n, c, 1, 1, generator=rng, device=x.device) < 0.5
            shape = torch.where(turned, upright.T, upright)
            delta[:, :, top : top + side, left : left + side] = torch.where(sign, shape, -shape)
    return delta
