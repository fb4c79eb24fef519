"""Small defenses, attacks and data whose right answers are known, for several test files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.attacks.base import BudgetAttack, MinimalAttack
from benchmark.datasets import DatasetInfo, ImageDataset
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.training import TrainingLog, TrainingSettings, train

TOY = DatasetInfo("toy", (1, 2, 2), 2, ("a", "b"), augment=False)


def dataset(x: Tensor, y: Tensor, n_classes: int = 2) -> ImageDataset:
    """Images (N, C, H, W) in [0, 1], rounded to grey levels, with labels (N,)."""
    names = tuple(str(label) for label in range(n_classes))
    info = DatasetInfo("toy", tuple(x.shape[1:]), n_classes, names, augment=False)
    images = (x * 255).round().to(torch.uint8)
    ids = torch.arange(len(x)) + 100
    return ImageDataset.from_tensors(info, images, y, ids, source="embedded", n_available=len(x))


def pixels(*values: float) -> Tensor:
    """Images of one pixel, (N, 1, 1, 1)."""
    return torch.tensor(values).view(-1, 1, 1, 1)


class Linear(Defense):
    """Two classes, logits [0, w.x + b]: label 1 where w.x + b > 0."""

    def __init__(self, w: Tensor, b: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(TOY)
        self.w = nn.Parameter(w.flatten().clone())
        self.b = nn.Parameter(torch.tensor(float(b)))
        self.scale = scale
        self.forwards = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        score = self.scale * (x.flatten(1) @ self.w + self.b)
        return torch.stack([torch.zeros_like(score), score], 1)


class Function(Defense):
    """Logits by a function of the images."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__(TOY)
        self.logits = logits
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


class Noisy(Linear):
    """Linear, but every forward adds the next of ``offsets`` to the score."""

    stochastic: ClassVar[bool] = True

    def __init__(self, w: Tensor, offsets: list[float], b: float = 0.0) -> None:
        super().__init__(w, b)
        self.offsets = offsets
        self.draws = 0

    def forward(self, x: Tensor) -> Tensor:
        offset = self.offsets[self.draws % len(self.offsets)]
        self.draws += 1
        logits = super().forward(x)
        return logits + torch.tensor([0.0, offset])

    def predict(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(1).detach()


class SmallCNN(Defense):
    """A convolution with batch norm, dropout and smooth units, for (N, 1, 8, 8)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(TOY)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.Tanh(),
                nn.Flatten(),
                nn.Dropout(0.5),
                nn.Linear(256, 3),
            )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def images(n: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Tensor:
    """Images like MNIST's: about a third of the pixels at 0, a third at 1, a third between."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand((n, *shape), generator=rng) * 3 - 1).clamp(0, 1)


# --- trainable, for the runner ---------------------------------------------------------------

QUICK = TrainingSettings(epochs=2, batch_size=20, lr=0.05, holdout=10, adversary_steps=1)


class Tiny(Defense):
    """Softmax regression that learns digits in a moment; counts how often it is trained."""

    fits: ClassVar[int] = 0

    def __init__(self, info: DatasetInfo, *, training: TrainingSettings = QUICK) -> None:
        super().__init__(info)
        self.settings = training
        c, h, w = info.shape
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, info.n_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x), y)

    def fit(self, data: ImageDataset, *, seed: int, progress: Progress) -> TrainingLog:
        type(self).fits += 1
        optimizer = torch.optim.SGD(self.parameters(), lr=self.settings.lr)

        def step(x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
            loss = self.loss(x, y)
            optimizer.zero_grad()
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
        )


class Broken(Tiny):
    """Its loss is no number."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return super().loss(x, y) * torch.nan


class Coded(Tiny):
    """Has embeddings: the logits' first two."""

    def embed(self, x: Tensor) -> Tensor:
        return self(x)[:, :2]


# --- attacks ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scripted(BudgetAttack):
    """Returns whatever a function of (view, x, y, eps) returns, and keeps its arguments."""

    script: Callable[..., Tensor]
    calls: list[tuple[int, float]] = field(default_factory=list)

    def run(self, view, x, y, *, eps, generator):
        self.calls.append((len(x), float(eps)))
        return self.script(view, x, y, eps)


@dataclass(frozen=True, kw_only=True)
class Nearest(MinimalAttack):
    """Pushes a Linear's pixels just across its boundary; one forward and one backward each."""

    norm: str = "l2"
    calls: list[int] = field(default_factory=list)

    def run(self, view, x, y, *, generator):
        self.calls.append(len(x))
        _, logits, gradient = view.gradient(x, y, lambda logits, _: logits[:, 1])
        squared = gradient.flatten(1).square().sum(1)
        step = -(logits[:, 1] * 1.01) / squared
        return x + step.view(-1, 1, 1, 1) * gradient
