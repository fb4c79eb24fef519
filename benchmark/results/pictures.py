"""Pictures of an attack: the first attacked images, before and after, for the eye.

``pictures.parquet`` lies beside a run's other tables. Every attack of a run takes its images from
the front of one order, so the same images are shown under every defense, attack and library.
Nothing here needs torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from benchmark.results.schema import CELL_KEY, KEY_COLUMNS, ResultsError, columns
from benchmark.results.tables import (
    empty_table,
    forget_rows,
    load_table,
    superseded,
    validate,
    write_table,
)

PICTURED = 12
"""The number of images of each sweep that are kept (docs/constants.md)."""

PICTURES = columns(
    *KEY_COLUMNS,
    ("sample_id", pa.int64()),
    ("label", pa.int64()),
    ("pred_clean", pa.int64()),
    ("pred_adv", pa.int64()),
    ("success", pa.bool_()),
    ("distance", pa.float64()),
    ("channels", pa.int64()),
    ("height", pa.int64()),
    ("width", pa.int64()),
    ("original", pa.binary()),
    ("difference", pa.binary()),
)
"""A row per (cell, image), at one eps of each sweep; the columns up to ``distance`` are those of
the samples table. ``original`` is the clean image, uint8 (C, H, W) in C order, rounded where the
data are no multiples of 1/255; ``difference`` the
attack's image minus it, in pixel units of [0, 1], little-endian float16 (C, H, W). Half precision:
three digits of each difference, which one grey level (0.004) of a PNG would swallow."""

FILE = "pictures.parquet"
SWEEP = ["defense", "attack", "library", "norm", "seed"]
SHAPE = ["channels", "height", "width"]
HALF = np.dtype("<f2")

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pixelled:
    """A row's images (C, H, W), float32: the clean one and the attack's, in [0, 1]."""

    original: Pixels
    adversarial: Pixels

    @property
    def difference(self) -> Pixels:
        """The attack's image minus the clean one, in [-1, 1]."""
        return self.adversarial - self.original


def pictured_eps(budgets: tuple[float, ...]) -> float:
    """Return the eps of a sweep at which its images are kept: the nearest to half the largest.

    At the largest hardly any image is still classified correctly; at half of it, where the paper
    trains, the difference is what the defense was built against. Eps 0, where nothing moves, comes
    last.
    """
    half = max(budgets) / 2
    return min(budgets, key=lambda eps: (eps == 0, abs(eps - half), eps))


def encoded(original: Pixels, adversarial: Pixels) -> dict[str, Any]:
    """Return the image columns of a row, from two images (C, H, W) in [0, 1].

    A clean image that came from 8 bits a channel goes back to them without loss; another one is
    rounded to them, for the eye, and the difference stays that of the images themselves.
    """
    channels, height, width = original.shape
    difference = adversarial.astype(np.float64) - original
    return {
        "channels": channels,
        "height": height,
        "width": width,
        "original": np.rint(original * 255).astype(np.uint8).tobytes(),
        "difference": difference.astype(HALF).tobytes(),
    }


def decoded(row: Any) -> Pixelled:
    """Return the images of a row of the table (a mapping)."""
    shape = tuple(int(row[name]) for name in SHAPE)
    clean = np.frombuffer(row["original"], np.uint8).reshape(shape).astype(np.float32)
    moved = np.frombuffer(row["difference"], HALF).reshape(shape).astype(np.float32)
    clean /= np.float32(255)
    return Pixelled(clean, np.clip(clean + moved, 0, 1))


def read_pictures(run_dir: Path) -> pd.DataFrame:
    """Read and validate a run's pictures; an absent table is empty."""
    path = run_dir / FILE
    if not path.exists():
        return empty_table(PICTURES)
    return check_pictures(load_table(path, PICTURES), str(path))


def put_pictures(run_dir: Path, rows: pd.DataFrame) -> None:
    """Write ``rows`` into a run's pictures in place of those of the same sweeps."""
    rows = check_pictures(rows, FILE)
    write_table(run_dir / FILE, superseded(read_pictures(run_dir), rows, SWEEP), PICTURES)


def forget_pictures(run_dir: Path, defense: str, seed: int) -> None:
    """Delete a defense's pictures under a seed."""
    table = read_pictures(run_dir)
    own = (table["defense"] == defense) & (table["seed"] == seed)
    forget_rows(run_dir / FILE, table, own, PICTURES)


def check_pictures(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the table in its schema's order and dtypes; ResultsError names the first violation."""
    rows = validate(rows, PICTURES, where)
    if rows.duplicated([*CELL_KEY, "sample_id"]).any():
        raise ResultsError(f"{where}: an image appears twice in a cell")
    if rows.groupby(["dataset", *SWEEP])["eps"].nunique(dropna=False).gt(1).any():
        raise ResultsError(f"{where}: a sweep has pictures at several eps")
    if not (rows[["eps", "distance"]] >= 0).all(axis=None):
        raise ResultsError(f"{where}: an eps or a distance is negative or not a number")
    if (rows["success"] & (rows["pred_adv"] == rows["label"])).any():
        raise ResultsError(f"{where}: a success whose pred_adv is the label")
    _check_pixels(rows, where)
    return rows


def _check_pixels(rows: pd.DataFrame, where: str) -> None:
    if not rows["channels"].isin([1, 3]).all() or (rows[["height", "width"]] < 1).any(axis=None):
        raise ResultsError(f"{where}: an image is neither grey nor RGB, or has no pixel")
    if (rows.groupby("dataset")[SHAPE].nunique() > 1).any(axis=None):
        raise ResultsError(f"{where}: the images of a dataset differ in size")
    sizes = rows[SHAPE].prod(axis=1)
    for name, width in (("original", 1), ("difference", 2)):
        if (rows[name].map(len) != sizes * width).any():
            raise ResultsError(f"{where}: an image in {name!r} has not the size that it names")
    # A picture says "the same image under every defense".
    if (rows.groupby(["dataset", "sample_id"])[["original", "label"]].nunique() > 1).any(axis=None):
        raise ResultsError(f"{where}: an image or its label differs between two cells")
    if not all(np.isfinite(np.frombuffer(data, HALF)).all() for data in rows["difference"]):
        raise ResultsError(f"{where}: a difference is not a number")
