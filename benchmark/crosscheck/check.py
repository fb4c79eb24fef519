"""One attack in several libraries on one model: where they disagree, and why.

All libraries get the same settings (:mod:`benchmark.crosscheck.plan`), the same images, batches
and seeds. A budget attack runs at every eps of the grid, each from scratch; a minimal-distortion
attack runs once and is judged at every eps. What each number means stands with the tables in
:mod:`benchmark.crosscheck.results`, what each sentence rests on in
:mod:`benchmark.crosscheck.findings`.
"""

from pathlib import Path

import pandas as pd

from benchmark.crosscheck.compare import compare, empty_row
from benchmark.crosscheck.images import draw
from benchmark.crosscheck.plan import CrosscheckPlan
from benchmark.crosscheck.results import (
    LIBRARIES,
    Crosscheck,
    folder_name,
    is_crosscheck,
    read_crosscheck,
    write_crosscheck,
)
from benchmark.faults import open_folder, rescued
from benchmark.files import own_folder, safe_name
from benchmark.guard import get_ready
from benchmark.loading import load_images, say_classes, say_repeats
from benchmark.locks import held
from benchmark.progress import Progress
from benchmark.provenance import provenance
from benchmark.results import make_table, write_atomic
from benchmark.spec import derive_seed
from benchmark.trained import trained


def crosscheck(
    plan: CrosscheckPlan, *, out: Path, data_dir: Path | None, command: str, progress: Progress
) -> tuple[Crosscheck, bool]:
    """Return the cross-check of ``plan`` under ``out``, and whether it was there already.

    One in which a library failed is computed again. Raises UsageError before anything is computed
    when the folder or the data will not do.
    """
    spec = plan.spec
    path = out / folder_name(spec, plan.versions)
    if is_crosscheck(path):
        saved = read_crosscheck(path)
        if saved.spec == spec and not saved.failed:
            return saved, True
    train_set, test_set = load_images(spec, data_dir)
    open_folder(path)
    about = provenance(spec, train_set, test_set, command)
    say_repeats(about, spec, progress)
    say_classes(test_set, spec, progress)
    about["libraries"] = dict(plan.versions)
    seed, defense = spec.seeds[0], spec.defenses[0]
    model, record = trained(defense, train_set, test_set, seed=seed, progress=progress)
    get_ready(model, test_set, derive_seed(seed, spec.dataset, defense.name, "check"))
    about["model"] = {"key": record.key, "train_seconds": record.train_seconds}

    def seed_at(eps: float) -> int:
        # Without the library's name: those that can start alike at random do.
        return derive_seed(seed, spec.dataset, defense.name, spec.attacks[0].name, eps)

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


def _with_absent(libraries: pd.DataFrame, plan: CrosscheckPlan) -> pd.DataFrame:
    rows = [{str(k): v for k, v in row.items()} for row in libraries.to_dict("records")]
    for row in rows:
        row["version"] = plan.versions.get(row["library"], "")
    rows += [empty_row(name, "skipped", reason, 0) for name, reason in plan.absent.items()]
    return make_table(rows, LIBRARIES)
