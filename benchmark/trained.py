"""A trained defense, from the cache or trained now, with what is measured besides attacks."""

from typing import Any

import torch

from benchmark.checkpoints import Checkpoints, cache_dir, model_key
from benchmark.codes import code_distance
from benchmark.datasets import ImageDataset
from benchmark.defense import Defense
from benchmark.faults import fault_line
from benchmark.guard import check_fit, check_measures
from benchmark.locks import held
from benchmark.plan import load_defense
from benchmark.progress import Progress
from benchmark.results import ModelRecord
from benchmark.seeding import seeded
from benchmark.spec import DefenseSpec, derive_seed
from benchmark.sweep import BATCH_SIZE
from benchmark.training import TrainingLog, TrainingSettings
from benchmark.training_state import keeping


def trained(
    spec: DefenseSpec,
    train_set: ImageDataset,
    test_set: ImageDataset,
    *,
    seed: int,
    progress: Progress,
) -> tuple[Defense, ModelRecord]:
    """Return a defense in evaluation mode, trained now or taken from the cache, and its record."""
    model_seed = derive_seed(seed, train_set.info.name, spec.name)
    defense = untrained(spec, train_set, model_seed)
    key = model_key(defense, spec, train_set, model_seed)
    about = f"{spec.name} (seed {seed})"
    log = _fitted(spec.name, about, defense, train_set, key=key, seed=model_seed, progress=progress)
    defense.eval()
    return defense, ModelRecord(
        defense=spec.name,
        seed=seed,
        key=key,
        options=spec.params,
        n_parameters=sum(p.numel() for p in defense.parameters()),
        train_seconds=log.seconds,
        log=log.epochs,
        measures=_measures(defense, test_set, model_seed),
        stochastic=defense.stochastic,
    )


def untrained(spec: DefenseSpec, data: ImageDataset, model_seed: int) -> Defense:
    """Return a defense of ``spec`` for the images of ``data``, on their device, before training."""
    params = dict(spec.params)
    if "training" in params:
        params["training"] = TrainingSettings.build(params["training"])
    cls = load_defense(spec.type)
    with seeded(model_seed):
        defense = cls(data.info, **params)
    # Channels-last convolutions are up to twice as fast, on the CPU as on a GPU.
    defense.to(data.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return defense


def _fitted(
    name: str,
    about: str,
    defense: Defense,
    train_set: ImageDataset,
    *,
    key: str,
    seed: int,
    progress: Progress,
) -> TrainingLog:
    """Fill ``defense`` from the cache, or train it and keep it there; return its log.

    A training that was killed goes on, and another process that trains the same is waited for.
    ``about`` is the defense and the run's seed, as the user is told.
    """
    cache = Checkpoints(cache_dir() / "models")
    stem = cache.folder / key[:32]
    with held(stem.with_suffix(".lock"), f"{name}'s model", progress):
        log = cache.load(key, defense)
        if log is not None:
            progress.say(f"{about}: taken from the cache")
            return log
        progress.say(f"{about}: training on {len(train_set)} images")
        with keeping(stem, name, progress) as kept, seeded(seed, train_set.device, defense):
            log = defense.fit(train_set, seed=seed, progress=progress)
        check_fit(log, train_set)
        try:
            cache.save(key, defense, log)
            kept.discard()
        except (OSError, MemoryError) as error:  # a full disk must not cost the trained model
            progress.say(f"{name}: not kept in {cache.folder} ({fault_line(error)})")
    return log


@torch.no_grad()
def _measures(defense: Defense, test_set: ImageDataset, seed: int) -> dict[str, Any]:
    """Return what is measured on a trained model besides attacks: its own, its codes' distance."""
    with seeded(seed, test_set.device, defense):
        measures = dict(defense.measure(test_set))
    with seeded(seed, test_set.device, defense):
        parts = [defense.embed(test_set.x(rows)) for rows in test_set.batches(BATCH_SIZE)]
    codes = [part.double().cpu() for part in parts if part is not None]
    if len(codes) == len(parts):
        measures["code_distance"] = code_distance(torch.cat(codes).numpy(), seed)
    check_measures(measures, test_set)
    return measures
