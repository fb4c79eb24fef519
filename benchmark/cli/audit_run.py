"""The command ``audit RUN_DIR``: what ``run`` did not ask, asked later of the models it trained."""

from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.table import Table

from benchmark.audit.basic import audit_rest
from benchmark.audit.full import FullAudit
from benchmark.config.spec import RunSpec
from benchmark.console import print_table
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import UsageError, options_named
from benchmark.execution.plan import choose_device
from benchmark.io.locks import held
from benchmark.progress import Progress
from benchmark.results.audit_tables import read_audit
from benchmark.results.audit_words import MEANINGS, RULINGS, Level
from benchmark.results.model_records import read_models
from benchmark.results.recovery import contents
from benchmark.results.run import read_origin, read_spec
from benchmark.results.run_folder import RunFolder
from benchmark.results.schema import CELLS
from benchmark.results.tables import read_table
from benchmark.training.supply import TRAINED, Supply


def audit_run(run_dir: Path, *, level: Level, progress: Progress, supply: Supply = TRAINED) -> None:
    """Audit a run that lies in ``run_dir``; what is there of its audit is not done again.

    UsageError, before anything is computed, if the folder is not a run or its images are not those
    of the run. A defense that cannot be audited is undecided, with the reason.
    """
    spec = read_spec(run_dir)
    try:
        choose_device(spec.device)
    except UsageError:
        raise UsageError(
            f"{run_dir} was made on device {spec.device!r}, which this machine does not have;"
            " audit it where there is one"
        ) from None
    records = {(model.defense, model.seed): model for model in read_models(run_dir)}
    if not records:
        raise UsageError(f"{run_dir}: nothing was trained and attacked there yet; finish the run")
    with options_named({name: f"the run's {name}" for name in ("--n-train", "--n-test")}):
        sets = supply.images(spec)
    _check_images(run_dir, spec, *sets)
    with held(run_dir / ".lock", str(run_dir), progress):
        folder = RunFolder(run_dir, spec, *contents(run_dir, spec.run_id))
        folder.repair(progress)
        if level == "full":
            FullAudit(folder, supply, records, sets, progress).run()
        else:
            audit_rest(folder, supply, records.values(), sets, progress, may_train=True)


def audit_full(run_dir: Path, *, progress: Progress, supply: Supply = TRAINED) -> None:
    """Audit in full a run that has just ended; a run without a single model has nothing to say."""
    if list((run_dir / "models").glob("*.json")):
        audit_run(run_dir, level="full", progress=progress, supply=supply)


def _check_images(
    run_dir: Path, spec: RunSpec, train_set: ImageDataset, test_set: ImageDataset
) -> None:
    """Refuse other images than those that the run attacked."""
    about = read_origin(run_dir, spec).get("dataset")
    before: Any = about if isinstance(about, dict) else {}
    for split, images in (("train", train_set), ("test", test_set)):
        known = before.get(f"{split}_checksum")
        if known and known != images.checksum:
            raise UsageError(
                f"{run_dir} was made with other {spec.dataset} images ({split} checksum differs);"
                " name the folder of its images with --data-dir"
            )


def print_verdicts(run_dir: Path) -> None:
    """Print the verdict on each defense, and what the audit took."""
    audit = read_audit(run_dir)
    several = audit.verdicts["seed"].nunique() > 1
    table = Table("defense", "norm", "verdict")
    for name in ("eps", "run's attacks", "stronger", "at most"):
        table.add_column(name, justify="right")
    reasons = []
    columns = ("eps", "plain_accuracy", "stronger_accuracy", "headline_accuracy")
    for row in audit.verdicts.to_dict("records"):
        seed = f" (seed {row['seed']})" if several else ""
        eps, *numbers = (row[name] for name in columns)
        shown = ["-" if eps != eps else f"{eps:g}"]
        shown += ["-" if value != value else f"{value:.3f}" for value in numbers]
        name = f"{row['defense']}{seed}"
        table.add_row(name, row["norm"], row["verdict"], *shown)
        if why := row["reasons"] or row["remarks"]:
            reasons.append(f"{name}, {row['norm']}: {row['verdict']}: {why}")
        if row["rerun"]:
            reasons.append(f"  the stronger attack in a run of its own: {row['rerun']}")
    if table.row_count:
        print_table("the audit: is it robust, or did the attack fail?", table)
    for reason in reasons:
        typer.echo(reason)
    for word in [word for word in RULINGS if word in set(audit.verdicts["verdict"])]:
        typer.echo(f"{word}: {MEANINGS[word]}")


def audit_line(run_dir: Path) -> str:
    """Return in one line what the audit of a run says and took; empty if there was none."""
    audit = read_audit(run_dir)
    if audit.verdicts.empty:
        return ""
    counts = [
        f"{norm}: {_counted(own)}" for norm, own in audit.verdicts.groupby("norm", sort=False)
    ]
    attacks = float(read_table(run_dir / "cells.parquet", CELLS)["seconds"].fillna(0).sum())
    share = f", {100 * audit.seconds / attacks:.0f} % of the attacks' time" if attacks else ""
    return f"audit: {audit.seconds:.0f} s{share}; {'; '.join(counts)}"


def _counted(verdicts: pd.DataFrame) -> str:
    words = verdicts["verdict"]
    return ", ".join(f"{n} {word}" for word in RULINGS if (n := int((words == word).sum())))
