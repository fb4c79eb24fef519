"""One self-contained page about a ``speed`` measurement: bars, tables, and where it was taken."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.io.json_files import read_json
from benchmark.results.schema import ResultsError
from benchmark.speed.console import TITLES, sentences
from reports.figures.drawing import Picture, canvas, plain, render
from reports.pages.page_files import write_files
from reports.section import View, shown
from reports.tables.grid import NORM_WORDS, Row, number
from reports.templating import asset, environment

FILE = "speed.json"
PAGE = "speed.html"
NEEDED = (
    *("dataset", "preset", "repeats", "device", "versions", "results", "doubling", "floors"),
    *("absent", "failed", "provenance"),
)

_OURS, _OTHERS = "#0173b2", "#9aa5b1"
_INK = "#1d2329"
_BAR = 0.32  # inches a bar's row takes


def write_page(folder: Path) -> Path:
    """Write ``speed.html`` and the figures' files into a measurement's folder; return its path."""
    return write_files(folder / PAGE, *make_page(read_speed(folder)))


def read_speed(folder: Path) -> Row:
    """Read a folder's object; ResultsError says what is wrong with it."""
    file = folder / FILE
    try:
        found = read_json(file)
        lacking = [key for key in NEEDED if key not in found]
    except (OSError, ValueError, TypeError) as error:
        raise ResultsError(f"{file}: not a speed measurement ({error})") from None
    if lacking:
        raise ResultsError(f"{file}: not a speed measurement (it lacks {', '.join(lacking)})")
    return dict(found)


def make_page(found: Row) -> tuple[str, dict[str, bytes]]:
    """Return the page and the figures' files by name; equal objects give equal bytes."""
    files: dict[str, bytes] = {}
    tasks = [
        _task(task, [row for row in found["results"] if row["task"] == task], found, files)
        for task in dict.fromkeys(row["task"] for row in found["results"])
    ]
    troubles = [
        (name, state, reason)
        for state, reasons in (("not run", found["absent"]), ("failed", found["failed"]))
        for name, reason in reasons.items()
    ]
    page = (
        environment()
        .get_template("pages/speed.html.j2")
        .render(
            css=asset("report.css"),
            title=f"Speed on {found['dataset']}, preset {found['preset']}",
            facts=_facts(found),
            repeats=found["repeats"],
            tasks=tasks,
            doubling=_doubling(found["doubling"], files),
            troubles=troubles,
        )
    )
    return page, files


def _task(task: str, rows: Sequence[Row], found: Row, files: dict[str, bytes]) -> View:
    first = rows[0]
    far = task == "cw"
    header = ["library", "seconds", "least", "most", "× in-house", "× floor", "forwards"]
    header += ["backwards", *(["median distance", "× nearest"] if far else [])]
    body = []
    for row in rows:
        cells = [number(row[key], 2) for key in ("seconds", "seconds_min", "seconds_max")]
        cells += [_known(row[key], 2) for key in ("times_inhouse", "floor_ratio")]
        cells += [number(row[f"{way}_per_sample"], 1) for way in ("forwards", "backwards")]
        if far:
            cells += [_known(row[key], 3) for key in ("median_distance", "distance_ratio")]
        body.append((row["library"], cells))
    return {
        "id": task.replace("_", "-"),
        "title": f"{TITLES.get(task, task)} on {first['defense']}",
        "about": (
            f"{first['n']} images, of which {first['attacked']} are right without an attack and"
            f" were attacked; {NORM_WORDS.get(first['norm'], first['norm'])}; a bare forward and"
            f" backward pass took {1000 * found['floors'][task]:.3f} ms an image."
        ),
        "figure": shown(f"speed-{task}", bars(rows, TITLES.get(task, task)), files),
        "header": header,
        "rows": body,
        "libraries": [row["library"] for row in rows],
        "accuracies": [
            (eps, [number(row["robust_accuracy"].get(eps)) for row in rows])
            for eps in first["robust_accuracy"]
        ],
        "sentences": sentences(rows),
        "settings": [(row["library"], _words(row["settings"])) for row in rows],
    }


def bars(rows: Sequence[Row], title: str) -> Picture:
    """Draw a task's seconds, a bar per library, with its range and its floor."""
    with canvas((6.4, 1.2 + _BAR * len(rows))) as figure:
        axes = figure.add_subplot()
        axes.grid(visible=False)
        longest = max(row["seconds_max"] for row in rows)
        for i, row in enumerate(rows):
            ours = row["library"].startswith("inhouse")
            axes.barh(i, row["seconds"], height=0.62, color=_OURS if ours else _OTHERS)
            ends = [[row["seconds"] - row["seconds_min"]], [row["seconds_max"] - row["seconds"]]]
            axes.errorbar(row["seconds"], i, xerr=ends, color=_INK, linewidth=1, capsize=2)
            if row["floor_ratio"]:
                floor = row["seconds"] / row["floor_ratio"]
                longest = max(longest, floor)
                axes.plot([floor, floor], [i - 0.42, i + 0.42], color="#d55e00", linewidth=2)
            at = max(row["seconds_max"], row["seconds"] / (row["floor_ratio"] or 1))
            axes.annotate(_label(row), (at, i), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(rows)), [plain(row["library"], 24) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 1.35 * longest)
        axes.set_xlabel("seconds; the upright stroke is the floor")
        axes.set_title(plain(title, 60), loc="left")
        svg, png = render(figure)
    told = "; ".join(f"{row['library']} {_label(row)}" for row in rows)
    return Picture(svg, png, f"{title}, seconds per library: {told}.")


def _label(row: Row) -> str:
    times = row["times_inhouse"]
    slower = "" if times is None or row["library"] == "inhouse" else f", {times:.2g}×"
    return f"{row['seconds']:.3g} s{slower}"


def _doubling(rows: Sequence[Row], files: dict[str, bytes]) -> View | None:
    """Return what the in-house sweep costs as its levels double; None where it did not run."""
    if not rows:
        return None
    peak = any(row["peak_memory"] for row in rows)
    header = ["levels", "seconds", "least", "most", "forwards", "backwards"]
    body = []
    for row in rows:
        cells = [number(row[key], 2) for key in ("seconds", "seconds_min", "seconds_max")]
        cells += [number(row[f"{way}_per_sample"], 1) for way in ("forwards", "backwards")]
        if peak:
            cells.append("–" if not row["peak_memory"] else f"{row['peak_memory'] / 1e6:.1f}")
        body.append((str(row["levels"]), cells))
    return {
        "figure": shown("speed-doubling", growth(rows), files),
        "header": [*header, "peak memory, MB"] if peak else header,
        "rows": body,
    }


def growth(rows: Sequence[Row]) -> Picture:
    """Draw the passes per image against the levels, beside growth in proportion."""
    levels = [row["levels"] for row in rows]
    passes = [row["backwards_per_sample"] for row in rows]
    straight = [passes[0] * level / levels[0] for level in levels]
    with canvas((5.2, 3.4)) as figure:
        axes = figure.add_subplot()
        axes.plot(levels, straight, color="#6b7580", linestyle="--", label="in proportion")
        axes.plot(levels, passes, color=_OURS, marker="o", label="measured")
        axes.set_xticks(levels)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("levels of eps")
        axes.set_ylabel("backward passes per image")
        axes.set_title("The in-house sweep over more levels", loc="left")
        axes.legend(frameon=False)
        svg, png = render(figure)
    told = ", ".join(f"{n:.1f} at {level}" for level, n in zip(levels, passes, strict=True))
    return Picture(svg, png, f"Backward passes per image of the in-house sweep by levels: {told}.")


def _known(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in sorted(settings.items())) or "defaults"


def _facts(found: Row) -> list[tuple[str, str]]:
    origin, device = found["provenance"], found["device"]
    words = [device.get("name"), device.get("type")]
    if device.get("threads"):
        words.append(f"{device['threads']} threads")
    return [
        ("Device", ", ".join(str(word) for word in words if word) or "not recorded"),
        ("Started", str(origin.get("started") or "not recorded")),
        ("Turns", str(found["repeats"])),
        ("Versions", ", ".join(f"{k} {v}" for k, v in sorted(found["versions"].items()))),
        ("Git", str(origin.get("git_sha") or "not recorded")),
        ("Command", str(origin.get("command") or "not recorded")),
    ]
