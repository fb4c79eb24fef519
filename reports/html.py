"""One self-contained HTML page about one run or several, with its figures and tables beside it."""

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from benchmark.code_points import read_codes
from benchmark.crosscheck.results import is_crosscheck, read_crosscheck
from benchmark.errors import UsageError
from benchmark.results import ModelRecord, Run, read_run, write_atomic
from benchmark.spec import DefenseSpec, RunSpec, digest
from reports import crosscheck, figures, tables, training
from reports.code_map import code_maps
from reports.dimension import DimensionResult, is_dimension, read_dimension
from reports.drawing import Picture
from reports.models import mapping, measured, model_rows, notes
from reports.paper import paper_tables
from reports.paper_view import paper_files, paper_view
from reports.reasons import reasons
from reports.studies import study_curves
from reports.tables import ATTACK_KEY, NORM_WORDS, STATUS_WORDS, is_number, span

View = dict[str, Any]
UNKNOWN = "not recorded"


def write_report(run_dirs: list[Path], out: Path | None = None) -> Path:
    """Write the report on ``run_dirs`` and return the path of its page.

    ``out`` is a folder, or a file that ends in ``.html``. Without it one run's report goes to
    ``report/`` within the run's folder, that of several to ``report-<hash of the runs>/`` within
    the first's, so that a folder of runs holds runs only. A folder that is no run, or is damaged,
    raises a ResultsError. Folders of ``dimension`` fill the paper's Table 3. Folders of
    cross-checks get their own page anew, which the report links; where there is nothing else, that
    page is the report.
    """
    named = list({path.resolve(): path for path in run_dirs}.values())
    if not named:
        raise UsageError("report: name at least one run folder")
    pages = [crosscheck.write_page(path) for path in named if is_crosscheck(path)]
    distinct = [path for path in named if not is_crosscheck(path)]
    if not distinct:
        return pages[-1]
    dimensions = [read_dimension(path) for path in distinct if is_dimension(path)]
    runs = [read_run(path) for path in distinct if not is_dimension(path)]
    if out is None and len(distinct) == 1:
        out = distinct[0] / "report"
    elif out is None:
        name = digest(*(path.resolve().name for path in distinct))[:10]
        out = distinct[0] / f"report-{name}"
    page = out if out.suffix.lower() == ".html" else out / "report.html"
    links = [
        (crosscheck.title(read_crosscheck(path.parent)), _link(path, page.parent)) for path in pages
    ]
    html, files = render(runs, links, dimensions)
    try:
        for name, data in files.items():
            write_atomic(page.parent / name, data)
        write_atomic(page, html.encode())
    except OSError as error:
        raise UsageError(f"report: cannot write to {page.parent} ({error.strerror})") from None
    return page


def _link(page: Path, folder: Path) -> str:
    """Return the address of ``page`` as seen from ``folder``."""
    return quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix())


def render(
    runs: Sequence[Run],
    crosschecks: Sequence[tuple[str, str]] = (),
    dimensions: Sequence[DimensionResult] = (),
) -> tuple[str, dict[str, bytes]]:
    """Return the page and the files beside it, by name; equal tables give equal bytes.

    ``crosschecks`` are (title, address) of pages to link.
    """
    names = [defense.name for run in runs for defense in run.spec.defenses]
    names += [name for run in runs for name in sorted(set(run.cells["defense"]))]
    styles = figures.line_styles([*names, *(m.defense for run in runs for m in run.models)])
    files: dict[str, bytes] = {}
    views = []
    for i, run in enumerate(runs, 1):
        prefix = f"run{i}-" if len(runs) > 1 else ""
        views.append(_run_view(run, styles, prefix, files))
    items = paper_tables(runs, dimensions)
    files |= paper_files(items)
    environment = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    css = environment.loader.get_source(environment, "report.css")[0]
    page = environment.get_template("report.html.j2")
    shown = {"runs": views, "crosschecks": crosschecks, "paper": paper_view(items)}
    return page.render(css=Markup(css), **shown), files


def _run_view(
    run: Run, styles: Mapping[str, Mapping[str, Any]], prefix: str, files: dict[str, bytes]
) -> View:
    cells = tables.grid(run)
    pooled = tables.pool(cells, run.samples)
    counts = {word: int((cells["status"] == word).sum()) for word in STATUS_WORDS}
    files[f"{prefix}accuracy.csv"] = tables.table_csv(pooled).encode()
    accuracy = tables.accuracy_tables(pooled)
    attacks = []
    for i, table in enumerate(accuracy, 1):
        name = f"{prefix}{i:02d}-{_slug(*(table.attack[key] for key in ATTACK_KEY))}"
        if table.rows:
            files[f"{name}.csv"] = table.csv().encode()
            files[f"{name}.tex"] = table.latex().encode()
        own = _rows_of(pooled, table.attack), _rows_of(cells, table.attack)
        picture = study_curves(*own, run.spec) if run.spec.study else None
        picture = picture or figures.security_curves(*own, styles)
        attacks.append({"table": table, "file": name, "figure": _figure(name, picture, files)})
    models = _ordered(run)
    curves = []
    for curve in training.CURVES:
        picture = training.training_curves(models, curve, styles, run.spec.dataset)
        figure = _figure(f"{prefix}training-{_slug(curve.key)}", picture, files)
        if figure:
            curves.append({"figure": figure, "caption": curve.caption})
    code_map = _figure(f"{prefix}codes", code_maps(read_codes(run.path)), files)
    return {
        "id": f"{prefix}{_slug(run.run_id)}",
        "prefix": prefix,
        "spec": run.spec,
        "title": _title(run.spec),
        "facts": _facts(run, cells),
        "counts": [(word, STATUS_WORDS[word], counts[word]) for word in STATUS_WORDS],
        "verdict": _verdict(counts),
        "attacks": attacks,
        "troubles": reasons(cells, run.spec, ok=False),
        "notices": reasons(cells, run.spec, ok=True),
        "notes": notes(models),
        "models": model_rows(models),
        "measured": measured(models),
        "training": curves,
        "code_map": code_map,
        "settings": [_attack_settings(attack) for attack in run.spec.attacks],
        "defenses": [
            {
                "name": defense.name,
                "asked": _options(defense.params),
                "used": _used(defense, run.models),
            }
            for defense in run.spec.defenses
        ],
    }


def _title(spec: RunSpec) -> str:
    study = f", study {spec.study}" if spec.study else ""
    return f"{spec.dataset}, preset {spec.preset}{study}"


def _rows_of(frame: pd.DataFrame, attack: Mapping[str, str]) -> pd.DataFrame:
    mask = pd.Series(True, index=frame.index)
    for key, value in attack.items():
        mask &= frame[key] == value
    return frame[mask]


def _slug(*words: str) -> str:
    """Return a name that every file system takes; a plugin may be called anything."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:60].strip("-")


def _figure(name: str, picture: Picture | None, files: dict[str, bytes]) -> View | None:
    if picture is None:
        return None
    files[f"{name}.svg"] = picture.svg
    files[f"{name}.png"] = picture.png
    data = base64.b64encode(picture.svg).decode()
    return {"file": name, "alt": picture.alt, "uri": f"data:image/svg+xml;base64,{data}"}


# --- where the numbers come from ---------------------------------------------------------------


def _facts(run: Run, cells: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the provenance as (label, words); what was not recorded says so."""
    spec = run.spec
    origin = mapping(run.provenance)
    dataset = mapping(origin.get("dataset"))
    device = mapping(origin.get("device"))
    checksums = [
        f"{split} {dataset[f'{split}_checksum']}"
        for split in ("train", "test")
        if dataset.get(f"{split}_checksum")
    ]
    words = [device.get("name"), device.get("type")]
    if device.get("threads"):
        words.append(f"{device['threads']} thread{'s' if device['threads'] != 1 else ''}")
    versions = _pairs(origin.get("versions")) or _recorded(cells, "versions")
    if origin.get("package_version") and "defensebench" not in versions:
        versions = ", ".join(filter(None, (f"defensebench {origin['package_version']}", versions)))
    seconds = float(cells["seconds"].fillna(0).sum())
    training = sum(m.train_seconds for m in run.models if is_number(m.train_seconds))
    return [
        ("Dataset", spec.dataset),
        ("Images", f"{_of(spec.n_train, dataset.get('n_train_available'))} for training, "
         f"{_of(spec.n_test, dataset.get('n_test_available'))} for testing"),
        ("Attacked", f"{span(attack.n for attack in spec.attacks) or 'no'} images per cell"),
        ("Seeds", _list(spec.seeds)),
        ("Device", ", ".join(str(w) for w in words if w) or _recorded(cells, "device") or UNKNOWN),
        ("Time", f"{_duration(training)} training, {_duration(seconds)} attacking"),
        ("Started", str(origin.get("started") or UNKNOWN)),
        ("Versions", versions or UNKNOWN),
        ("Git", str(origin.get("git_sha") or _recorded(cells, "git_sha") or UNKNOWN)),
        ("Source", str(dataset.get("source") or UNKNOWN)),
        ("Checksums", ", ".join(checksums) or UNKNOWN),
        ("Run", spec.run_id),
        ("Command", str(origin.get("command") or UNKNOWN)),
    ]  # fmt: skip


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


def _verdict(counts: Mapping[str, int]) -> str:
    """Say in a sentence how far the run is to be trusted as a whole."""
    total = sum(counts.values())
    if counts["missing"] == total:
        return "This run has no results yet: none of its cells was run."
    if not counts["ok"]:
        return "No cell of this run ended well: there is no number to report, only reasons."
    if counts["missing"]:
        return "This run is unfinished: the same command continues it."
    if counts["failed"]:
        return "Some cells failed: their place in the tables says so, and the reasons stand below."
    return ""


# --- settings ------------------------------------------------------------------------------------


def _ordered(run: Run) -> list[ModelRecord]:
    order = {defense.name: i for i, defense in enumerate(run.spec.defenses)}
    return sorted(run.models, key=lambda m: (order.get(m.defense, len(order)), m.defense, m.seed))


def _used(asked: DefenseSpec, models: Iterable[ModelRecord]) -> str:
    """Options as trained; one line where all seeds agree."""
    own = [model for model in models if model.defense == asked.name]
    words = list(dict.fromkeys(_options(model.options) for model in own))
    if words == [_options(asked.params)]:
        return "as asked for"
    return "; ".join(words) or "not trained yet"


def _attack_settings(attack: Any) -> View:
    return {
        "name": attack.name,
        "type": attack.type,
        "library": attack.library,
        "norm": NORM_WORDS.get(attack.threat.norm, attack.threat.norm),
        "eps": _list(attack.threat.eps),
        "n": attack.n,
        "eot": attack.eot,
        "bpda": "yes" if attack.bpda else "no",
        "params": _options(attack.params),
    }


def _options(params: Any) -> str:
    return ", ".join(_assignments(params)) or "defaults"


def _assignments(params: Any, within: str = "") -> Iterator[str]:
    """Yield ``key = value``, with ``outer.inner`` for what stands in a mapping."""
    for key, value in sorted(mapping(params).items()):
        name = f"{within}{key}"
        if isinstance(value, Mapping) and value:
            yield from _assignments(value, f"{name}.")
        else:
            yield f"{name} = {value if isinstance(value, str) else json.dumps(value)}"


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
