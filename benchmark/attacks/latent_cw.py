"""C&W in the latent space of a defense's generator (Athalye et al. 2018).

Appendix B of https://arxiv.org/abs/1802.00420: a defense that maps every image to the nearest one
its generator can make is attacked with images that the generator makes itself, which it leaves
where they are. The latents z of the image x are searched first (inversion); from there

    ||G(z) - x||^2 + c f(G(z))

is minimised over z, where f is positive as long as the classifier behind the generator is right,
and the smallest constant c that succeeds is searched per sample.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Adam

from benchmark.attacks.base import MinimalAttack
from benchmark.attacks.cw import Constants, Nearest
from benchmark.attacks.losses import margin
from benchmark.attacks.view import AttackView

CHUNK = 1024
"""Latents inverted at a time: bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class LatentCarliniWagner(MinimalAttack):
    """Latent-space C&W in l2: Adam over ``steps`` iterations for each of ``search_steps`` c.

    The inversion runs Adam at rate ``inversion_lr`` for ``inversion_steps`` iterations from each
    of ``inversion_restarts`` latents drawn from N(0, I), and the nearest end point is where every
    search step starts. c begins at ``initial_c``, is multiplied by ten until it succeeds, and is
    then bisected. Success asks the classifier for a lead of at least ``confidence`` over the true
    class: the deployed defense searches the latents again and may miss by a little. Every result
    is an image of the generator. The published evaluation has 30 restarts of 3,000 steps and up
    to 30,000 iterations of 5 search steps, with the rates and the constant given here.

    Costs each sample a forward and a backward per step of each inversion restart and per
    iteration, and a forward more for the end of the inversion's restarts and of each search step.
    """

    needs_generator: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False

    norm: str = "l2"
    inversion_restarts: int = 10
    inversion_steps: int = 200
    inversion_lr: float = 0.1
    steps: int = 300
    search_steps: int = 5
    initial_c: float = 1.0
    lr: float = 0.1
    confidence: float = 0.0

    def __post_init__(self) -> None:
        if self.norm != "l2":
            raise ValueError(f"it searches in l2 only, got norm {self.norm!r}")
        counts = (self.inversion_restarts, self.inversion_steps, self.steps, self.search_steps)
        if min(counts) < 1:
            raise ValueError(
                "inversion_restarts, inversion_steps, steps and search_steps must be at least 1,"
                f" got {', '.join(map(str, counts))}"
            )
        if not (min(self.inversion_lr, self.initial_c, self.lr) > 0 and self.confidence >= 0):
            raise ValueError(
                "inversion_lr, initial_c and lr must be above 0, confidence at least 0"
            )

    def run(self, view: AttackView, x: Tensor, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """See :meth:`.MinimalAttack.run`; where it fails, the closest attempt."""
        at_a_time = max(1, CHUNK // self.inversion_restarts)
        parts = torch.split(x, at_a_time)
        start = torch.cat([self._invert(view, part, generator) for part in parts])
        nearest = Nearest(x, self.confidence)
        constants = Constants(x, self.initial_c)
        for _ in range(self.search_steps):
            constants.narrow(self._descend(view, start, x, y, constants.c, nearest))
        return nearest.x

    def _invert(self, view: AttackView, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return the latents (N, latent_dim) of the images nearest to ``x`` that were found."""
        restarts = self.inversion_restarts
        wanted = x.repeat_interleave(restarts, dim=0)
        z = torch.randn(len(wanted), view.latent_dim, generator=rng, device=x.device, dtype=x.dtype)
        adam = Adam([z.requires_grad_()], lr=self.inversion_lr)
        for _ in range(self.inversion_steps):
            with torch.enable_grad():
                far = _squared(view.generate(z), wanted)
                (z.grad,) = torch.autograd.grad(far.sum(), z)
            adam.step()
        with torch.no_grad():
            best = _squared(view.generate(z), wanted).view(-1, restarts).argmin(dim=1)
        return z.detach()[torch.arange(len(x), device=x.device) * restarts + best]

    def _descend(
        self, view: AttackView, start: Tensor, x: Tensor, y: Tensor, c: Tensor, nearest: Nearest
    ) -> Tensor:
        """One search step: minimise for the constants ``c`` (N,); return which suffice."""
        rows = torch.arange(len(x), device=x.device)
        solved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        z = start.clone().requires_grad_()
        adam = Adam([z], lr=self.lr)
        for t in range(self.steps + 1):
            with torch.set_grad_enabled(t < self.steps):
                images, logits = view.classify_latents(z)
                squared, lead = _squared(images, x), margin(logits, y)
                objective = squared + c * (self.confidence - lead).clamp_min(0)
            solved |= nearest.offer(rows, images.detach(), squared.detach(), lead.detach())
            if t < self.steps:
                (z.grad,) = torch.autograd.grad(objective.sum(), z)
                adam.step()
        return solved


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared l2 distances (N,) between two batches of images."""
    return (x - y).square().flatten(1).sum(dim=1)
