"""Tables as GitHub's Markdown: every name shows as it is written, whatever characters it holds."""

import re
from collections.abc import Sequence

from tabulate import tabulate

# ASCII punctuation that Markdown, GitHub's included, reads as markup inside a line; a backslash
# before it makes it literal (https://github.github.com/gfm/#backslash-escapes).
_MARKUP = re.compile(r"([\\`*_\[\]<>|~&$])")


def markdown_escape(text: str) -> str:
    """Return ``text`` on one line, so that Markdown shows it literally."""
    # Line breaks and tabs end a row or vanish; control characters have no glyph.
    line = "".join(c if c.isprintable() else " " for c in text)
    return _MARKUP.sub(r"\\\1", line)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with pipes, its cells escaped; it ends in a line break."""
    table = tabulate(
        [[markdown_escape(cell) for cell in row] for row in rows],
        [markdown_escape(name) for name in header],
        tablefmt="github",
        disable_numparse=True,  # 0.100 stays 0.100
    )
    return f"{table}\n"
