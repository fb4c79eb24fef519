"""The interface of a defense: what the harness trains, attacks and reports."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.info import DatasetInfo
from benchmark.models.answer_form import LOGITS, AnswerForm
from benchmark.progress import Progress

Gives = Literal["gradients", "scores", "labels"]


class Defense(nn.Module):
    """A classifier of images that claims to resist adversarial examples.

    A subclass takes the dataset's description first and its hyper-parameters as keywords::

        class MyDefense(Defense):
            def __init__(self, info, *, training=TrainingSettings(), width=1.0): ...

    A preset's shared settings (``training``, ``width``, ...) reach every defense that has a
    parameter of that name. Images are float32 (N, C, H, W) in [0, 1]: normalisation lives inside
    the model, and nothing clamps its input (that would hide gradients from every attacker).
    """

    stochastic: ClassVar[bool] = False
    """True if two forward passes on the same images may differ, also after training."""

    differentiable: ClassVar[bool] = True
    """False if :meth:`forward` passes no useful gradient to the image: gradient attacks then need
    BPDA, through a :meth:`surrogate` that differs from :meth:`forward`."""

    exact_surrogate: ClassVar[bool] = False
    """True if :meth:`surrogate` returns the very value of :meth:`forward` on the same images, so
    that an attack with BPDA need not run :meth:`forward` as well."""

    gives: Gives = "gradients"
    """What an attacker can have of the model: "gradients", or only its "scores" or "labels", where
    it was handed over as a function. Then there is no gradient to hide."""

    depends_on: Any = ()
    """Paths of the files, or folders of files, that decide what the model is besides its code:
    their bytes enter its key in the cache. A property or a class method may return them. A
    relative path is looked up in the working directory, as ``open`` does."""

    answer_form: AnswerForm = LOGITS
    """In which form :meth:`forward` answers; the harness asks the trained model and sets it."""

    latent_dim: int | None = None
    """The number of latents that :meth:`generate` takes; None without a generator."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__()
        self.info = info

    def fit(self, data: ImageDataset, *, seed: int, progress: Progress) -> "TrainingLog":
        """Train on ``data`` (on the model's device) and return what happened, epoch by epoch.

        Raises TrainingError when training breaks down.
        """
        raise TypeError(f"{type(self).__name__} does not define fit(data, *, seed, progress)")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to raw logits (N, K), float32.

        Probabilities, one-hot labels and other dtypes are attacked as well, and the cells say how
        (:mod:`benchmark.models.answers`).
        """
        raise TypeError(f"{type(self).__name__} does not define forward(x)")

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return labels (N,), int64, as the defense would be deployed, votes included."""
        return self.forward(x).argmax(dim=1)

    def surrogate(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of a differentiable stand-in, for BPDA; :meth:`forward` here."""
        logits: Tensor = self.forward(x)
        return logits

    def embed(self, x: Tensor) -> Tensor | None:
        """Return the embeddings (N, k) that the decision rests on, or None if there are none."""
        return None

    def generate(self, z: Tensor) -> Tensor:
        """Map latents (N, latent_dim), float32, to images (N, C, H, W) in [0, 1], differentiably.

        Only a defense with a generator has it: one that sets :attr:`latent_dim`.
        """
        raise TypeError(f"{type(self).__name__} has no generator")

    def classify_generated(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of images that :meth:`generate` made, taken as they are.

        What decides behind the generator, without the search that brings other images into its
        range: differentiable in ``x`` (N, C, H, W), for attacks in the latent space.
        """
        raise TypeError(f"{type(self).__name__} has no generator")

    def measure(self, data: ImageDataset) -> Mapping[str, Any]:
        """Return what the report should say of the trained defense, besides attacks on it.

        Plain values for JSON, taken on the test images; ``notes``, if any, is a list of sentences.
        """
        return {}


@dataclass(frozen=True)
class TrainingLog:
    """What happened: a mapping of numbers per epoch, and the seconds in all."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)
