"""What the attacks cost and how far they went: queries, seconds and distances, in one table."""

import numpy as np
import pandas as pd

from benchmark.results.row_keys import number_groups
from benchmark.results.schema import CELL_KEY
from reports.analysis.outcomes import in_order
from reports.section import RunContext, Section
from reports.tables import grid
from reports.tables.grid import NORM_WORDS, STATUS_WORDS, Row, number
from reports.tables.text_table import TextTable

KEY = ["attack", "library", "norm", "defense"]
QUANTILES = (0.25, 0.5, 0.75)


def make(context: RunContext) -> Section | None:
    """Return the section; None where the run asks for no cell."""
    if context.cells.empty:
        return None
    costs = cost_table(context)
    table = _in_words(costs)
    name = f"{context.prefix}cost"
    files = table.files(name) | {f"{name}.csv": grid.table_csv(costs).encode()}
    view = {
        "table": table,
        "file": name,
        "seeds": len(context.run.spec.seeds),
        "skipped": len(costs) - len(table.rows),
    }
    title = "What the attacks cost, and how far they went"
    return Section("cost", title, "sections/cost.html.j2", view, files)


def cost_table(context: RunContext) -> pd.DataFrame:
    """Return a row per (attack, library, norm, defense).

    ``forwards`` and ``backwards`` are per attacked image and seed, summed over the whole sweep of
    eps: a deterministic defense's images leave it when they fall, and those that are wrong without
    an attack cost nothing. ``seconds`` is the whole sweep's, over all seeds. The distances are the
    quartiles over the images that the attack fooled at the largest eps that is ok, clean errors
    apart: for a budget attack the smallest budget of the sweep that it needed bounds them, for a
    minimal-distortion attack the largest eps does.
    """
    cells, samples = context.cells, context.run.samples
    codes, keys = number_groups(samples, CELL_KEY)
    asked = cells[["dataset", *KEY, "eps", "seed", "status", "seconds"]]
    known = keys.merge(asked, on=["dataset", *KEY, "eps", "seed"], how="left")
    ok = (known["status"] == "ok").to_numpy(dtype=bool)
    sums = {
        name: np.bincount(codes, samples[name].to_numpy(dtype=float), minlength=len(known))
        for name in ("n_forward", "n_backward")
    }
    known = known.assign(
        n=np.bincount(codes, minlength=len(known)), code=np.arange(len(known)), **sums
    )[ok]
    fooled = (samples["success"] & (samples["pred_clean"] == samples["label"])).to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(keys) + 1))
    distance = samples["distance"].to_numpy()
    by_key = dict(iter(known.groupby(KEY)))
    rows = []
    for values, group in cells.groupby(KEY, sort=False):
        row = dict(zip(KEY, values, strict=True))
        statuses = group["status"].value_counts().to_dict()
        row |= {f"cells_{status}": statuses.get(status, 0) for status in STATUS_WORDS}
        own = by_key.get(values)
        if own is None:
            rows.append(row)
            continue
        # A sweep attacks the same images at every eps: they count once per seed.
        attacked = own.groupby("seed")["n"].max().sum()
        last = own[own["eps"] == own["eps"].max()]
        places = [order[starts[code] : starts[code + 1]] for code in last["code"]]
        at = np.concatenate(places)
        far = distance[at[fooled[at]]]
        row |= {
            "images": int(own["n"].max()),
            "seeds": int(own["seed"].nunique()),
            "forwards": own["n_forward"].sum() / attacked,
            "backwards": own["n_backward"].sum() / attacked,
            "seconds": own["seconds"].sum(),
            "eps": float(own["eps"].max()),
            "fooled": len(far),
        }
        if len(far):
            ends = np.quantile(far, QUANTILES)
            names = ("distance_q1", "distance_median", "distance_q3")
            row |= dict(zip(names, map(float, ends), strict=True))
        rows.append(row)
    columns = [*KEY, *(f"cells_{status}" for status in STATUS_WORDS), "images", "seeds"]
    columns += ["forwards", "backwards", "seconds", "eps", "fooled"]
    columns += ["distance_q1", "distance_median", "distance_q3"]
    frame = pd.DataFrame(rows, columns=columns)
    whole = ["images", "seeds", "fooled"]
    frame[whole] = frame[whole].astype("Int64")
    rank = in_order(frame["defense"].tolist(), [d.name for d in context.run.spec.defenses])
    return frame.sort_values(
        "defense", key=lambda names: names.map(rank.index), kind="stable"
    ).reset_index(drop=True)


def _in_words(costs: pd.DataFrame) -> TextTable:
    header = ["defense", "attack", "norm", "images", "forwards", "backwards", "seconds"]
    header += ["eps", "fooled", "median distance", "quartiles"]
    rows = [_row(row) for row in costs.to_dict("records") if not _all_skipped(row)]
    caption = (
        "Queries per attacked image over the whole sweep of eps, seconds of the whole sweep, and"
        " the distances of the images that were fooled at the largest eps"
    )
    return TextTable(caption, header, rows)


def _all_skipped(row: Row) -> bool:
    return not any(row[f"cells_{status}"] for status in STATUS_WORDS if status != "skipped")


def _row(row: Row) -> list[str]:
    attack = f"{row['attack']} ({row['library']})"
    norm = NORM_WORDS.get(str(row["norm"]), str(row["norm"]))
    if not row["cells_ok"]:
        order = ("failed", "missing", "skipped")
        status = STATUS_WORDS[next(word for word in order if row[f"cells_{word}"])]
        return [str(row["defense"]), attack, norm, *[status] * 8]
    none = row["fooled"] == 0
    return [
        str(row["defense"]),
        attack,
        norm,
        _seeds(row["images"], row["seeds"]),
        number(row["forwards"], 1),
        number(row["backwards"], 1),
        number(row["seconds"], 1),
        _eps(row),
        str(row["fooled"]),
        "none fooled" if none else number(row["distance_median"]),
        "–" if none else f"{number(row['distance_q1'])} to {number(row['distance_q3'])}",
    ]


def _eps(row: Row) -> str:
    cells = sum(row[f"cells_{status}"] for status in STATUS_WORDS)
    lacking = row["cells_ok"] != cells
    return f"{row['eps']:g}" + (f" ({row['cells_ok']} of {cells} cells)" if lacking else "")


def _seeds(images: object, seeds: object) -> str:
    return f"{images}" if seeds == 1 else f"{images}, {seeds} seeds"
