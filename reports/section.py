"""A section of the page about one run: what it says, and the files that it puts beside the page.

A section is made by one function from a :class:`RunContext` and shown by one template of
``templates/sections/``. :data:`reports.html.SECTIONS` lists them in the order of the page: a new
one is a new module, its template and a line there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from benchmark.results import Run


@dataclass(frozen=True)
class RunContext:
    """What every section of one run starts from.

    ``cells`` is :func:`reports.tables.grid`'s frame and ``pooled`` :func:`reports.tables.pool`'s.
    ``styles`` gives each defense its look over the whole report. File names begin with ``prefix``
    (empty where the report is about one run) and ids in the page with ``id``.
    """

    run: Run
    cells: pd.DataFrame
    pooled: pd.DataFrame
    styles: Mapping[str, Mapping[str, Any]]
    prefix: str
    id: str


@dataclass(frozen=True)
class Section:
    """One section: ``template`` is rendered with ``view`` as ``v``, under the heading ``title``.

    ``key`` ends its id in the page. ``files`` maps names, relative to the page, to bytes.
    """

    key: str
    title: str
    template: str
    view: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)


SectionMaker = Callable[[RunContext], Section | None]
"""None where the run has nothing of the kind."""
