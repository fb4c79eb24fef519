"""A table of words: on the page, as Markdown and as LaTeX that may run over several pages."""

from collections.abc import Sequence
from dataclasses import dataclass

from reports.tables.writers import csv_text, latex_escape, latex_rows, markdown_table

WIDE = 8  # columns; more need smaller letters
LINE = 130  # characters that a page's line holds


@dataclass(frozen=True)
class TextTable:
    """Cells as they are read. The caption is above the table, on the page and in LaTeX."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table with pipes."""
        return markdown_table(self.header, self.rows)

    def latex(self) -> str:
        """Return a ``longtable`` with booktabs' rules."""
        head, *rows = latex_rows(
            [latex_escape(cell) for cell in line] for line in (self.header, *self.rows)
        ).split("\n")
        size = "footnotesize" if len(self.header) <= WIDE else "tiny"
        return "\n".join(
            [
                "% needs \\usepackage{booktabs,longtable}",
                f"{{\\{size}\\setlength{{\\tabcolsep}}{{3pt}}",
                f"\\begin{{longtable}}{{{self._columns()}}}",
                f"\\caption{{{latex_escape(self.caption)}}}\\\\",
                f"\\toprule\n{head}\n\\midrule\n\\endfirsthead",
                f"\\toprule\n{head}\n\\midrule\n\\endhead",
                "\\bottomrule\n\\endfoot",
                *rows,
                "\\end{longtable}}",
                "",
            ]
        )

    def csv(self) -> str:
        """Return the table as it reads, comma-separated."""
        return csv_text([self.header, *self.rows])

    def files(self, name: str) -> dict[str, bytes]:
        """Return ``name.md`` and ``name.tex``."""
        return {f"{name}.md": self.markdown().encode(), f"{name}.tex": self.latex().encode()}

    def _columns(self) -> str:
        """Columns of long texts break their lines."""
        longest = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        share = 0.9 / len(longest)
        broken = f"p{{{share:.2f}\\linewidth}}"
        return "".join("l" if n <= LINE // len(longest) else broken for n in longest)
