"""Embeddings of test images as points of the plane: the table of the paper's Figure 5.

``codes.parquet`` lies beside a run's other tables. Nothing here needs torch.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from benchmark.results.schema import ResultsError, columns
from benchmark.results.tables import (
    empty_table,
    forget_rows,
    load_table,
    superseded,
    validate,
    write_table,
)

CONDITIONS = ("clean", "attacked")

CODES = columns(
    ("dataset", pa.string()),
    ("defense", pa.string()),
    ("seed", pa.int64()),
    ("condition", pa.string()),
    ("attack", pa.string()),
    ("eps", pa.float64()),
    ("sample_id", pa.int64()),
    ("label", pa.int64()),
    ("pred", pa.int64()),
    ("x", pa.float64()),
    ("y", pa.float64()),
)
"""A row per (defense, seed, condition, image). ``sample_id`` is the image's row in the dataset's
test split, ``pred`` the defense's label for it under ``condition`` ("clean" or "attacked"), and
(``x``, ``y``) its embedding's place. Clean rows have the attack "" and eps 0. Both conditions of
one defense and seed share a plane; two defenses do not, and a plane's axes have no unit."""

CODES_KEY = ["dataset", "defense", "seed", "condition", "sample_id"]
FILE = "codes.parquet"


def read_codes(run_dir: Path) -> pd.DataFrame:
    """Read and validate a run's code map; an absent one is empty."""
    path = run_dir / FILE
    return check_codes(load_table(path, CODES), str(path)) if path.exists() else empty_table(CODES)


def put_codes(run_dir: Path, points: pd.DataFrame) -> None:
    """Write ``points`` into a run's code map in place of those of the same defenses and seeds."""
    points = check_codes(points, FILE)
    table = superseded(read_codes(run_dir), points, ["defense", "seed"])
    write_table(run_dir / FILE, table, CODES)


def forget_codes(run_dir: Path, defense: str, seed: int) -> None:
    """Delete a defense's points under a seed."""
    table = read_codes(run_dir)
    own = (table["defense"] == defense) & (table["seed"] == seed)
    forget_rows(run_dir / FILE, table, own, CODES)


def check_codes(points: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the table in its schema's order and dtypes; ResultsError names the first violation."""
    points = validate(points, CODES, where)
    unknown = set(points["condition"]) - set(CONDITIONS)
    if unknown:
        raise ResultsError(f"{where}: unknown condition {sorted(unknown)[0]!r}")
    if points.duplicated(CODES_KEY).any():
        raise ResultsError(f"{where}: an image appears twice under one condition")
    if points[["x", "y", "eps"]].isna().any(axis=None):
        raise ResultsError(f"{where}: a point has no place or no eps")
    clean = points["condition"] == "clean"
    if ((points["eps"] != 0) | (points["attack"] != ""))[clean].any():
        raise ResultsError(f"{where}: a clean point names an attack or an eps")
    return points
