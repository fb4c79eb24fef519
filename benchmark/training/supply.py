"""Where a run's images and models come from: registered and trained, or handed over by the user.

The grid, the audit and the check whether a run is still fresh ask a :class:`Supply` and nothing
else for them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from benchmark.config.spec import DefenseSpec, RunSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.load import load_images, load_present
from benchmark.models.defense import Defense
from benchmark.progress import Progress
from benchmark.results.model_records import ModelOrigin, ModelRecord
from benchmark.training.fit import seed_of, trained, untrained
from benchmark.training.origin import origin_of
from benchmark.training.recall import recall

Sets = tuple[ImageDataset, ImageDataset]
"""The training and the test images; a model that was handed over has none to train on."""


class Supply(ABC):
    """The images and the models of a run."""

    @abstractmethod
    def images(self, spec: RunSpec) -> Sets:
        """Return the run's images on its device; UsageError where they will not do."""

    @abstractmethod
    def present(self, spec: RunSpec) -> Sets:
        """Return them as :meth:`images` does, but UsageError rather than downloading anything."""

    @abstractmethod
    def model(
        self,
        spec: DefenseSpec,
        sets: Sets,
        *,
        seed: int,
        progress: Progress,
        before: ModelRecord | None,
    ) -> tuple[Defense, ModelRecord]:
        """Return a model in evaluation mode, and its record.

        ``before`` is the record of the model that the run's rows come from, if there are any.
        """

    @abstractmethod
    def recall(
        self,
        spec: DefenseSpec,
        record: ModelRecord | None,
        sets: Sets,
        *,
        seed: int,
        progress: Progress,
        may_train: bool = True,
    ) -> Defense:
        """Return the model that a run attacked; OtherModelError if it cannot be had again."""

    @abstractmethod
    def origin(self, spec: DefenseSpec, sets: Sets, seed: int) -> ModelOrigin:
        """Return what a model would come from now, without making it."""


@dataclass(frozen=True)
class Trained(Supply):
    """A registered dataset's images, and defenses that the harness trains or has in its cache."""

    data_dir: Path | None = None

    def images(self, spec: RunSpec) -> Sets:
        """Load both splits, downloading them if need be."""
        return load_images(spec, self.data_dir)

    def present(self, spec: RunSpec) -> Sets:
        """Load both splits if they are here."""
        return load_present(spec, self.data_dir)

    def model(
        self,
        spec: DefenseSpec,
        sets: Sets,
        *,
        seed: int,
        progress: Progress,
        before: ModelRecord | None,
    ) -> tuple[Defense, ModelRecord]:
        """Train a defense, or take it from the cache (:mod:`benchmark.training.fit`)."""
        return trained(spec, *sets, seed=seed, progress=progress, before=before)

    def recall(
        self,
        spec: DefenseSpec,
        record: ModelRecord | None,
        sets: Sets,
        *,
        seed: int,
        progress: Progress,
        may_train: bool = True,
    ) -> Defense:
        """Take it from the cache, or train it again (:mod:`benchmark.training.recall`)."""
        return recall(spec, record, *sets, seed=seed, progress=progress, may_train=may_train)

    def origin(self, spec: DefenseSpec, sets: Sets, seed: int) -> ModelOrigin:
        """Build the defense, untrained, and look at its code, options and files."""
        train_set = sets[0]
        model_seed = seed_of(spec, train_set, seed)
        defense = untrained(spec, train_set, model_seed)
        return origin_of(defense, spec, train_set, model_seed)


TRAINED = Trained()
"""The supply where no folder of Parquet mirrors is named."""
