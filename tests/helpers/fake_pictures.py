"""Made-up pictures for a run folder of ``fake_runs``: noise on squares, judged as its samples."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.results import make_table, read_run
from benchmark.results.pictures import PICTURES, encoded, pictured_eps, put_pictures

Image = np.ndarray[Any, np.dtype[np.float32]]


def square(sample_id: int, channels: int, size: int) -> Image:
    """A bright square on a dark ground, (C, H, W) on the grid of 8 bits; its place is the id's."""
    image = np.full((channels, size, size), 32 / 255, np.float32)
    start = sample_id % max(1, size // 2)
    image[:, start : start + size // 2, start : start + size // 2] = 200 / 255
    return image


def fake_pictures(
    run_dir: Path,
    *,
    channels: int = 1,
    size: int = 12,
    kept: int = 4,
    keep: Callable[[dict[Any, Any]], bool] = lambda row: True,
    defenses: Collection[str] | None = None,
    image: Callable[[int, int, int], Image] = square,
) -> pd.DataFrame:
    """Write pictures of the ``kept`` first images of the run's ok cells; return them.

    Differences are signs times eps under l-inf, and random of the row's distance under l2. Rows
    that ``keep`` refuses, and other ``defenses``, are left out.
    """
    run = read_run(run_dir)
    rows = []
    for attack in run.spec.attacks:
        eps = pictured_eps(attack.threat.eps)
        own = run.samples[(run.samples["attack"] == attack.name) & (run.samples["eps"] == eps)]
        for row in own[own["sample_id"] < kept].to_dict("records"):
            if (defenses is None or row["defense"] in defenses) and keep(row):
                rows.append({name: row[name] for name in PICTURES.names if name in row})
                clean = image(row["sample_id"], channels, size)
                rng = np.random.default_rng([len(rows), row["sample_id"]])
                noise = rng.standard_normal(clean.shape)
                step = np.sign(noise) * eps
                if row["norm"] == "l2":
                    step = noise / np.linalg.norm(noise) * row["distance"]
                attacked = np.clip(clean + step, 0, 1).astype(np.float32)
                clean_error = row["pred_clean"] != row["label"]
                rows[-1] |= encoded(clean, clean if clean_error else attacked)
    table = make_table(rows, PICTURES)
    put_pictures(run_dir, table)
    return table
