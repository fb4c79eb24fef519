"""A defense under the checks: built and trained once, on a few tiny images."""

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.info import DatasetInfo
from benchmark.models.defense import Defense
from benchmark.models.memory_layout import differentiate, is_layout_error, lay_out
from benchmark.progress import Progress
from benchmark.seeding import seeded
from benchmark.testing.common import (
    GREY,
    SHORT,
    WIDTH,
    N,
    Rules,
    moved_generators,
    require,
    tiny_dataset,
)


@dataclass(frozen=True)
class Fitted:
    """A trained defense, what its ``fit`` returned, and what it changed besides the weights."""

    defense: Defense
    log: Any
    images_changed: bool
    moved: list[str]
    frozen: str


class DefenseCase:
    """``cls(info, **options)``; ``training`` and ``width``, where it takes them, are small."""

    def __init__(self, cls: type[Defense], info: DatasetInfo | None = None, **options: Any) -> None:
        require(
            isinstance(cls, type) and issubclass(cls, Defense),
            f"{cls!r} is not a subclass of benchmark.Defense",
        )
        self.cls = cls
        self.info = info or GREY
        self.must = Rules(cls.__name__)
        self.data = tiny_dataset(self.info)
        parameters = inspect.signature(cls).parameters
        small = {"training": SHORT, "width": WIDTH}
        self.options = {k: v for k, v in small.items() if k in parameters} | options

    def build(self, seed: int, layout: torch.memory_format | None = None) -> Defense:
        """Return it untrained, as the runner builds it: under a seed, in its memory layout."""
        with seeded(seed):
            defense = self.cls(self.info, **self.options)
        lay_out(defense, torch.device("cpu"), layout or self.layout)
        return defense

    @cached_property
    def layout(self) -> torch.memory_format:
        """Channels last, unless it cannot be asked or differentiated there."""
        defense = self.build(1, torch.channels_last)
        try:
            with seeded(1):
                differentiate(defense.eval(), tiny_dataset(self.info).x(slice(N)))
        except Exception as error:  # the rules find any other error
            if is_layout_error(error):
                return torch.contiguous_format
        return torch.channels_last

    def fit(self, defense: Defense, data: ImageDataset) -> Any:
        """Train ``defense``; return the log."""
        return defense.fit(data, seed=3, progress=Progress())

    @cached_property
    def fitted(self) -> Fitted:
        """The defense after its training."""
        defense = self.build(1)
        trained = {name: p.requires_grad for name, p in defense.named_parameters()}
        images = self.data.images.clone()
        with moved_generators() as moved:
            log = self.fit(defense, self.data)
        after = {name: p.requires_grad for name, p in defense.named_parameters()}
        frozen = ", ".join(name for name in trained if after.get(name) != trained[name])
        if not frozen and len(after) != len(trained):
            frozen = "names"
        changed = not torch.equal(images, self.data.images)
        return Fitted(defense, log, changed, moved, frozen)

    @property
    def defense(self) -> Defense:
        """The trained defense, in evaluation mode."""
        return self.fitted.defense.eval()

    @property
    def x(self) -> Tensor:
        """Images (N, C, H, W) with every kind of pixel: black, white, and what lies between."""
        x = tiny_dataset(self.info).x(slice(N))
        x[0], x[1] = 0.0, 1.0
        x[2:].mul_(0.9).add_(0.05)
        return x

    @property
    def y(self) -> Tensor:
        """The labels (N,) of :attr:`x`."""
        return tiny_dataset(self.info).labels[:N]

    def logits(self) -> Tensor:
        """Return what the trained defense answers on :attr:`x`, under one seed."""
        defense = self.defense
        with torch.no_grad(), seeded(5, "cpu", defense):
            found: Tensor = defense(self.x)
        return found
