"""What ``crosscheck`` prints: tables and sentences."""

import math
from typing import Any

import pandas as pd
from rich.console import Console

from benchmark.console import numbers_table, plain_console
from benchmark.crosscheck.results import QUANTILES, Crosscheck


def print_crosscheck(found: Crosscheck) -> None:
    """Print a cross-check on standard output: tables first, then every finding as a sentence."""
    console = plain_console()
    result, libraries = found.result, found.tables["libraries"]
    norm = found.spec.attacks[0].threat.norm
    console.print(
        f"{result['attack']} ({norm}) on {result['defense']}, {result['dataset']},"
        f" {result['n']} images",
        soft_wrap=True,
    )
    ok = libraries[libraries["status"] == "ok"].to_dict("records")
    columns = ("version", "success", "optimality", "forwards", "backwards", "seconds")
    table = numbers_table("library", columns)
    for row in ok:
        table.add_row(
            *(row["library"], row["version"], _share(row["success"]), _share(row["optimality"])),
            *(f"{row[name]:.1f}" for name in ("forwards", "backwards", "seconds")),
        )
    console.print(table)
    console.print()
    quantiles = {name: f"{share:.0%}" for name, share in QUANTILES.items()}
    table = numbers_table("distance at", [*quantiles.values()])
    for row in ok:
        table.add_row(row["library"], *(_far(row[name]) for name in quantiles))
    console.print(table)
    _print_success(console, found.tables["success"])
    for name, title in (
        ("agreement", "share of images on which two libraries agree"),
        ("bit_identical", "share of bit-identical images"),
    ):
        _print_matrix(console, title, result[name])
    console.print("\nfindings", soft_wrap=True)
    quiet = True
    for row in libraries.to_dict("records"):
        for sentence in row["findings"]:
            quiet = False
            console.print(f"- {row['library']} {sentence}", soft_wrap=True)
        if row["status"] == "skipped":
            console.print(f"- {row['library']}: not run: {row['reason']}", soft_wrap=True)
    if quiet:
        console.print("- no discrepancy was measured", soft_wrap=True)


def _print_success(console: Console, success: pd.DataFrame) -> None:
    budgets = sorted(success["eps"].unique())
    step = max(1, -(-(len(budgets) - 1) // 6))
    shown = [*budgets[:-1:step], budgets[-1]] if budgets else []
    table = numbers_table("success within eps", [f"{eps:g}" for eps in shown])
    for name, rows in success.groupby("library", sort=False):
        share = rows.set_index("eps")["success"]
        table.add_row(str(name), *(_share(share[eps]) for eps in shown))
    console.print()
    console.print(table)


def _print_matrix(console: Console, title: str, pairs: Any) -> None:
    names = sorted({name for key in pairs for name in key.split("|")})
    if not names:
        return
    table = numbers_table("", names)
    for first in names:
        shares = [pairs.get("|".join(sorted((first, second)))) for second in names]
        table.add_row(first, *("-" if share is None else _share(share) for share in shares))
    console.print(f"\n{title}", soft_wrap=True)
    console.print(table)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _far(value: float) -> str:
    return "inf" if math.isinf(value) else "-" if math.isnan(value) else f"{value:.4g}"
