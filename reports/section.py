"""A section of the page about one run: what it says, and the files that it puts beside the page.

A section is made by one function from a :class:`RunContext` and shown by the template beside it in
``sections/``. :data:`reports.html.SECTIONS` lists them in the order of the page: a new
one is a new module, its template and a line there.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from benchmark.results.audit_tables import AuditTables, no_audit
from benchmark.results.run import Run
from reports.figures.drawing import Picture

View = dict[str, Any]


@dataclass(frozen=True)
class RunContext:
    """What every section of one run starts from.

    ``cells`` is :func:`reports.tables.grid.grid`'s frame and ``pooled``
    :func:`reports.tables.grid.pool`'s. ``styles`` gives each defense its look over the whole
    report. File names begin with ``prefix`` (empty where the report is about one run) and ids in
    the page with ``id``. ``rank`` is the run's number where there are several, else 0. ``audit`` is
    what the run's audit left.
    """

    run: Run
    cells: pd.DataFrame
    pooled: pd.DataFrame
    styles: Mapping[str, Mapping[str, Any]]
    prefix: str
    id: str
    rank: int = 0
    audit: AuditTables = field(default_factory=no_audit)

    @property
    def title(self) -> str:
        """The run's number, if there are several, dataset, preset and study."""
        spec = self.run.spec
        number = f"Run {self.rank}: " if self.rank else ""
        study = f", study {spec.study}" if spec.study else ""
        return f"{number}{spec.dataset}, preset {spec.preset}{study}"


@dataclass(frozen=True)
class Section:
    """One section: ``template`` is rendered with ``view`` as ``v``, under the heading ``title``.

    ``template`` is a name below ``reports/``, such as ``sections/accuracy.html.j2``. ``key`` ends
    the section's id in the page. ``files`` maps names, relative to the page, to bytes.
    """

    key: str
    title: str
    template: str
    view: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)


def figure_section(
    key: str,
    title: str,
    figures: Mapping[str, tuple[Picture, str]],
    *,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    wide: bool = False,
) -> Section | None:
    """Return a section of ``figures`` with their captions, by file name; None without any.

    Paragraphs come ``before`` and ``after`` them. It needs no template of its own.
    """
    files: dict[str, bytes] = {}
    pairs = [(shown(name, picture, files), words) for name, (picture, words) in figures.items()]
    view = {"before": before, "figures": pairs, "after": after, "wide": wide}
    return Section(key, title, "sections/figures.html.j2", view, files) if pairs else None


SectionMaker = Callable[[RunContext], Section | None]
"""None where the run has nothing of the kind."""

SharedMaker = Callable[[Sequence[RunContext]], Section | None]
"""A section about all runs of a report; None where it says nothing."""


def slug(*words: str) -> str:
    """Return a name that every file system takes; a plugin may be called anything."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:60].strip("-")


def shown(name: str, picture: Picture, files: dict[str, bytes]) -> View:
    """Put ``picture`` into ``files`` as ``name.svg`` and ``name.png``; return its view.

    The view is what the ``picture`` macro of ``macros.html.j2`` takes.
    """
    files[f"{name}.svg"] = picture.svg
    files[f"{name}.png"] = picture.png
    data = base64.b64encode(picture.svg).decode()
    uri = f"data:image/svg+xml;base64,{data}"
    return {"file": name, "alt": picture.alt, "uri": uri, "chart": picture.chart}
