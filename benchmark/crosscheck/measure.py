"""One attack in several libraries on one model: where they disagree, and why.

All libraries get the same settings (:mod:`benchmark.crosscheck.plan`), the same images, batches
and seeds. A budget attack runs at every eps of the grid, each from scratch; a minimal-distortion
attack runs once and is judged at every eps. :mod:`benchmark.crosscheck.results` defines each
number, :mod:`benchmark.crosscheck.findings` what each sentence rests on.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.crosscheck.compare import compare, empty_row
from benchmark.crosscheck.images import draw
from benchmark.crosscheck.plan import OPTIONS, CrosscheckPlan
from benchmark.crosscheck.results import (
    LIBRARIES,
    Crosscheck,
    folder_name,
    is_crosscheck,
    read_crosscheck,
    write_crosscheck,
)
from benchmark.datasets.load import load_images, load_present, say_classes, say_repeats
from benchmark.errors import first_line, options_named
from benchmark.hashing import derive_seed
from benchmark.io.atomic import write_atomic
from benchmark.io.locks import held
from benchmark.io.paths import own_folder, safe_name
from benchmark.io.typed_json import build
from benchmark.machine_errors import open_folder, rescued
from benchmark.models.contract import get_ready
from benchmark.plugins.containment import plugin_code
from benchmark.plugins.process_settings import contained
from benchmark.progress import Progress
from benchmark.results.model_records import ModelOrigin
from benchmark.results.provenance import provenance
from benchmark.results.tables import make_table
from benchmark.training.fit import seed_of, trained, untrained
from benchmark.training.model_cache import Checkpoints, cache_dir
from benchmark.training.origin import around, changed, origin_of


def crosscheck(
    plan: CrosscheckPlan,
    *,
    out: Path,
    data_dir: Path | None,
    command: str,
    progress: Progress,
    again: bool = False,
) -> tuple[Crosscheck, bool]:
    """Return the cross-check of ``plan`` under ``out``, and whether it was there already.

    One in which a library failed is computed again, and so is one of other images or of a defense
    that has changed, which a line says; with ``again`` any. Raises UsageError before anything is
    computed when the folder or the data will not do.
    """
    spec = plan.spec
    path = out / folder_name(spec, plan.versions)
    if is_crosscheck(path) and not again:
        saved = read_crosscheck(path)
        if saved.spec == spec and not saved.failed and _is_current(saved, data_dir, progress):
            return saved, True
    with options_named(OPTIONS):
        train_set, test_set = load_images(spec, data_dir)
    open_folder(path)
    about = provenance(spec, train_set, test_set, command)
    say_repeats(about, spec, progress)
    say_classes(test_set, spec, progress)
    about["libraries"] = dict(plan.versions)
    seed, defense = spec.seeds[0], spec.defenses[0]
    model, record = trained(defense, train_set, test_set, seed=seed, progress=progress)
    get_ready(model, test_set, derive_seed(seed, test_set.info.name, defense.seed_name, "check"))
    about["model"] = {"key": record.key, "train_seconds": record.train_seconds}
    if record.origin is not None:
        about["model"]["origin"] = asdict(record.origin)

    def seed_at(eps: float) -> int:
        # Without the library's name: those that can start alike at random do.
        names = (test_set.info.name, defense.seed_name, spec.attacks[0].seed_name)
        return derive_seed(seed, *names, eps)

    found = compare(
        *(model, spec.attacks, test_set),
        seed_at=seed_at,
        progress=progress,
        remarks=plan.remarks,
    )
    offenders, files = draw(found.offenders)
    tables = {**found.tables, "libraries": _with_absent(found.tables["libraries"], plan)}
    result = {
        "attack": spec.attacks[0].name,
        "dataset": spec.dataset,
        "defense": defense.name,
        "n": spec.n_test,
        **found.summary(),
    }
    checked = Crosscheck(path, spec, result, tables, about, offenders)
    with rescued(result, path), held(path / ".lock", str(path), progress):
        for library, (_, text) in found.failures.items():
            name = f"{safe_name(library)}.txt"
            write_atomic(own_folder(path / "errors", path) / name, text.encode())
        write_crosscheck(checked, files)
        return read_crosscheck(path), False


def _is_current(saved: Crosscheck, data_dir: Path | None, progress: Progress) -> bool:
    """Tell whether a finished cross-check is of the images and the defense that are there now.

    Where that cannot be told a line says so, and it counts as valid.
    """
    spec, seed = saved.spec, saved.spec.seeds[0]
    defense = spec.defenses[0]
    unchecked = "not checked against what is there now"
    try:
        train_set, test_set = load_present(spec, data_dir)
        with plugin_code(), contained():
            model_seed = seed_of(defense, train_set, seed)
            model = untrained(defense, train_set, model_seed)
            now = origin_of(model, defense, train_set, model_seed)
        about: Any = saved.provenance
        known = (about["dataset"]["train_checksum"], about["dataset"]["test_checksum"])
        before: ModelOrigin = build(ModelOrigin, about["model"]["origin"], "origin")
        key = str(about["model"]["key"])
    except (KeyError, TypeError, AttributeError):
        progress.say(f"{unchecked}: it does not say what it came from")
        return True
    except Exception as error:
        progress.say(f"{unchecked}: {first_line(error)}; the numbers are as computed")
        return True
    kept = Checkpoints(cache_dir() / "models").origin(key)
    words = changed(before, now)
    if known != (train_set.checksum, test_set.checksum):
        words = f"the images of {spec.dataset}"
    elif not words and kept is not None and kept.weights != before.weights:
        words = f"the trained model of {defense.name}"
    elif not words and (other := around(before, now)):
        progress.say(f"made before {other} changed; the numbers stay as they are")
    if words:
        progress.say(f"{words} changed since this cross-check was computed: computed again")
    return not words


def _with_absent(libraries: pd.DataFrame, plan: CrosscheckPlan) -> pd.DataFrame:
    rows = [{str(k): v for k, v in row.items()} for row in libraries.to_dict("records")]
    for row in rows:
        row["version"] = plan.versions.get(row["library"], "")
    rows += [empty_row(name, "skipped", reason, 0) for name, reason in plan.absent.items()]
    return make_table(rows, LIBRARIES)
