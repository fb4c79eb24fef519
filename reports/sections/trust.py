"""How far a run is to be trusted: what was run, what came of it, where it departs from the paper.

The first thing that the page says about a run, and about several runs, a row each.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.config.spec import INHOUSE, RunSpec
from benchmark.datasets.duplicates import EXPLAINED, repeats_sentence
from benchmark.results.row_keys import number_groups
from benchmark.results.run import Run
from benchmark.results.schema import CELL_KEY
from reports.analysis.options import listed, mapping
from reports.paper.departures import SOURCES, departures
from reports.paper.protocol import PRESET, Deviation, deviations, unknown_dataset
from reports.section import RunContext, Section, View
from reports.tables.grid import STATUS_WORDS, is_number, span

UNKNOWN = "not recorded"

HEADLINES = (
    *("defense", "attack", "training images", "test images"),
    *("training.epochs", "width", "steps"),
)
"""The settings that decide most: those that differ are read without unfolding."""

SHOWN = 3
"""At most this many reasons are read without unfolding."""


def make(context: RunContext) -> Section:
    """Return the section at the top of the run."""
    run, spec = context.run, context.run.spec
    counts = _counts(context.cells)
    differences = [_deviation(d, spec) for d in deviations(spec)] if spec.trains else []
    view = {
        "counts": [(word, STATUS_WORDS[word], counts[word]) for word in STATUS_WORDS],
        "warnings": [*filter(None, [_verdict(counts).words]), *_oddities(run)],
        "repeats": _repeats(run),
        "explained": EXPLAINED,
        "facts": _facts(run, context.cells),
        "origin": _origin(run, context.cells),
        "reasons": _reasons(context.cells),
        "shown": SHOWN,
        "is_papers": spec.trains,
        "preset": PRESET,
        "dataset": unknown_dataset(spec.dataset) if spec.trains else "",
        "headlines": _headlines(differences),
        "deviations": differences,
        "departures": departures(spec) if spec.trains else [],
        "sources": SOURCES,
        "open": _left_open(spec),
    }
    return Section("trust", "What was run", "sections/trust.html.j2", view)


def overview(contexts: Sequence[RunContext]) -> Section | None:
    """Return a row per run, where there are several."""
    if len(contexts) < 2:
        return None
    rows = []
    for context in contexts:
        spec, counts = context.run.spec, _counts(context.cells)
        rows.append(
            {
                "id": context.id,
                "title": context.title,
                "n": span(_images(context.cells, spec)) or "none",
                "seeds": listed(spec.seeds),
                "device": _device(context.run, context.cells),
                "counts": [(word, counts[word]) for word in STATUS_WORDS],
                "deviations": len(deviations(spec)),
                "verdict": _verdict(counts).short,
                "odd": list(_oddities(context.run)),
            }
        )
    view = {"runs": rows, "words": list(STATUS_WORDS.values())}
    return Section("overview", "Overview", "sections/overview.html.j2", view)


# --- what came of it ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """How far a run is to be trusted as a whole: for a table, and in a sentence if need be."""

    short: str
    words: str = ""


def _counts(cells: pd.DataFrame) -> dict[str, int]:
    return {word: int((cells["status"] == word).sum()) for word in STATUS_WORDS}


def _verdict(counts: Mapping[str, int]) -> Verdict:
    total = sum(counts.values())
    if counts["missing"] == total:
        words = "This run has no results yet: none of its cells was run."
        return Verdict("no results yet", words)
    if not counts["ok"]:
        words = "No cell of this run ended well: there is no number to report, only reasons."
        return Verdict("no cell ended well", words)
    if counts["missing"]:
        return Verdict("unfinished", "This run is unfinished: the same command continues it.")
    if counts["failed"]:
        words = "Some cells failed: the tables say so, and the reasons are below."
        return Verdict("some cells failed", words)
    return Verdict("complete")


def _reasons(cells: pd.DataFrame) -> list[View]:
    """Return each distinct reason why cells have no result once, with the number of cells."""
    lacking = cells[cells["status"] != "ok"]
    found = Counter(zip(lacking["status"], lacking["reason"], strict=True))
    order = list(STATUS_WORDS)
    rows = sorted(found.items(), key=lambda item: (order.index(item[0][0]), -item[1]))
    return [
        {"class": status, "status": STATUS_WORDS[status], "reason": reason, "cells": count}
        for (status, reason), count in rows
    ]


def _oddities(run: Run) -> Iterator[str]:
    """Name what in the folder does not belong together."""
    spec = run.spec
    asked = {
        (spec.dataset, defense.name, attack.name, attack.library, attack.threat.norm)
        for attack in spec.attacks
        for defense in spec.defenses
    }
    own = run.cells[CELL_KEY[:5]].itertuples(index=False, name=None)
    others = sum(tuple(key) not in asked for key in own)
    if others:
        yield (
            f"{others} of {len(run.cells)} cells in this folder are of attacks or defenses that its"
            " spec does not name; they are shown with the others."
        )
    strangers = sorted({str(name) for name in run.samples["run_id"].unique()} - {spec.run_id})
    if strangers:
        yield f"The samples in this folder are of another run ({', '.join(strangers)})."
    ok = run.cells[run.cells["status"] == "ok"]
    bare = len(ok) - len(number_groups(run.samples, CELL_KEY)[1])
    if bare > 0:
        yield f"{bare} cells have a result and no samples: nothing can be checked image by image."


def _repeats(run: Run) -> str:
    """Say which images appear twice, if a run's origin tells of any."""
    counts = mapping(mapping(run.provenance).get("dataset")).get("repeats")
    said = repeats_sentence(counts, run.spec.n_train, run.spec.n_test)
    return f"{said[0].upper()}{said[1:]}." if said else ""


# --- the facts -----------------------------------------------------------------------------------


def _facts(run: Run, cells: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what everybody needs to know as (label, words); what was not recorded says so."""
    spec = run.spec
    dataset = mapping(mapping(run.provenance).get("dataset"))
    seconds = float(cells["seconds"].fillna(0).sum())
    training = sum(m.train_seconds for m in run.models if is_number(m.train_seconds))
    images = f"{_of(spec.n_test, dataset.get('n_test_available'))} for testing"
    times = f"{_duration(seconds)} attacking"
    if spec.trains:
        images = f"{_of(spec.n_train, dataset.get('n_train_available'))} for training, {images}"
        times = f"{_duration(training)} training, {times}"
        setting = ("Preset", spec.preset + (f", study {spec.study}" if spec.study else ""))
    else:
        setting = ("Model", f"{spec.defenses[0].name}, handed over as it is")
    return [
        ("Dataset", f"{spec.dataset}, from {dataset.get('source') or UNKNOWN}"),
        ("Images", images),
        ("Attacked images per cell", _attacked(cells, spec)),
        setting,
        *([("Sweep", "every image from scratch at every eps")] if spec.exact else []),
        ("Seeds", listed(spec.seeds)),
        ("Device", _device(run, cells)),
        ("Time", times),
        ("Started", str(mapping(run.provenance).get("started") or UNKNOWN)),
    ]  # fmt: skip


def _origin(run: Run, cells: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what it takes to get the same numbers again."""
    origin = mapping(run.provenance)
    dataset = mapping(origin.get("dataset"))
    checksums = [
        f"{split} {dataset[f'{split}_checksum']}"
        for split in ("train", "test")
        if dataset.get(f"{split}_checksum")
    ]
    versions = _pairs(origin.get("versions")) or _recorded(cells, "versions")
    if origin.get("package_version") and "defensebench" not in versions:
        versions = ", ".join(filter(None, (f"defensebench {origin['package_version']}", versions)))
    return [
        ("Versions", versions or UNKNOWN),
        ("Git", str(origin.get("git_sha") or _recorded(cells, "git_sha") or UNKNOWN)),
        ("Checksums", ", ".join(checksums) or UNKNOWN),
        ("Run", run.spec.run_id),
        ("Command", str(origin.get("command") or UNKNOWN)),
    ]


def _images(cells: pd.DataFrame, spec: RunSpec) -> list[int]:
    """Return how many images the cells with a result attacked, else how many were asked for."""
    found = cells.loc[cells["status"] == "ok", "n"]
    return [int(n) for n in found] or [attack.n for attack in spec.attacks]


def _attacked(cells: pd.DataFrame, spec: RunSpec) -> str:
    """Return ``pgd 1000; cw 128; cw (art) 64``, as attacked or, without a result, as asked for."""
    words = []
    for attack in spec.attacks:
        mine = (cells["attack"] == attack.name) & (cells["library"] == attack.library)
        own = span(cells.loc[mine & (cells["status"] == "ok"), "n"]) or str(attack.n)
        library = "" if attack.library == INHOUSE else f" ({attack.library})"
        words.append(f"{attack.name}{library} {own}")
    return "; ".join(words) or "no attack"


def _device(run: Run, cells: pd.DataFrame) -> str:
    device = mapping(mapping(run.provenance).get("device"))
    words = [device.get("name"), device.get("type")]
    if device.get("threads"):
        words.append(f"{device['threads']} thread{'s' if device['threads'] != 1 else ''}")
    return ", ".join(str(w) for w in words if w) or _recorded(cells, "device") or UNKNOWN


def _pairs(value: Any) -> str:
    return ", ".join(f"{key} {word}" for key, word in sorted(mapping(value).items()))


def _recorded(cells: pd.DataFrame, column: str) -> str:
    values = cells.loc[cells["status"] != "missing", column].dropna()
    return "; ".join(sorted({str(value) for value in values if value}))


def _of(n: int, available: Any) -> str:
    return f"{n} of {available}" if is_number(available) else str(n)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# --- the paper's protocol --------------------------------------------------------------------


def _deviation(difference: Deviation, spec: RunSpec) -> View:
    everyone = {
        "every defense": [defense.name for defense in spec.defenses],
        "every attack": [attack.name for attack in spec.attacks],
    }
    subjects = ", ".join(difference.subjects)
    for word, names in everyone.items():
        if len(names) > 1 and list(difference.subjects) == names:
            subjects = word
    return {
        "what": subjects,
        "setting": difference.setting,
        "here": difference.here,
        "paper": difference.paper,
    }


def _headlines(differences: Sequence[View]) -> list[str]:
    """Return ``epochs 8 instead of 100 (every defense)`` for the settings that decide most."""
    words = []
    for setting in HEADLINES:
        for own in (own for own in differences if own["setting"] == setting):
            if setting in ("defense", "attack"):
                words.append(f"{own['here']}: {own['what']}")
                continue
            whose = "" if own["what"] == "run" else f" ({own['what']})"
            name = setting.removeprefix("training.")
            words.append(f"{name} {own['here']} instead of {own['paper']}{whose}")
    return words


def _left_open(spec: RunSpec) -> str:
    trainings = f"{len(spec.seeds)} training{'s' if len(spec.seeds) > 1 else ''} of each defense"
    return (
        f"The paper does not say how many trainings its numbers average, nor the device: here"
        f" {trainings}, on {spec.device}."
    )
