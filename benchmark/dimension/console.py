"""What ``dimension`` prints: the estimates as a table, and what must be said of them."""

from rich.table import Table

from benchmark.console import plain_console
from benchmark.dimension.library import INSTALL, NAME
from benchmark.dimension.measure import Dimension


def print_dimension(found: Dimension) -> None:
    """Print the estimates as a table on standard output, the paper's number beside its row."""
    settings, published = found.settings, found.published
    console = plain_console()
    console.print(
        f"intrinsic dimension of {settings.dataset}: {found.n} {settings.split} images,"
        f" {settings.k1} to {settings.k2} neighbours",
        soft_wrap=True,
    )
    table = Table("average", "scaling", box=None, pad_edge=False)
    for name in ("dimension", "95 % interval", NAME, ""):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in found.estimates:
        checked = found.library.get(row.scaling)
        same = published and (published.average, published.scaling) == (row.average, row.scaling)
        table.add_row(
            *(row.average, row.scaling, f"{row.value:.2f}"),
            f"{row.ci_low:.2f} to {row.ci_high:.2f}",
            "-" if checked is None else f"{checked.values[row.average]:.2f}",
            f"the paper: {published.value}" if published and same else "",
        )
    console.print(table)
    for note in found.notes:
        console.print(note, soft_wrap=True)
    if not found.library:
        console.print(f"{NAME}: not available: {INSTALL}", soft_wrap=True)
