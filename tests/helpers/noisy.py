"""Defenses whose noise comes from elsewhere than torch's global generator."""

from typing import ClassVar

import torch
from torch import Tensor
from toys import Tiny

RNG = torch.Generator()
"""Where no harness finds it."""


class OwnNoise(Tiny):
    """Keeps a generator, seeded once and for all."""

    stochastic: ClassVar[bool] = True

    def __init__(self, info, **options) -> None:
        super().__init__(info, **options)
        self.rngs = {"input": torch.Generator().manual_seed(0)}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.2 * torch.randn(x.shape, generator=self.rngs["input"]))


class HiddenNoise(Tiny):
    """Draws from a generator that it does not keep."""

    stochastic: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.2 * torch.randn(x.shape, generator=RNG))
