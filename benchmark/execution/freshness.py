"""Whether a run's rows belong to what is there now: the defenses' code, files and models.

Nothing is trained for it: each defense is built once, and what it would be trained from is compared
with what its record in the run says (:mod:`benchmark.training.origin`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmark.config.spec import DefenseSpec
from benchmark.errors import first_line
from benchmark.plugins.containment import plugin_code
from benchmark.plugins.process_settings import contained
from benchmark.progress import Progress
from benchmark.results.model_records import ModelOrigin, ModelRecord
from benchmark.results.run_folder import RunFolder
from benchmark.training.model_cache import Checkpoints, cache_dir
from benchmark.training.origin import around, changed, key_of
from benchmark.training.supply import Sets, Supply

Model = tuple[str, int]
"""A defense's name, and the seed that it was trained under."""


@dataclass(frozen=True)
class Freshness:
    """Whether the models of a run's rows are still those of the code and files.

    ``stale``: why the rows belong to something else than what is there now. ``unknown``: why that
    cannot be told. ``noted``: what of the harness has changed, which leaves the rows as they are.
    """

    stale: dict[Model, str]
    unknown: dict[Model, str]
    noted: dict[Model, str]

    def say(self, progress: Progress) -> None:
        """Tell the user, one line a reason, of what could not be checked and of what to know."""
        for reason, names in _by_reason(self.unknown):
            progress.say(f"{names}: not checked against what is there now: {reason}")
        for words, names in _by_reason(self.noted):
            progress.say(f"{names}: made before {words} changed; the cells stay as they are")


def freshness(folder: RunFolder, supply: Supply, sets: Sets) -> Freshness:
    """Compare the rows of ``folder`` with the defenses, and the cache, as they are now."""
    found = Freshness({}, {}, {})
    for spec, seed in folder.measured():
        model = spec.name, seed
        record = folder.record(*model)
        if record is None:
            found.unknown[model] = "the run has no record of the model"
            continue
        try:
            with plugin_code(), contained():
                _look(found, spec, seed, record, supply.origin(spec, sets, seed))
        except Exception as error:  # whatever building somebody's class raises
            found.unknown[model] = first_line(error)
    return found


def _look(
    found: Freshness, spec: DefenseSpec, seed: int, record: ModelRecord, now: ModelOrigin
) -> None:
    model, before = (spec.name, seed), record.origin
    if before is None:
        if record.key != key_of(now.parts):
            found.unknown[model] = "an older version did not record what the model came from"
        return
    kept = Checkpoints(cache_dir() / "models").origin(record.key)
    if words := changed(before, now):
        found.stale[model] = f"{words} changed"
    elif kept is not None and kept.weights != before.weights:
        found.stale[model] = "the model was trained again, and came out otherwise,"
    elif words := around(before, now):
        found.noted[model] = words


def _by_reason(reasons: dict[Model, str]) -> Iterator[tuple[str, str]]:
    """Yield each reason with the models that it is true of."""
    for reason in dict.fromkeys(reasons.values()):
        names = [f"{name} (seed {seed})" for (name, seed), why in reasons.items() if why == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield reason, ", ".join(names[:3]) + more
