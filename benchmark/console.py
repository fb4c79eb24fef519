"""What the commands print in tables on standard output."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console that shows text as it is: ``toys:Car: done`` holds no emoji."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def print_accuracies(cells: Any) -> None:
    """Print robust accuracies, a row per defense and attack, at up to six of the budgets.

    What was skipped has no row: the report says why.
    """
    cells = cells[cells["status"] != "skipped"]
    for (norm, attack, library), group in cells.groupby(["norm", "attack", "library"], sort=False):
        budgets = sorted(group["eps"].unique())
        step = max(1, -(-(len(budgets) - 1) // 5))
        shown = [*budgets[:-1:step], budgets[-1]]
        table = Table("defense")
        for eps in shown:
            table.add_column(f"{eps:g}", justify="right")
        for defense, rows in group.groupby("defense", sort=False):
            by_eps = rows.groupby("eps")["robust_accuracy"].mean()
            values = [by_eps.get(eps, float("nan")) for eps in shown]
            table.add_row(str(defense), *("-" if v != v else f"{v:.3f}" for v in values))
        print_table(f"accuracy under {attack} ({library}, {norm})", table)


def print_table(title: str, table: Table) -> None:
    """Print a table under its title, which Rich's own would wrap to the table's width."""
    console = plain_console()
    console.print(title, soft_wrap=True)
    console.print(table)


def numbers_table(first: str, others: Sequence[str]) -> Table:
    """Return an open table: the column ``first`` on the left, the ``others`` right-aligned."""
    table = Table(first, box=None, pad_edge=False)
    for name in others:
        table.add_column(name, justify="right")
    return table
