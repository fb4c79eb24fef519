"""A run's images and its one model where both are the user's: nothing is loaded or trained."""

from dataclasses import dataclass, replace
from importlib.metadata import version

from benchmark.config.spec import DefenseSpec, RunSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.models.answers import answers
from benchmark.models.contract import get_ready
from benchmark.models.defense import Defense
from benchmark.models.weights import weights_of
from benchmark.progress import Progress
from benchmark.results.model_records import ModelOrigin, ModelRecord
from benchmark.seeding import seeded
from benchmark.training.fit import measures_of, seed_of
from benchmark.training.origin import another, where
from benchmark.training.recall import OtherModelError
from benchmark.training.supply import Sets, Supply


@dataclass(frozen=True)
class GivenSupply(Supply):
    """One model in evaluation mode, its fingerprint, and the images that it is evaluated on."""

    defense: Defense
    fingerprint: str
    data: ImageDataset

    def images(self, spec: RunSpec) -> Sets:
        """Return no training images, and all of the user's."""
        return ImageDataset.empty(self.data.info, self.data.device), self.data

    def present(self, spec: RunSpec) -> Sets:
        """Return the same: they are here."""
        return self.images(spec)

    def model(
        self,
        spec: DefenseSpec,
        sets: Sets,
        *,
        seed: int,
        progress: Progress,
        before: ModelRecord | None,
    ) -> tuple[Defense, ModelRecord]:
        """Return the model as it is."""
        defense, data = self.defense, self.data
        model_seed = seed_of(spec, data, seed)
        with seeded(model_seed, data.device, defense):
            said = answers(defense, data, model_seed, progress.say)
        origin = replace(self.origin(spec, sets, seed), weights=weights_of(defense), answers=said)
        return defense, ModelRecord(
            defense=spec.name,
            seed=seed,
            key=self.fingerprint,
            options=spec.params,
            n_parameters=sum(p.numel() for p in defense.parameters()),
            train_seconds=0.0,
            log=[],
            measures=measures_of(defense, data, model_seed),
            origin=origin,
            stochastic=defense.stochastic,
        )

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
        """Return the model if it is the one that the run attacked; OtherModelError if not."""
        if record is None or record.key != self.fingerprint:
            raise OtherModelError("it is not the model that the run attacked")
        model_seed = seed_of(spec, self.data, seed)
        said = answers(self.defense, self.data, model_seed)
        now = replace(self.origin(spec, sets, seed), weights=weights_of(self.defense), answers=said)
        if record.origin is not None and (words := another(record.origin, now)):
            raise OtherModelError(f"it is not the model that the run attacked: {words}")
        get_ready(self.defense, self.data, model_seed)
        return self.defense

    def origin(self, spec: DefenseSpec, sets: Sets, seed: int) -> ModelOrigin:
        """Return what surrounds the model; its fingerprint is in the run's name."""
        parts = {"device": self.data.device.type, "torch": version("torch")}
        return ModelOrigin(parts=parts, where=where(self.data))
