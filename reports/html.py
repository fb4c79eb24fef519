"""One self-contained HTML page about one run or several, with its figures and tables beside it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from benchmark.crosscheck.results import is_crosscheck, read_crosscheck
from benchmark.errors import UsageError
from benchmark.hashing import digest
from benchmark.io.paths import own_folder, real
from benchmark.results.audit_tables import read_audit
from benchmark.results.run import Run, read_run
from reports.figures import curves, interactive
from reports.pages import crosscheck
from reports.pages.page_files import write_files
from reports.paper.dimension import DimensionResult, is_dimension, read_dimension
from reports.paper.measured import paper_tables
from reports.section import RunContext, Section, SectionMaker, SharedMaker, View, slug
from reports.sections import (
    accuracy,
    attack_pictures,
    audit,
    compare,
    compare_runs,
    cost,
    embedding_map,
    libraries,
    models,
    reasons,
    settings,
    training,
    trust,
    worst_case,
)
from reports.sections.paper import paper_section
from reports.tables import grid
from reports.templating import asset, environment

SECTIONS: tuple[SectionMaker, ...] = (
    trust.make,
    audit.make,
    accuracy.make,
    libraries.make,
    worst_case.make,
    compare.make,
    reasons.make,
    attack_pictures.make,
    cost.make,
    models.make,
    training.make,
    embedding_map.make,
    settings.make,
)
"""What the page says about a run, in its order."""

SHARED: tuple[SharedMaker, ...] = (trust.overview, compare_runs.make)
"""What it says about all runs together, before the single ones."""

SHARED_ID = "runs"


def write_report(run_dirs: list[Path], out: Path | None = None) -> Path:
    """Write the report on ``run_dirs`` and return the path of its page.

    ``out`` is a folder, or a file that ends in ``.html``. Without it one run's report goes to
    ``report/`` within the run's folder, that of several to ``report-<hash of the runs>/`` within
    the first's, so that a folder of runs holds runs only. A folder that is no run, or is damaged,
    raises a ResultsError. Folders of ``dimension`` fill the paper's Table 3. Folders of
    cross-checks get their own page again, which the report links; where there is nothing else, that
    page is the report. What an earlier report wrote beside the same page, and this one does not, is
    deleted.
    """
    named = list({real(path): path for path in run_dirs}.values())
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
        name = digest(*(real(path).name for path in distinct))[:10]
        out = distinct[0] / f"report-{name}"
    if out.parent == distinct[0]:
        own_folder(out, distinct[0])  # the run may be a stranger's, and hold a link there
    page = out if out.suffix.lower() == ".html" else out / "report.html"
    links = [
        (crosscheck.title(read_crosscheck(path.parent)), _link(path, page.parent)) for path in pages
    ]
    return write_files(page, *render(runs, links, dimensions), clear=True)


def _link(page: Path, folder: Path) -> str:
    """Return the address of ``page`` as seen from ``folder``."""
    return quote(Path(os.path.relpath(real(page), real(folder))).as_posix())


def render(
    runs: Sequence[Run],
    crosschecks: Sequence[tuple[str, str]] = (),
    dimensions: Sequence[DimensionResult] = (),
) -> tuple[str, dict[str, bytes]]:
    """Return the page and the files beside it, by name; equal tables give equal bytes.

    ``crosschecks`` are (title, address) of pages to link.
    """
    files: dict[str, bytes] = {}
    contexts = _contexts(runs)
    shared = [section for make in SHARED if (section := make(contexts))]
    views = [
        {
            "id": context.id,
            "title": context.title,
            "notes": models.notes(models.ordered(context.run)),
            "sections": _shown(_sections(context), context.id, files),
        }
        for context in contexts
    ]
    paper, paper_data = _paper(runs, dimensions, list(contexts[0].styles if contexts else []))
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            css=asset("report.css"),
            scripts=interactive.scripts(),
            policy=interactive.policy(),
            switches=interactive.switches(contexts[0].styles if contexts else {}),
            shared={"id": SHARED_ID, "sections": _shown(shared, SHARED_ID, files)},
            runs=views,
            crosschecks=crosschecks,
            paper=paper,
        )
    )
    return page, {**files, **paper_data}


def _contexts(runs: Sequence[Run]) -> list[RunContext]:
    names = [defense.name for run in runs for defense in run.spec.defenses]
    names += [name for run in runs for name in sorted(set(run.cells["defense"]))]
    styles = curves.line_styles([*names, *(m.defense for run in runs for m in run.models)])
    contexts = []
    for i, run in enumerate(runs, 1):
        cells = grid.grid(run)
        rank = i if len(runs) > 1 else 0
        prefix = f"run{rank}-" if rank else ""
        pooled = grid.pool(cells, run.samples)
        contexts.append(
            RunContext(
                run,
                cells,
                pooled,
                styles,
                prefix,
                f"{prefix}{slug(run.run_id)}",
                rank,
                read_audit(run.path),
            )
        )
    return contexts


def _sections(context: RunContext) -> list[Section]:
    return [section for make in SECTIONS if (section := make(context))]


def _shown(sections: Sequence[Section], within: str, files: dict[str, bytes]) -> list[View]:
    """Render ``sections`` and collect their ``files``; ``within`` begins their ids in the page."""
    views = []
    for section in sections:
        files |= section.files
        template = environment().get_template(section.template)
        body = Markup(template.render(v=section.view, run_id_in_page=within))
        views.append({"id": f"{within}-{section.key}", "title": section.title, "body": body})
    return views


def _paper(
    runs: Sequence[Run], dimensions: Sequence[DimensionResult], defenses: Sequence[str]
) -> tuple[View | None, Mapping[str, bytes]]:
    section = paper_section(paper_tables(runs, dimensions), defenses)
    return (dict(section.view), section.files) if section else (None, {})
