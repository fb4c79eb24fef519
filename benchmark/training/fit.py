"""A trained defense, from the cache or trained now, with what is measured besides attacks.

Either is checked: a model from the cache against the files that its training read and the answers
that it gave when it was trained, and a model that was just trained against a copy made from what
the cache keeps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmark.batching import BATCH_SIZE
from benchmark.config.spec import DefenseSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import PluginError
from benchmark.hashing import derive_seed
from benchmark.io.locks import held
from benchmark.machine_errors import fault_line
from benchmark.models.answers import answers, difference, settled
from benchmark.models.contract import check_fit, check_measures
from benchmark.models.defense import Defense, TrainingLog
from benchmark.models.embedding_distance import embedding_distance
from benchmark.models.loader import load_defense
from benchmark.models.memory_layout import CONTIGUOUS, in_layout, is_layout_error, lay_out
from benchmark.models.weights import weights_of
from benchmark.progress import Progress
from benchmark.results.model_records import ModelOrigin, ModelRecord
from benchmark.seeding import seeded
from benchmark.training.files_read import Watch, mentioned, own_folders, watching
from benchmark.training.model_cache import Checkpoints, cache_dir, copied, unfit
from benchmark.training.origin import alike, changed, key_of, origin_of, start_of
from benchmark.training.resume import keeping
from benchmark.training.settings import TrainingSettings


def trained(
    spec: DefenseSpec,
    train_set: ImageDataset,
    test_set: ImageDataset,
    *,
    seed: int,
    progress: Progress,
    before: ModelRecord | None = None,
) -> tuple[Defense, ModelRecord]:
    """Return a defense in evaluation mode, trained now or taken from the cache, and its record.

    ``before`` is the record of the model that a run's rows come from: if nothing of the user's has
    changed since, that model is taken from the cache even if the harness has changed. PluginError
    if the model from the cache cannot be what it was.
    """
    model_seed = seed_of(spec, train_set, seed)
    make = partial(untrained, spec, train_set, model_seed)
    with watching() as watch:
        defense = make()
        origin = origin_of(defense, spec, train_set, model_seed)
        key = key_of(origin.parts)
        cache = Checkpoints(cache_dir() / "models")
        if before is not None and _goes_on(before, origin, cache):
            assert before.origin is not None
            key = before.key
            origin = replace(origin, parts=before.origin.parts, start=before.origin.start)
        fitting = _Fitting(spec, seed, train_set, make, watch, cache, key, model_seed, progress)
        try:
            defense, log, origin = fitting.run(defense, origin)
        except RuntimeError as error:
            if not is_layout_error(error):
                raise
            fitting.say(f"{CONTIGUOUS}; training again")
            fitting = replace(fitting, make=partial(make, layout=torch.contiguous_format))
            defense, log, origin = fitting.run(fitting.make(), origin)
    defense.eval()
    measuring = partial(measures_of, defense, test_set, model_seed)
    measures = in_layout(defense, test_set.device, measuring, fitting.say)
    return defense, ModelRecord(
        defense=spec.name,
        seed=seed,
        key=key,
        options=spec.params,
        n_parameters=sum(p.numel() for p in defense.parameters()),
        train_seconds=log.seconds,
        log=log.epochs,
        measures=measures,
        origin=origin,
        stochastic=defense.stochastic,
    )


def _goes_on(before: ModelRecord, now: ModelOrigin, cache: Checkpoints) -> bool:
    """Tell whether a run can go on with the very model that its rows come from."""
    old = before.origin
    return old is not None and cache.origin(before.key) is not None and not changed(old, now)


def seed_of(spec: DefenseSpec, data: ImageDataset, seed: int) -> int:
    """Return the seed of a model's weights and training, under the run's ``seed``."""
    return derive_seed(seed, data.info.name, spec.seed_name)


def untrained(
    spec: DefenseSpec,
    data: ImageDataset,
    model_seed: int,
    layout: torch.memory_format = torch.channels_last,
) -> Defense:
    """Return a defense of ``spec`` for the images of ``data``, on their device, before training."""
    params = dict(spec.params)
    if "training" in params:
        params["training"] = TrainingSettings.build(params["training"])
    cls = load_defense(spec.type)
    with seeded(model_seed):
        defense = cls(data.info, **params)
    lay_out(defense, data.device, layout)
    return defense


@dataclass(frozen=True)
class _Fitting:
    """One model to be filled from the cache, or trained and kept there.

    A training that was killed goes on, and another process that trains the same is waited for.
    ``make`` returns the model untrained; ``watch`` sees which files are opened.
    """

    spec: DefenseSpec
    seed: int
    data: ImageDataset
    make: Callable[[], Defense]
    watch: Watch
    cache: Checkpoints
    key: str
    model_seed: int
    progress: Progress

    @property
    def about(self) -> str:
        """The defense and the run's seed, as the user is told."""
        return f"{self.spec.name} (seed {self.seed})"

    def say(self, text: str) -> None:
        """Tell the user one line about this model."""
        self.progress.say(f"{self.about}: {text}")

    def run(
        self, defense: Defense, origin: ModelOrigin
    ) -> tuple[Defense, TrainingLog, ModelOrigin]:
        """Return ``defense``, or another instance, filled, with its log and its whole origin."""
        stem = self.cache.folder / self.key[:32]
        with held(stem.with_suffix(".lock"), f"{self.spec.name}'s model", self.progress):
            found = self._cached(defense, origin)
            if isinstance(found, str):
                self.say(f"{found}: trained again")
                defense, found = self.make(), None
            if found is not None:
                self.say("taken from the cache")
                return defense, *found
            return defense, *self._trained(defense, origin)

    def _cached(
        self, defense: Defense, now: ModelOrigin
    ) -> tuple[TrainingLog, ModelOrigin] | str | None:
        """Fill ``defense`` from the cache; return why not if it holds another model."""
        kept = self.cache.origin(self.key)
        if kept is not None and (words := changed(kept, replace(now, parts=kept.parts))):
            return f"{words} changed since the model in the cache was trained"
        log = self.cache.load(self.key, defense)
        if log is None:
            return None
        defense.eval()
        said = answers(defense, self.data, self.model_seed, self.say)
        if kept is None or not kept.answers:
            return log, replace(now, weights=weights_of(defense), answers=settled(said, said))
        near = kept.where != now.where
        if words := difference(kept.answers, said, near=near):
            if near:  # a model that amplifies rounding answers differently on another processor
                return f"the model in the cache, made on {kept.where}, answers otherwise ({words})"
            raise PluginError(
                f"taken from the cache the model answers otherwise than when it was trained"
                f" ({words}): {REMEDY}; --no-cache trains it again"
            )
        return log, replace(
            now, weights=weights_of(defense), answers=kept.answers, files=kept.files
        )

    def _trained(self, defense: Defense, origin: ModelOrigin) -> tuple[TrainingLog, ModelOrigin]:
        """Train ``defense`` and keep it in the cache, if a copy of it is the same model."""
        name, data = self.spec.name, self.data
        stem = self.cache.folder / self.key[:32]
        self.say(f"training on {len(data)} images")
        with (
            keeping(stem, name, self.progress) as kept,
            seeded(self.model_seed, data.device, defense),
        ):
            log = defense.fit(data, seed=self.model_seed, progress=self.progress)
        check_fit(log, data)
        defense.eval()
        said = answers(defense, data, self.model_seed, self.say)
        said = settled(said, answers(defense, data, self.model_seed))
        twin = self.make()
        files = self.watch.files(
            mentioned(defense, self.spec.params), [cache_dir()], own_folders(defense)
        )
        start = start_of(twin)
        origin = replace(
            origin,
            start=start if alike(start, origin.start) else [],
            files=files,
            weights=weights_of(defense),
            answers=said,
        )
        if words := unfit(defense, twin):
            self.say(f"not kept in the cache: {words}")
            kept.discard()
            return log, origin
        twin.load_state_dict(copied(defense))
        twin.eval()
        if words := difference(said, answers(twin, data, self.model_seed)):
            kept.discard()
            raise PluginError(
                f"a copy of the trained model, from its state_dict, answers otherwise ({words}):"
                f" {REMEDY}"
            )
        try:
            self.cache.save(self.key, defense, log, origin)
            kept.discard()
        except (OSError, MemoryError) as error:  # a full disk must not cost the trained model
            why = fault_line(error)
            self.progress.say(f"{name}: not kept in {self.cache.folder} ({why})")
        return log, origin


REMEDY = "keep all that fit sets in parameters or buffers (register_buffer)"


@torch.no_grad()
def measures_of(defense: Defense, test_set: ImageDataset, seed: int) -> dict[str, Any]:
    """Return what is measured besides attacks: the model's own and its embeddings' distance."""
    with seeded(seed, test_set.device, defense):
        measures = dict(defense.measure(test_set))
    with seeded(seed, test_set.device, defense):
        parts = [defense.embed(test_set.x(rows)) for rows in test_set.batches(BATCH_SIZE)]
    embeddings = [part.double().cpu() for part in parts if part is not None]
    if len(embeddings) == len(parts):
        measures["code_distance"] = embedding_distance(torch.cat(embeddings).numpy(), seed)
    check_measures(measures, test_set)
    return measures
