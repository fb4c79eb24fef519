"""The audit's verdicts, printed."""

from pathlib import Path

import pandas as pd
import typer
from rich.table import Table

from benchmark.console import print_table
from benchmark.results.audit_tables import read_audit
from benchmark.results.audit_words import MEANINGS, RULINGS
from benchmark.results.schema import CELLS
from benchmark.results.tables import read_table


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
