"""No defense: the plain classifier, trained on clean images."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from baselines.networks import plain_classifier
from benchmark.datasets import DatasetInfo, ImageDataset
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.seeding import generator
from benchmark.training import TrainingLog, TrainingSettings, train

DEFAULT = TrainingSettings()


class Undefended(Defense):
    """The plain classifier; ``width`` scales its channels, ``architecture`` names its trunk."""

    def __init__(
        self,
        info: DatasetInfo,
        *,
        training: TrainingSettings = DEFAULT,
        width: float = 1.0,
        architecture: str | None = None,
    ) -> None:
        super().__init__(info)
        self.settings = training
        self.network = plain_classifier(info, width, architecture)

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`benchmark.models.defense.Defense.forward`."""
        logits: Tensor = self.network(x)
        return logits

    def training_images(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return the images (N, C, H, W) to learn from in place of the batch ``x``."""
        return x

    def fit(self, data: ImageDataset, *, seed: int, progress: Progress) -> TrainingLog:
        """Minimise the cross-entropy on the training images with Adam."""
        optimizer = Adam(self.parameters(), lr=self.settings.lr)
        rng = generator(seed + 1, data.device)  # apart from the loop's own, which orders the data

        def step(x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
            loss = F.cross_entropy(self(self.training_images(x, y, rng)), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}

        return train(
            self,
            data,
            step=step,
            optimizers=[optimizer],
            settings=self.settings,
            seed=seed,
            progress=progress,
            state=[rng],
        )
