"""What a cross-check leaves behind: its tables, their schemas, and the folder they lie in.

``OUT/crosscheck-<dataset>-<defense>-<attack>-<hash>/`` holds ``samples.parquet`` (a row per
library, budget and image), ``libraries.parquet`` (a row per library), ``success.parquet`` (a row
per library and eps), ``pairs.parquet`` (a row per pair of libraries and budget), ``offenders/``
(PNG) and ``crosscheck.json``, written last: the object that ``--json`` prints, beside the spec, the
provenance and the offenders. Nothing here needs torch.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmark.config.spec import RunSpec
from benchmark.errors import UsageError
from benchmark.hashing import digest
from benchmark.io.atomic import write_atomic
from benchmark.io.json_files import read_json, write_json
from benchmark.results.model_records import finite
from benchmark.results.schema import ResultsError, columns
from benchmark.results.tables import load_table, validate, write_table

SAMPLES = columns(
    ("sample_id", pa.int64()),
    ("library", pa.string()),
    ("eps", pa.float64()),
    ("label", pa.int64()),
    ("pred_clean", pa.int64()),
    ("pred_adv", pa.int64()),
    ("success", pa.bool_()),
    ("distance", pa.float64()),
    ("n_forward", pa.int64()),
    ("n_backward", pa.int64()),
    ("tried_better", pa.bool_()),
    ("image_digest", pa.string()),
)
"""A row per (library, budget, image). ``eps`` is infinite for a minimal-distortion attack, which
has no budget. ``success`` holds within ``eps``; ``distance`` is the returned image's, 0 for a clean
error. ``tried_better``: an image that the attack queried fooled the model within the budget, and
the one it returned does not (for a minimal attack: or lies farther). ``image_digest`` is a hash of
the returned image's bytes: equal digests, equal bits."""

LIBRARIES = columns(
    ("library", pa.string()),
    ("version", pa.string()),
    ("status", pa.string()),
    ("reason", pa.string()),
    ("n", pa.int64()),
    ("success", pa.float64()),
    ("median_distance", pa.float64()),
    ("distance_q05", pa.float64()),
    ("distance_q25", pa.float64()),
    ("distance_q75", pa.float64()),
    ("distance_q95", pa.float64()),
    ("optimality", pa.float64()),
    ("forwards", pa.float64()),
    ("backwards", pa.float64()),
    ("seconds", pa.float64()),
    ("findings", pa.list_(pa.string())),
)
"""A row per library. ``success`` is the share of all n images that have an adversarial example: at
any budget of the grid, or, for a minimal attack, at any distance. An image's distance is 0 for a
clean error, the smallest budget of success for a budget attack, the returned image's distance for a
minimal one, and infinite where the attack failed; the quantiles are the lower ones, so that each is
some image's distance. ``forwards`` and ``backwards`` are means per attacked image and run of the
attack (one budget); ``seconds`` is the whole time of the library."""

SUCCESS = columns(
    ("library", pa.string()),
    ("eps", pa.float64()),
    ("n", pa.int64()),
    ("success", pa.float64()),
    ("ci_low", pa.float64()),
    ("ci_high", pa.float64()),
)
"""The share of all n images that are adversarial within ``eps``, with its Wilson interval."""

PAIRS = columns(
    ("first", pa.string()),
    ("second", pa.string()),
    ("eps", pa.float64()),
    ("n", pa.int64()),
    ("n_attacked", pa.int64()),
    ("agreement", pa.float64()),
    ("bit_identical", pa.float64()),
)
"""``agreement`` is the share of all n images on which both succeed or both fail; ``bit_identical``
the share of the attacked images (those classified correctly without attack) for which both returned
the same bits (NaN if none was attacked)."""

QUANTILES = {
    "distance_q05": 0.05,
    "distance_q25": 0.25,
    "median_distance": 0.5,
    "distance_q75": 0.75,
    "distance_q95": 0.95,
}

SCHEMAS = {
    "samples": (SAMPLES, ["library", "eps", "sample_id"]),
    "libraries": (LIBRARIES, ["library"]),
    "success": (SUCCESS, ["library", "eps"]),
    "pairs": (PAIRS, ["first", "second", "eps"]),
}
FILE = "crosscheck.json"
OBJECT = ("attack", "dataset", "defense", "n", "libraries", "bit_identical", "agreement")
LIBRARY_KEYS = (
    *("library", "success", "median_distance", "optimality"),
    *("forwards", "backwards", "seconds", "findings"),
)
_SHARES = ("success", "optimality", "agreement", "bit_identical", "ci_low", "ci_high")


@dataclass(frozen=True)
class Crosscheck:
    """A cross-check's folder, read and validated; tables by name (see SCHEMAS).

    ``spec`` is a run's with one defense, one seed and one attack per library. ``offenders`` has one
    mapping per image on which the libraries disagree most: ``sample_id``, ``label``, ``eps``,
    ``gain`` (of the difference images), ``original`` (a file) and ``libraries``, each with
    ``library``, ``pred``, ``success``, ``distance``, ``image`` and ``difference`` (files).
    """

    path: Path
    spec: RunSpec
    result: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    provenance: Mapping[str, Any]
    offenders: Sequence[Mapping[str, Any]]

    @property
    def failed(self) -> int:
        """Number of libraries whose attack raised."""
        return int((self.tables["libraries"]["status"] == "failed").sum())


def folder_name(spec: RunSpec, versions: Mapping[str, str]) -> str:
    """Name a cross-check's folder by its settings and the libraries' versions."""
    words = (spec.dataset, spec.defenses[0].name, spec.attacks[0].name)
    name = "-".join(re.sub(r"[^\w.-]", "_", word) for word in words)[:100]
    key = digest(spec.to_json(), json.dumps(dict(versions), sort_keys=True))[:10]
    return f"crosscheck-{name}-{key}"


def pair_key(first: str, second: str) -> str:
    """Return a pair's key in the ``--json`` object: the names in alphabetical order."""
    return "|".join(sorted((first, second)))


# --- numbers ---------------------------------------------------------------------------------


def optimality(distances: Sequence[float], best: Sequence[float]) -> float:
    """Return how near an attack comes to the best known one on every image, in [0, 1].

    The local optimality of AttackBench (Cina et al. 2024, https://arxiv.org/abs/2404.19460).
    With d_i the attack's distance on image i (infinite: it failed; 0: a clean error, which every
    attack shares), its accuracy within e is a(e) = mean_i [d_i > e]. With b_i the least distance on
    image i over all libraries, a*(e) is the best known curve, and e0, the largest finite b_i, is
    where that curve has fallen as low as it does. Between 0 and e0 the attack takes

        xi = integral of (a(0) - a(e)) de / integral of (a*(0) - a*(e)) de
           = sum_i max(0, e0 - d_i) / sum_i max(0, e0 - b_i)

    over the images that no clean error has settled: 1 if it is the best on every image, 0 if it
    never succeeds within e0. Where all finite b_i are equal (one budget) both areas vanish, and xi
    is the share of the images with a finite b_i on which the attack gets there too. NaN if no
    library succeeded on any image.
    """
    d, b = np.asarray(distances, dtype=float), np.asarray(best, dtype=float)
    open_ = b > 0
    d, b = d[open_], b[open_]
    solved = np.isfinite(b)
    if not solved.any():
        return math.nan
    e0 = b[solved].max()
    area = np.maximum(0, e0 - b[solved]).sum()
    if area <= 1e-12 * e0 * solved.sum():
        return float((d[solved] <= e0 * (1 + 1e-12)).mean())
    return float(min(1.0, np.maximum(0, e0 - d[solved]).sum() / area))


def quantiles(distances: Sequence[float]) -> dict[str, float]:
    """Return the distance quantiles by column; failures count as infinite."""
    ordered = np.sort(np.asarray(distances, dtype=float))
    if not len(ordered):
        return dict.fromkeys(QUANTILES, math.nan)
    return {
        name: float(ordered[max(0, math.ceil(share * len(ordered)) - 1)])
        for name, share in QUANTILES.items()
    }


# --- files -----------------------------------------------------------------------------------


def check_table(frame: pd.DataFrame, name: str, where: str) -> pd.DataFrame:
    """Return a table in its schema's order and dtypes; ResultsError names the first violation."""
    schema, key = SCHEMAS[name]
    frame = validate(frame, schema, where)
    if frame.duplicated(key).any():
        raise ResultsError(f"{where}: a row appears twice")
    for column in _SHARES if name != "samples" else ():
        if column in frame and not frame[column].dropna().between(0, 1).all():
            raise ResultsError(f"{where}: a value of {column} lies outside [0, 1]")
    if name == "samples" and (frame["success"] & (frame["pred_adv"] == frame["label"])).any():
        raise ResultsError(f"{where}: a success whose pred_adv is the label")
    if name == "libraries":
        bad = frame["status"] != "ok"
        if set(frame["status"]) - {"ok", "skipped", "failed"}:
            raise ResultsError(f"{where}: unknown status")
        if (frame.loc[bad, "reason"] == "").any() or frame.loc[bad, "success"].notna().any():
            raise ResultsError(f"{where}: a library that is not ok needs a reason and no success")
    return frame


def write_crosscheck(found: Crosscheck, images: Mapping[str, bytes]) -> None:
    """Write a whole folder; crosscheck.json last, so that a reader sees nothing or everything."""
    (found.path / FILE).unlink(missing_ok=True)  # an earlier record is not of these tables
    for name, (schema, _) in SCHEMAS.items():
        frame = check_table(found.tables[name], name, f"{name}.parquet")
        write_table(found.path / f"{name}.parquet", frame, schema)
    for name, data in images.items():
        write_atomic(found.path / name, data)
    value = {
        **found.result,
        "spec": json.loads(found.spec.to_json()),
        "provenance": found.provenance,
        "offenders": list(found.offenders),
    }
    write_json(found.path / FILE, finite(value))


def is_crosscheck(path: Path) -> bool:
    """Tell whether ``path`` is the folder of a finished cross-check."""
    return (path / FILE).is_file()


def read_crosscheck(path: Path) -> Crosscheck:
    """Read and validate a folder; ResultsError says what is wrong with it."""
    if not is_crosscheck(path):
        raise ResultsError(f"{path} is no cross-check's folder: it has no {FILE}")
    try:
        value = read_json(path / FILE)
        spec = RunSpec.from_plain(value["spec"])
        result = {key: value[key] for key in OBJECT}
        rows = [{key: row[key] for key in LIBRARY_KEYS} for row in result["libraries"]]
        result["libraries"] = rows  # in the order that is documented; the file's is alphabetical
        origin, offenders = value["provenance"], value["offenders"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise ResultsError(
            f"{path / FILE}: not a cross-check's record ({error}); restore it, or delete it and"
            " give crosscheck the same command again"
        ) from None
    tables = {}
    for name in SCHEMAS:
        file = path / f"{name}.parquet"
        tables[name] = check_table(load_table(file, SCHEMAS[name][0]), name, str(file))
    return Crosscheck(path, spec, result, tables, origin, offenders)
