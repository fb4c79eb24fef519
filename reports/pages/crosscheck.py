"""One self-contained page about a cross-check: where several libraries' attacks disagree."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.crosscheck.results import Crosscheck, pair_key, read_crosscheck
from benchmark.errors import UsageError
from benchmark.io.paths import plain_file, real
from reports.figures import curves as figures_curves
from reports.figures import interactive
from reports.pages.page_files import write_files
from reports.section import shown
from reports.tables.grid import NORM_WORDS, number
from reports.templating import asset, environment

View = dict[str, Any]
PAGE = "crosscheck.html"
MOST_IMAGE_BYTES = 2**22


def write_page(folder: Path) -> Path:
    """Write ``crosscheck.html`` into a cross-check's folder and return its path."""
    return write_files(folder / PAGE, *render(read_crosscheck(folder)))


def title(found: Crosscheck) -> str:
    """Name a cross-check in a heading or a link."""
    result = found.result
    return f"{result['attack']} on {result['defense']}, {result['dataset']}"


def render(found: Crosscheck) -> tuple[str, dict[str, bytes]]:
    """Return the page and the figure's files by name; equal tables give equal bytes."""
    libraries = found.tables["libraries"]
    ok = libraries[libraries["status"] == "ok"].to_dict("records")
    files: dict[str, bytes] = {}
    curve = figures_curves.distance_curves(_curves(found), _labels(found))
    figure = shown("accuracy", curve, files) if curve else None
    spec = found.spec.attacks[0]
    view = {
        "title": title(found),
        "facts": _facts(found),
        "norm": NORM_WORDS.get(spec.threat.norm, spec.threat.norm),
        "minimal": _is_minimal(found),
        "libraries": [_library(row) for row in ok],
        "troubles": libraries[libraries["status"] != "ok"].to_dict("records"),
        "findings": [(row["library"], list(row["findings"])) for row in ok if len(row["findings"])],
        "quiet": [row["library"] for row in ok if not len(row["findings"])],
        "success": _success(found.tables["success"]),
        "matrices": [
            _matrix([row["library"] for row in ok], found.result["agreement"], AGREEMENT),
            _matrix([row["library"] for row in ok], found.result["bit_identical"], IDENTICAL),
        ],
        "offenders": [_offender(found, record) for record in found.offenders],
        "settings": [
            (attack.library, ", ".join(f"{k} = {v}" for k, v in sorted(attack.params.items())))
            for attack in found.spec.attacks
        ],
        "figure": figure,
    }
    page = environment().get_template("pages/crosscheck.html.j2")
    carried = {"scripts": interactive.scripts(), "policy": interactive.policy()}
    return page.render(
        css=asset("report.css") + asset("pages/crosscheck.css"), **carried, **view
    ), files


AGREEMENT = "Agreement: share of all images on which both succeed or both fail"
IDENTICAL = "Bit-identical: share of the attacked images for which both return the same bits"


def _is_minimal(found: Crosscheck) -> bool:
    samples = found.tables["samples"]
    return bool(len(samples)) and bool(samples["eps"].map(math.isinf).all())


def _labels(found: Crosscheck) -> tuple[str, str]:
    norm = found.spec.attacks[0].threat.norm
    name = "distance" if _is_minimal(found) else "eps"
    return f"{name}, {NORM_WORDS.get(norm, norm)}", title(found)


def _curves(found: Crosscheck) -> dict[str, tuple[list[float], list[float]]]:
    """Return accuracy against distance per library, as points of its steps."""
    if not _is_minimal(found):
        table = found.tables["success"]
        return {
            str(name): (list(rows["eps"]), [1 - share for share in rows["success"]])
            for name, rows in table.groupby("library", sort=False)
        }
    curves = {}
    for name, rows in found.tables["samples"].groupby("library", sort=False):
        far = sorted(rows.loc[rows["success"], "distance"])
        n = len(rows)
        accuracies = [1 - (i + 1) / n for i in range(len(far))]
        curves[str(name)] = ([0.0, *far], [1.0, *accuracies])
    return curves


def _far(value: Any) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "∞"
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def _library(row: Mapping[Any, Any]) -> View:
    names = ("distance_q05", "distance_q25", "median_distance", "distance_q75", "distance_q95")
    return {
        "name": row["library"],
        "version": row["version"],
        "success": number(row["success"]),
        "quantiles": [_far(row[name]) for name in names],
        "optimality": number(row["optimality"]),
        "forwards": number(row["forwards"], 1),
        "backwards": number(row["backwards"], 1),
        "seconds": number(row["seconds"], 1),
    }


def _success(table: pd.DataFrame) -> View:
    grid = sorted(table["eps"].unique())
    rows = []
    for name, own in table.groupby("library", sort=False):
        at = {row["eps"]: row for row in own.to_dict("records")}
        cells = [(number(at[eps]["success"]), _interval(at[eps])) for eps in grid]
        rows.append((name, cells))
    return {"eps": [f"{eps:g}" for eps in grid], "rows": rows}


def _interval(row: Mapping[Any, Any]) -> str:
    return f"[{number(row['ci_low'])}, {number(row['ci_high'])}]"


def _matrix(names: Sequence[str], pairs: Mapping[str, Any], caption: str) -> View:
    """Return a symmetric heat table: cells of (words, strength of the colour in percent)."""
    rows = []
    for first in names:
        cells = []
        for second in names:
            share = None if first == second else pairs.get(pair_key(first, second))
            cells.append(("–", -1) if share is None else (number(share), round(100 * share)))
        rows.append((first, cells))
    return {"caption": caption, "names": list(names), "rows": rows}


def _offender(found: Crosscheck, record: Mapping[str, Any]) -> View:
    sample, label, eps = record["sample_id"], record["label"], record["eps"]
    budget = f" at eps {eps:g}" if isinstance(eps, int | float) and math.isfinite(eps) else ""
    answers = []
    for answer in record["libraries"]:
        outcome = "fooled" if answer["success"] else "not fooled"
        words = f"{outcome}: taken for {answer['pred']}, distance {_far(answer['distance'])}"
        answers.append(
            {
                "library": answer["library"],
                "words": words,
                "success": answer["success"],
                "image": _png(found.path, answer["image"]),
                "difference": _png(found.path, answer["difference"]),
                "alt": f"Image {sample} as {answer['library']} changed it{budget}; {words}.",
            }
        )
    return {
        "heading": f"Image {sample}, label {label}{budget}",
        "original": _png(found.path, record["original"]),
        "alt": f"Image {sample} as it was, label {label}.",
        "gain": f"{record['gain']:.3g}",
        "answers": answers,
    }


def _png(folder: Path, name: str) -> str:
    """Return an image of the folder as an address; UsageError unless it is a PNG file in it."""
    path = folder / name
    try:
        # A stranger's record may name any file of this machine, which the page would then show.
        if not real(path).is_relative_to(real(folder)):
            raise ValueError("it is not in this folder")
        plain_file(path, MOST_IMAGE_BYTES)
        data = path.read_bytes()
        if not data.startswith(b"\x89PNG\r\n"):
            raise ValueError("it is no PNG file")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable ({error})") from None
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _facts(found: Crosscheck) -> list[tuple[str, str]]:
    spec, origin = found.spec, found.provenance
    dataset, device = origin.get("dataset", {}), origin.get("device", {})
    versions = {**origin.get("versions", {}), **origin.get("libraries", {})}
    words = [device.get("name"), device.get("type")]
    if device.get("threads"):
        words.append(f"{device['threads']} threads")
    return [
        ("Dataset", spec.dataset),
        ("Defense", spec.defenses[0].name),
        ("Attack", f"{spec.attacks[0].name}, {spec.attacks[0].threat.norm}"),
        ("Images", f"{spec.n_test} attacked, {spec.n_train} for training"),
        ("Preset", f"{spec.preset}, seed {spec.seeds[0]}"),
        ("Device", ", ".join(str(word) for word in words if word) or "not recorded"),
        ("Started", str(origin.get("started") or "not recorded")),
        ("Versions", ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))),
        ("Git", str(origin.get("git_sha") or "not recorded")),
        ("Checksums", ", ".join(f"{s} {dataset.get(f'{s}_checksum')}" for s in ("train", "test"))),
        ("Command", str(origin.get("command") or "not recorded")),
    ]
