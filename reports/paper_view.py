"""The paper's Tables 1 to 3 as the page shows them: published, measured, interval, difference."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports import published as paper
from reports.paper import NOT_RUN
from reports.tables import is_number, number, table_csv

View = dict[str, Any]
FOLDER = "paper"

TITLES = {
    "table1": "Table 1: accuracy under l∞ PGD",
    "table2": "Table 2: accuracy on MNIST under l2 C&W",
    "table3": "Table 3: intrinsic and embedding dimension",
}


def paper_files(tables: Mapping[str, pd.DataFrame]) -> dict[str, bytes]:
    """Return a CSV file per item of the paper, by name."""
    return {f"{FOLDER}/{name}.csv": table_csv(frame).encode() for name, frame in tables.items()}


def paper_view(tables: Mapping[str, pd.DataFrame]) -> View | None:
    """Return what the page shows of :func:`reports.paper.paper_tables`; None if all is lacking.

    Datasets of which nothing was run are named and left out of the tables, not of the files.
    """
    known = pd.concat([frame[["dataset", "status"]] for frame in tables.values()])
    there = set(known.loc[known["status"] != NOT_RUN, "dataset"]) & set(paper.DATASETS)
    if not there:
        return None
    views = []
    for name, title in TITLES.items():
        rows = tables[name][tables[name]["dataset"].isin(there)]
        if len(rows):
            show = _table3_row if name == "table3" else _accuracy_row
            head = TABLE3_HEAD if name == "table3" else ACCURACY_HEAD
            cells = [show(row) for row in rows.to_dict("records")]
            views.append({"name": name, "title": title, "head": head, "rows": cells})
    return {
        "tables": views,
        "lacking": [dataset for dataset in paper.DATASETS if dataset not in there],
        "files": [f"{FOLDER}/{name}.csv" for name in tables],
    }


ACCURACY_HEAD = ("dataset", "defense", "attack", "eps", "published", "measured", "difference", "n")
TABLE3_HEAD = ("dataset", "number", "estimate", "published", "measured", "difference", "n")


def _accuracy_row(row: Mapping[Any, Any]) -> View:
    reading = f" ({row['reading']})" if row.get("reading") else ""
    library = f" ({row['library']})" if row["library"] else ""
    words = [row["defense"], row["attack"] + library, f"{row['eps']:.3g}{reading}"]
    return _row(row, words, number(row["published"]), 3)


def _table3_row(row: Mapping[Any, Any]) -> View:
    method = row["method"]
    if row["average"]:
        ends = f"k {row['k1']:g} to {row['k2']:g}"
        method = f"{method}: {row['average']} average, scaling {row['scaling']}, {ends}"
    return _row(row, [row["quantity"], method or "–"], f"{row['published']:g}", 1)


def _row(row: Mapping[Any, Any], words: list[str], published: str, digits: int) -> View:
    source = " ".join(str(row[key]) for key in ("preset", "run_id") if row.get(key))
    measured = is_number(row["measured"])
    ends = [row["ci_low"], row["ci_high"]]
    interval = f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"
    return {
        "dataset": row["dataset"],
        "words": words,
        "published": published,
        "value": number(row["measured"], digits) if measured else row["status"],
        "class": "" if measured else str(row["status"]).split(":")[0].replace(NOT_RUN, "missing"),
        "interval": interval if all(map(is_number, ends)) else "",
        "difference": f"{row['difference']:+.{digits}f}" if measured else "–",
        "n": f"{row['n']:g}" if is_number(row["n"]) else "–",
        "source": source,
    }
