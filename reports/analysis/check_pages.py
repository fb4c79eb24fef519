"""The documentation's pages on the audit's checks, as the report quotes them."""

import re
import sysconfig
from functools import cache
from pathlib import Path

FOLDERS = (
    Path(__file__).resolve().parents[2] / "docs" / "checks",
    Path(sysconfig.get_path("data")) / "share" / "defensebench" / "checks",
)
"""Where the pages are: in a checkout, and where the distribution installs them."""

_HEADING = re.compile(r"^## +(.+)$", re.MULTILINE)
_MARKUP = re.compile(r"\[([^\]]+)\]\([^)]*\)|[`*]")


@cache
def explanation(check: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the sections of a check's page: (heading, paragraphs), as plain text.

    Empty for a check without a page, such as a plugin's.
    """
    name = f"{check}.md"
    page = next((path for folder in FOLDERS if (path := folder / name).is_file()), None)
    if page is None:
        return ()
    _, *parts = _HEADING.split(page.read_text("utf-8"))
    return tuple(
        (plain_text(heading), tuple(paragraphs(body)))
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
    )


def paragraphs(markdown: str) -> list[str]:
    """Return the paragraphs and list items of ``markdown``, each on one line, without markup."""
    blocks = re.split(r"\n\s*\n|\n(?=[-*] )", markdown.strip())
    return [text for block in blocks if (text := plain_text(block))]


def plain_text(markdown: str) -> str:
    """Return ``markdown`` on one line, without the marks of links, code and emphasis."""
    line = " ".join(re.sub(r"^[-*] ", "", markdown.strip()).split())
    return _MARKUP.sub(lambda found: found.group(1) or "", line)
