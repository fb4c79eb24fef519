"""WGAN-GP (Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028), sized to a dataset's images.

Generator G maps latents z ~ N(0, I) to images, critic D scores images; lambda is the weight of the
gradient penalty. The networks are those of Defense-GAN's authors for 28x28 images: 5x5
convolutions of stride 2, no normalisation in either network. Larger images add layers.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from benchmark.datasets import DatasetInfo
from benchmark.errors import UsageError
from benchmark.models.architectures import Normalize, scaled

CHANNELS = 64
"""Channels at half the image's size, at width 1; twice as many at each halving, at most 512."""


def sizes(info: DatasetInfo) -> list[int]:
    """Return the pixels a side from the image down to at most 4, halved and rounded up each time.

    UsageError if the images are not square.
    """
    _, height, width = info.shape
    if height != width:
        raise UsageError(f"the GAN takes square images; those of {info.name} are {height}x{width}")
    found = [height]
    while found[-1] > 4:
        found.append((found[-1] + 1) // 2)
    return found


def channels(info: DatasetInfo, width: float) -> list[int]:
    """Return the channels at each of :func:`sizes`, the image's own first."""
    halvings = len(sizes(info)) - 1
    return [info.shape[0], *(scaled(min(CHANNELS * 2**i, 512), width) for i in range(halvings))]


class Generator(nn.Module):
    """G: latents (N, latent_dim), float32, to images (N, C, H, W) in [0, 1]."""

    def __init__(self, info: DatasetInfo, latent_dim: int, width: float) -> None:
        super().__init__()
        shape = sizes(info)[::-1]
        features = channels(info, width)[::-1]
        self.smallest = (features[0], shape[0], shape[0])
        self.first = nn.Linear(latent_dim, features[0] * shape[0] ** 2)
        layers: list[nn.Module] = []
        for (small, large), (wide, narrow) in zip(pairwise(shape), pairwise(features), strict=True):
            odd = large - (2 * small - 1)
            layers += [
                nn.ReLU(),
                nn.ConvTranspose2d(wide, narrow, 5, stride=2, padding=2, output_padding=odd),
            ]
        self.rest = nn.Sequential(*layers, nn.Sigmoid())
        _initialise(self)

    def forward(self, z: Tensor) -> Tensor:
        """Return the images of the latents ``z``."""
        images: Tensor = self.rest(self.first(z).view(-1, *self.smallest))
        return images


class Critic(nn.Module):
    """D: images (N, C, H, W) in [0, 1] to scores (N,).

    No batch norm: the penalty is on the gradient at each image alone.
    """

    def __init__(self, info: DatasetInfo, width: float) -> None:
        super().__init__()
        features = channels(info, width)
        layers: list[nn.Module] = [Normalize()]
        for narrow, wide in pairwise(features):
            layers += [nn.Conv2d(narrow, wide, 5, stride=2, padding=2), nn.LeakyReLU(0.2)]
        last = nn.Linear(features[-1] * sizes(info)[-1] ** 2, 1)
        self.network = nn.Sequential(*layers, nn.Flatten(), last)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the images ``x``."""
        scores: Tensor = self.network(x)
        return scores.squeeze(1)


def _initialise(network: nn.Module) -> None:
    """He et al. 2015 (https://arxiv.org/abs/1502.01852), as the authors: nothing normalises."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            # A transposed convolution of stride 2 sums a quarter of its kernel into each pixel.
            fan_in = layer.weight[0].numel()
            if isinstance(layer, nn.ConvTranspose2d):
                fan_in = layer.weight.numel() // layer.out_channels // 4
            nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
    """Return mean (||grad D(x^)||_2 - 1)^2 at random points x^ between the pairs of images.

    A scalar that can be differentiated with respect to D's weights; ``real`` and ``fake`` are
    (N, C, H, W).
    """
    share = torch.rand(len(real), 1, 1, 1, generator=rng, device=real.device)
    between = (real + share * (fake - real)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


class Game:
    """The two players' updates: ``n_critic`` of D for each one of G."""

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        *,
        latent_dim: int,
        penalty: float,
        n_critic: int,
        lr: float,
        betas: Sequence[float],
        rng: torch.Generator,
    ) -> None:
        self.generator, self.critic = generator, critic
        self.latent_dim, self.penalty, self.n_critic = latent_dim, penalty, n_critic
        self.rng = rng
        first, second = betas
        self.g = Adam(generator.parameters(), lr=lr, betas=(first, second))
        self.d = Adam(critic.parameters(), lr=lr, betas=(first, second))
        self._played = 0

    def state_dict(self) -> Mapping[str, Any]:
        """Return what decides the next step besides the two players and D's optimiser."""
        return {"g": self.g.state_dict(), "rng": self.rng.get_state(), "played": self._played}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from a :meth:`state_dict`."""
        self.g.load_state_dict(dict(state["g"]))
        self.rng.set_state(state["rng"])
        self._played = state["played"]

    def step(self, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """Update D on the images ``x`` (N, C, H, W), and G when it is its turn."""
        report = self.update_critic(x)
        self._played += 1
        if self._played % self.n_critic == 0:
            self.update_generator(len(x))
        return report

    def update_critic(self, x: Tensor) -> Mapping[str, Tensor]:
        """Descend mean D(G(z)) - mean D(x) + lambda penalty by one step of D.

        Returns the ``loss``, the critic's estimate of the ``wasserstein`` distance and the
        ``penalty``, unweighted.
        """
        with torch.no_grad():
            fake = self.generator(self._latents(len(x)))
        distance = self.critic(x).mean() - self.critic(fake).mean()
        penalty = gradient_penalty(self.critic, x, fake, self.rng)
        loss = self.penalty * penalty - distance
        self.d.zero_grad(set_to_none=True)
        loss.backward()
        self.d.step()
        return {
            "loss": loss.detach(),
            "wasserstein": distance.detach(),
            "penalty": penalty.detach(),
        }

    def update_generator(self, n: int) -> None:
        """Ascend mean D(G(z)) over ``n`` latents by one step of G."""
        fake = self.generator(self._latents(n))
        loss = -self.critic(fake).mean()
        self.g.zero_grad(set_to_none=True)
        loss.backward()
        self.g.step()

    def _latents(self, n: int) -> Tensor:
        return torch.randn(n, self.latent_dim, generator=self.rng, device=self.rng.device)
