"""What ``speed`` prints: tables and sentences, from the object that ``--json`` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmark.console import numbers_table, plain_console

Row = Mapping[str, Any]

TITLES = {
    "pgd": "PGD at one eps",
    "pgd_full": "PGD at one eps, early stopping off",
    "sweep": "PGD at every eps",
    "cw": "C&W",
}


def print_speed(result: Row) -> None:
    """Print the measurement on standard output: two tables a task, then what must be said."""
    console = plain_console()
    device, versions = result["device"], result["versions"]
    console.print(
        f"{result['dataset']}, preset {result['preset']}, on {device['name']} ({device['type']},"
        f" {device['threads']} threads); medians of {result['repeats']} turns",
        soft_wrap=True,
    )
    console.print(
        ", ".join(f"{name} {release}" for name, release in versions.items()),
        soft_wrap=True,
    )
    tasks = dict.fromkeys(row["task"] for row in result["results"])
    for task in tasks:
        rows = [row for row in result["results"] if row["task"] == task]
        _print_task(console, task, rows, result["floors"][task])
    if result["doubling"]:
        _print_doubling(console, result["doubling"])
    for name, reason in result["absent"].items():
        console.print(f"{name}: not measured: {reason}", soft_wrap=True)
    for name, reason in result["failed"].items():
        console.print(f"{name}: failed: {reason}", soft_wrap=True)


def _print_task(console: Console, task: str, rows: Sequence[Row], floor: float) -> None:
    first = rows[0]
    console.print(
        f"\n{TITLES[task]} on {first['defense']} ({first['norm']}): {first['n']} images,"
        f" {first['attacked']} attacked; a bare pass takes {1000 * floor:.3f} ms an image",
        soft_wrap=True,
    )
    headings = ["seconds", "least", "most", "x in-house", "x floor", "forwards", "backwards"]
    table = numbers_table("library", headings)
    for row in rows:
        cells = [_number(row[key], 2) for key in ("seconds", "seconds_min", "seconds_max")]
        cells += [_number(row[key], 2) for key in ("times_inhouse", "floor_ratio")]
        cells += [_number(row[f"{way}_per_sample"], 1) for way in ("forwards", "backwards")]
        table.add_row(row["library"], *cells)
    console.print(table)
    if task == "cw":
        table = numbers_table("library", ["median distance", "x nearest"])
        for row in rows:
            far = [_number(row[key], 3) for key in ("median_distance", "distance_ratio")]
            table.add_row(row["library"], *far)
        console.print()
        console.print(table)
    console.print("\nrobust accuracy", soft_wrap=True)
    table = numbers_table("eps", [row["library"] for row in rows])
    for eps in first["robust_accuracy"]:
        table.add_row(eps, *(f"{row['robust_accuracy'][eps]:.3f}" for row in rows))
    console.print(table)
    for sentence in sentences(rows):
        console.print(f"- {sentence}", soft_wrap=True)


def sentences(rows: Sequence[Row]) -> list[str]:
    """Return remarks on the numbers of one task, a sentence each."""
    found = []
    for row in rows:
        excess = row["excess_points"]
        if excess is not None and row["task"] != "cw":
            found.append(
                f"{row['library']}: robust accuracy exceeds the lowest of the other libraries by at"
                f" most {excess:+.2f} points at any eps"
            )
        found += [f"{row['library']} {remark}" for remark in row["remarks"]]
        found += [f"{row['library']}: {note}" for note in row["notes"]]
    return found


def _print_doubling(console: Console, rows: Sequence[Row]) -> None:
    console.print("\nthe in-house sweep over more levels", soft_wrap=True)
    headings = ["seconds", "least", "most", "forwards", "backwards"]
    peak = any(row["peak_memory"] for row in rows)
    table = numbers_table("levels", [*headings, "peak memory, MB"] if peak else headings)
    for row in rows:
        cells = [_number(row[key], 2) for key in ("seconds", "seconds_min", "seconds_max")]
        cells += [_number(row[f"{way}_per_sample"], 1) for way in ("forwards", "backwards")]
        table.add_row(str(row["levels"]), *cells, *([_megabytes(row)] if peak else []))
    console.print(table)


def _megabytes(row: Row) -> str:
    return _number(row["peak_memory"] and row["peak_memory"] / 1e6, 1)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
