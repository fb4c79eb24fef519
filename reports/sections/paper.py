"""The paper, side by side: its Tables 1 to 3 and Figures 2 to 5 as the page shows them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from reports.paper import published as paper
from reports.paper.figures import paper_figures
from reports.paper.grids import CAUTION, LEGEND, Grid, paper_grids
from reports.paper.measured import NOT_RUN, TRUST
from reports.section import Section, View, shown
from reports.tables.grid import is_number, number, table_csv

FOLDER = "paper"

FIGURES = {
    "figure2": (
        "Figure 2: accuracy against eps",
        "Testing accuracy under l∞ PGD, with 95 % bands over images. The open marks are the numbers"
        " that the paper prints of two of its curves, in Table 1. RSE is attacked as in the paper"
        " and, thin line, by the fair attack, which averages the gradient over its noise.",
    ),
    "figure3": (
        "Figure 3: what the discriminator adds",
        "Testing accuracy under l∞ PGD of E-CLA, which is encoder and classifier alone, and of"
        " OT-Classifier, with 95 % bands over images.",
    ),
    "figure4": (
        "Figure 4: the dimension of the embedding",
        "Testing accuracy of OT-Classifier under l∞ PGD at several embedding dimensions k, from"
        " dark to light, with 95 % bands over images.",
    ),
    "figure5": (
        "Figure 5: where the embeddings lie",
        "Embeddings of test images, one t-SNE per defense and dataset. Dots are correct, down"
        " triangles wrong; a number is near the clean embeddings of its class. Distances"
        " between groups, their sizes and the axes mean nothing.",
    ),
}


def paper_section(
    tables: Mapping[str, pd.DataFrame], defenses: Sequence[str] = ()
) -> Section | None:
    """Return the section on :func:`reports.paper.measured.paper_tables`; None if no number is the
    paper's.

    ``defenses`` are those of the report, whose looks the figures keep. Each table comes as CSV,
    Markdown and LaTeX; each figure as SVG and PNG; and every run's numbers, a row per number, as
    ``table<i>-runs.csv`` and ``figure<i>.csv``.
    """
    known = pd.concat([frame[["dataset", "status"]] for frame in tables.values()])
    if not set(known.loc[known["status"] != NOT_RUN, "dataset"]) & set(paper.DATASETS):
        return None
    files = {_tidy(name): table_csv(frame).encode() for name, frame in tables.items()}
    grids = paper_grids(tables)
    for grid in grids:
        texts = {"csv": grid.csv(), "md": grid.markdown(), "tex": grid.latex()}
        files |= {f"{FOLDER}/{grid.name}.{kind}": text.encode() for kind, text in texts.items()}
    figures = []
    for name, drawn in paper_figures(tables, defenses).items():
        title, caption = FIGURES[name]
        source = f"From {', '.join(drawn.runs)}." if drawn.runs else f"All {NOT_RUN}."
        figures.append(
            {
                "title": title,
                "figure": shown(f"{FOLDER}/{name}", drawn.picture, files),
                "caption": f"{caption} {source}",
                "many": name == "figure5",
            }
        )
    view = {
        "legend": LEGEND,
        "caution": CAUTION,
        "trust": TRUST,
        "tables": [_table(grid, tables[grid.name]) for grid in grids],
        "figures": figures,
    }
    return Section("paper", "The paper, side by side", "sections/paper.html.j2", view, files)


def _tidy(name: str) -> str:
    """Name the file of an item's tidy frame; a table's own name is its grid's."""
    return f"{FOLDER}/{name}{'-runs' if name.startswith('table') else ''}.csv"


TITLES = {
    "table1": "Table 1: accuracy under PGD",
    "table2": "Table 2: accuracy on MNIST under C&W",
    "table3": "Table 3: intrinsic and embedding dimension",
}


def _table(grid: Grid, frame: pd.DataFrame) -> View:
    """One table: the grid, and every number of every run in a long one."""
    show = _table3_row if grid.name == "table3" else _accuracy_row
    rows = frame[frame["run_id"] != ""].to_dict("records")
    return {
        "grid": grid,
        "title": TITLES[grid.name],
        "file": f"{FOLDER}/{grid.name}",
        "runs_file": _tidy(grid.name),
        "head": TABLE3_HEAD if grid.name == "table3" else ACCURACY_HEAD,
        "rows": [show(row) for row in rows],
    }


# --- the long tables ---------------------------------------------------------------------------

_NUMBERS = ("published", "measured", "95 % interval", "difference", "n", "run")
ACCURACY_HEAD = ("dataset", "defense", "attack", "eps", *_NUMBERS)
TABLE3_HEAD = ("dataset", "number", "estimate", *_NUMBERS)


def _accuracy_row(row: Mapping[Any, Any]) -> View:
    library = f" ({row['library']})" if row["library"] else ""
    words = [row["defense"], row["attack"] + library, f"{row['eps']:.3g}"]
    return _row(row, words, 100)


def _table3_row(row: Mapping[Any, Any]) -> View:
    method = row["method"]
    if row["average"]:
        ends = f"k {row['k1']:g} to {row['k2']:g}"
        method = f"{method}: {row['average']} average, scaling {row['scaling']}, {ends}"
    return _row(row, [row["quantity"], method], 1)


def _row(row: Mapping[Any, Any], words: list[str], scale: float) -> View:
    measured = is_number(row["measured"])
    seeds = row.get("seeds")
    about = [f"preset {row['preset']}"] if row["preset"] else []
    about += [f"{seeds:g} seed{'s' if seeds != 1 else ''}"] if is_number(seeds) else []
    return {
        "dataset": row["dataset"],
        "words": words,
        "numbers": list(_numbers(row, scale)),
        "class": "" if measured else _css_class(row["status"]),
        "n": f"{row['n']:g}" if is_number(row["n"]) else "–",
        "run": row["run_id"],
        "about": ", ".join(about),
    }


def _numbers(row: Mapping[Any, Any], scale: float) -> Iterator[str]:
    """Yield the published and the measured number, the interval and the difference."""
    yield number(scale * row["published"], 1)
    if not is_number(row["measured"]):
        yield from (row["status"], "–", "–")
        return
    yield number(scale * row["measured"], 1)
    low, high = row["ci_low"], row["ci_high"]
    known = is_number(low) and is_number(high)
    yield f"[{number(scale * low, 1)}, {number(scale * high, 1)}]" if known else "–"
    yield f"{round(scale * row['difference'], 1) + 0.0:+.1f}"


def _css_class(status: str) -> str:
    return "missing" if status == NOT_RUN else status.partition(":")[0]
