"""The trained models of a finished run, taken from the cache or trained again."""

from dataclasses import replace

from benchmark.config.spec import DefenseSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import UsageError
from benchmark.models.answers import answers
from benchmark.models.contract import get_ready
from benchmark.models.defense import Defense
from benchmark.models.weights import weights_of
from benchmark.progress import Progress
from benchmark.results.model_records import ModelOrigin, ModelRecord
from benchmark.training.fit import seed_of, trained, untrained
from benchmark.training.model_cache import Checkpoints, cache_dir
from benchmark.training.origin import another, changed, key_of, origin_of


class OtherModelError(UsageError):
    """The model that a run attacked cannot be had again."""


def recall(
    spec: DefenseSpec,
    record: ModelRecord | None,
    train_set: ImageDataset,
    test_set: ImageDataset,
    *,
    seed: int,
    progress: Progress,
    may_train: bool = True,
) -> Defense:
    """Return the model that a run trained and attacked, in evaluation mode.

    It is taken from the cache by the key that the run recorded; if it is not there it is trained
    again if it ``may_train``, and a line says so. OtherModelError if that would give another model,
    or if the run recorded none; so too where the defense's own code, options or files have changed.
    """
    if record is None:
        raise OtherModelError("the run has no record of a trained model")
    model_seed = seed_of(spec, train_set, seed)
    defense = untrained(spec, train_set, model_seed)
    now = origin_of(defense, spec, train_set, model_seed)
    if record.origin is not None and (words := changed(record.origin, now)):
        raise OtherModelError(f"{words} changed since the run attacked it; {AGAIN}")
    if Checkpoints(cache_dir() / "models").load(record.key, defense) is not None:
        defense.eval()
        said = answers(defense, train_set, model_seed)
        _check_same(record, replace(now, weights=weights_of(defense), answers=said))
        get_ready(defense, test_set, model_seed)
        return defense
    if key_of(now.parts) != record.key:
        raise OtherModelError(
            "the model is not in the cache any more, and its code, the images or torch have changed"
            " since the run: trained now, it would be another one"
        )
    if not may_train:
        raise OtherModelError("the model is not in the cache: the command audit trains it again")
    progress.say(f"{spec.name} (seed {seed}): not in the cache {cache_dir()}; training it again")
    defense, again = trained(spec, train_set, test_set, seed=seed, progress=progress)
    if again.origin is not None:
        _check_same(record, again.origin)
    get_ready(defense, test_set, model_seed)
    return defense


def _check_same(record: ModelRecord, now: ModelOrigin) -> None:
    """Refuse to take another model for the one of the ``record``."""
    if record.origin is not None and (words := another(record.origin, now)):
        raise OtherModelError(f"it is not the model that the run attacked: {words}; {AGAIN}")


AGAIN = "give run the same command again, which computes its cells again"
