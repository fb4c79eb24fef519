"""Pretraining of an encoder: its trunk learns to classify before the defense itself is trained.

The authors' CIFAR10 encoder starts from a VGG that was trained to classify CIFAR10.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from benchmark.datasets import DatasetInfo, ImageDataset
from benchmark.hashing import derive_seed
from benchmark.models.defense import Defense
from benchmark.progress import Advance, Progress
from benchmark.seeding import seeded
from benchmark.training import TrainingLog, TrainingSettings, train
from defenses.optimization import descend


class _Headed(Defense):
    """A trunk under a linear head that is thrown away afterwards."""

    def __init__(self, info: DatasetInfo, trunk: nn.Module, features: int) -> None:
        super().__init__(info)
        self.trunk = trunk
        self.head = nn.Linear(features, info.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """See :meth:`benchmark.models.defense.Defense.forward`."""
        logits: Tensor = self.head(self.trunk(x))
        return logits


class _Pretraining(Progress):
    """Shows the bars of ``shown`` under the name of this phase."""

    def __init__(self, shown: Progress) -> None:
        self.shown = shown

    def say(self, text: str) -> None:
        self.shown.say(text)

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        with self.shown.task("pretraining", total) as advance:
            yield advance


def pretrain(
    trunk: nn.Module,
    features: int,
    data: ImageDataset,
    *,
    settings: TrainingSettings,
    seed: int,
    progress: Progress,
) -> TrainingLog:
    """Train ``trunk``, which has ``features`` outputs, on clean images under cross-entropy.

    Adam's learning rate, the epochs and the held-out slice are those of ``settings``. The log's
    epochs count up to 0, so that the training proper follows with epoch 1.
    """
    seed = derive_seed(seed, "pretraining")
    with seeded(seed, data.device):
        model = _Headed(data.info, trunk, features).to(data.device)
    optimizer = Adam(model.parameters(), lr=settings.lr)

    def step(x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        loss = F.cross_entropy(model(x), y)
        descend(loss, optimizer)
        return {"loss": loss.detach()}

    log = train(
        model,
        data,
        step=step,
        optimizers=[optimizer],
        settings=settings,
        seed=seed,
        progress=_Pretraining(progress),
        state=(),
    )
    rows = [row | {"epoch": row["epoch"] - settings.epochs} for row in log.epochs]
    return TrainingLog(rows, log.seconds)
