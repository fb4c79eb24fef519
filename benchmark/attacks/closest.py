"""The nearest adversarial iterate per sample, of the attacks that search for one."""

import math

import torch
from torch import Tensor

from benchmark.attacks.losses import margin
from benchmark.attacks.norms import length


class Closest:
    """The nearest adversarial iterate; before there is one, that with the highest margin.

    ``x`` (N, C, H, W) are these iterates and ``far`` (N,) their distances, infinite where nothing
    was found.
    """

    def __init__(self, x: Tensor, norm: str) -> None:
        self.x = x.clone()
        self.norm = norm
        self.far = torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)
        self._margin = torch.full_like(self.far, -torch.inf)

    def offer(
        self, rows: Tensor, x: Tensor, x_adv: Tensor, logits: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take what is better among the samples ``rows``, whose images are ``x``.

        Returns which iterates ``x_adv`` are adversarial, and how far they lie, both (n,).
        """
        fooled, far = logits.argmax(1) != y, length(x_adv - x, self.norm)
        lead = margin(logits, y).to(self._margin)
        better = fooled & (far < self.far[rows])
        closer = ~fooled & self.far[rows].isinf() & (lead > self._margin[rows])
        taken = rows[better | closer]
        self.x[taken] = x_adv[better | closer]
        self.far[rows[better]] = far[better]
        self._margin[rows[closer]] = lead[closer]
        return fooled, far


def farthest(x: Tensor, norm: str) -> Tensor:
    """Return how far the farthest image of the box lies from each of ``x`` (N,)."""
    if norm == "l0":
        return torch.full((len(x),), float(x[0].numel()), device=x.device, dtype=x.dtype)
    return length(torch.maximum(x, 1 - x), norm)


def annealed(first: float, last: float, share: float) -> float:
    """Return the value on half a cosine from ``first`` to ``last``, ``share`` of the way along."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
