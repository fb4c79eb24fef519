"""Adversarial training (Madry et al. 2017, https://arxiv.org/abs/1706.06083)."""

import torch
from torch import Tensor

from baselines.undefended import Undefended
from benchmark.training import adversarial_examples


class Madry(Undefended):
    """The plain classifier, trained on PGD examples only: min over weights of max over images."""

    def training_images(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return PGD examples of the batch against the model in its present state."""
        return adversarial_examples(self, x, y, self.settings, rng)
