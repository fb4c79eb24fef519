"""One writer of tables, on tabulate: as CSV, as GitHub's Markdown and as LaTeX.

Every cell shows as it is written, whatever characters it holds: a defense may be called anything.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from tabulate import DataRow, Line, TableFormat, tabulate

Cells = Sequence[str]

# ASCII punctuation that Markdown, GitHub's included, reads as markup inside a line; a backslash
# before it makes it literal (https://github.github.com/gfm/#backslash-escapes).
_MARKUP = re.compile(r"([\\`*_\[\]<>|~&$])")

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "∞": r"$\infty$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "×": r"$\times$",
    "−": r"$-$",
    **{character: "\\" + character for character in "&%$#_{}"},
}

_ROW = DataRow("", " & ", r" \\")
_ROWS = TableFormat(None, None, None, None, _ROW, _ROW, 0, None)
"""Rows of LaTeX, without the rules."""

_BOOKTABS = _ROWS._replace(
    lineabove=Line(r"\toprule", "", "", ""),
    linebelowheader=Line(r"\midrule", "", "", ""),
    linebelow=Line(r"\bottomrule", "", "", ""),
)


def csv_text(lines: Iterable[Cells]) -> str:
    """Return ``lines``, a header among them or not, as comma-separated values."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def markdown_escape(text: str) -> str:
    """Return ``text`` on one line, so that Markdown shows it literally."""
    # Line breaks and tabs end a row or vanish; control characters have no glyph.
    line = "".join(c if c.isprintable() else " " for c in text)
    return _MARKUP.sub(r"\\\1", line)


def markdown_table(header: Cells, rows: Sequence[Cells]) -> str:
    """Return a table with pipes, its cells escaped; it ends in a line break."""
    table = tabulate(
        [[markdown_escape(cell) for cell in row] for row in rows],
        [markdown_escape(name) for name in header],
        tablefmt="github",
        disable_numparse=True,  # 0.100 stays 0.100
    )
    return f"{table}\n"


def latex_escape(text: str) -> str:
    """Return ``text`` so that LaTeX prints it; what its standard fonts lack becomes ``?``."""
    return "".join(_LATEX.get(c, c if c.isascii() and c.isprintable() else "?") for c in text)


def latex_rows(rows: Iterable[Cells]) -> str:
    """Return rows of LaTeX code, each ended by ``\\\\``, without rules."""
    return _tabulated(rows, (), _ROWS)


def latex_tabular(header: Cells, rows: Iterable[Cells], columns: str) -> str:
    """Return a ``tabular`` of LaTeX code with booktabs' rules; ``columns`` as in ``lcc``."""
    body = _tabulated(rows, header, _BOOKTABS)
    return f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n"


def _tabulated(rows: Iterable[Cells], header: Cells, form: TableFormat) -> str:
    # Braces: a line that starts with [ or * would be read as an option of the \\ before it.
    held = [[f"{{{first}}}", *others] for first, *others in rows]
    text: str = tabulate(held, header, tablefmt=form, disable_numparse=True, stralign=None)
    return text
