"""The nearest adversarial image that a run found for each sample, by any of its attacks.

``adversarial.parquet`` lies beside a run's other tables where the run was asked to keep them: a row
per (defense, seed, norm, image). Float32, because an adversarial example may not survive rounding
to 8 bits. Nothing here needs torch.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from benchmark.results.schema import ResultsError, columns
from benchmark.results.tables import empty_table, load_table, validate, write_table

FILE = "adversarial.parquet"

ADVERSARIAL = columns(
    ("defense", pa.string()),
    ("seed", pa.int64()),
    ("norm", pa.string()),
    ("sample_id", pa.int64()),
    ("label", pa.int64()),
    ("pred_adv", pa.int64()),
    ("attack", pa.string()),
    ("library", pa.string()),
    ("distance", pa.float64()),
    ("channels", pa.int64()),
    ("height", pa.int64()),
    ("width", pa.int64()),
    ("image", pa.binary()),
)
"""``image`` is the adversarial image, little-endian float32 (C, H, W) in [0, 1]; ``distance`` is in
``norm``, and ``pred_adv`` what the model answered. An image that no attack brought to a wrong
answer has no row, nor has one that the model gets wrong without an attack."""

KEY = ["defense", "seed", "norm", "sample_id"]
SHAPE = ["channels", "height", "width"]
SINGLE = np.dtype("<f4")

Pixels = npt.NDArray[np.float32]


def encoded(image: Pixels) -> dict[str, int | bytes]:
    """Return the image columns of a row, from an image (C, H, W) float32."""
    sizes = dict(zip(SHAPE, image.shape, strict=True))
    return {**sizes, "image": np.ascontiguousarray(image, SINGLE).tobytes()}


def decoded(rows: pd.DataFrame) -> Pixels:
    """Return the images (n, C, H, W), float32, of ``rows``, which has one at least."""
    shape = tuple(int(rows[name].iloc[0]) for name in SHAPE)
    return np.stack(
        [np.frombuffer(data, SINGLE).reshape(shape).astype(np.float32) for data in rows["image"]]
    )


def read_adversarial(run_dir: Path) -> pd.DataFrame:
    """Read and validate a run's adversarial images; an absent table is empty."""
    path = run_dir / FILE
    if not path.exists():
        return empty_table(ADVERSARIAL)
    return _checked(load_table(path, ADVERSARIAL), str(path))


def put_adversarial(run_dir: Path, rows: pd.DataFrame) -> None:
    """Add ``rows`` to a run's adversarial images; of each sample the nearest one stays."""
    if rows.empty:
        return
    both = [table for table in (read_adversarial(run_dir), rows) if len(table)]
    merged = pd.concat(both, ignore_index=True).sort_values("distance", kind="stable")
    nearest = merged.drop_duplicates(KEY).sort_values(KEY, ignore_index=True)
    write_table(run_dir / FILE, _checked(nearest, FILE), ADVERSARIAL)


def forget_adversarial(run_dir: Path, defense: str, seed: int) -> None:
    """Delete a defense's adversarial images under a seed."""
    table = read_adversarial(run_dir)
    own = (table["defense"] == defense) & (table["seed"] == seed)
    if own.any():
        write_table(run_dir / FILE, table[~own].reset_index(drop=True), ADVERSARIAL)


def _checked(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    rows = validate(rows, ADVERSARIAL, where)
    if rows.duplicated(KEY).any():
        raise ResultsError(f"{where}: a sample has two nearest images")
    if (rows["pred_adv"] == rows["label"]).any() or not (rows["distance"] >= 0).all():
        raise ResultsError(f"{where}: an image is not adversarial, or its distance is no distance")
    sizes = rows[SHAPE].prod(axis=1) * SINGLE.itemsize
    if (rows["image"].map(len) != sizes).any() or (rows[SHAPE].nunique() > 1).any():
        raise ResultsError(f"{where}: an image has not the size that it names")
    return rows
