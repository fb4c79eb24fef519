"""The trained models of a finished run, for whoever asks them something more."""

from benchmark.checkpoints import Checkpoints, cache_dir, model_key
from benchmark.datasets import ImageDataset
from benchmark.defense import Defense
from benchmark.errors import UsageError
from benchmark.guard import get_ready
from benchmark.progress import Progress
from benchmark.results import ModelRecord
from benchmark.spec import DefenseSpec, derive_seed
from benchmark.trained import trained, untrained


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

    It is taken from the cache by the key that the run recorded, whatever has become of the code
    since; if it is not there it is trained again if it ``may_train``, and a line says so.
    OtherModelError if that would give another model, or if the run recorded none.
    """
    if record is None:
        raise OtherModelError("the run has no record of a trained model")
    model_seed = derive_seed(seed, train_set.info.name, spec.name)
    defense = untrained(spec, train_set, model_seed)
    if Checkpoints(cache_dir() / "models").load(record.key, defense) is not None:
        defense.eval()
        get_ready(defense, test_set, model_seed)
        return defense
    if model_key(defense, spec, train_set, model_seed) != record.key:
        raise OtherModelError(
            "the model is not in the cache any more, and its code, the images or torch have changed"
            " since the run: trained now, it would be another one"
        )
    if not may_train:
        raise OtherModelError("the model is not in the cache: the command audit trains it again")
    progress.say(f"{spec.name} (seed {seed}): not in the cache {cache_dir()}; training it again")
    defense = trained(spec, train_set, test_set, seed=seed, progress=progress)[0]
    get_ready(defense, test_set, model_seed)
    return defense
