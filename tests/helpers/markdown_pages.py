"""The project's Markdown pages as tests read them, and packages made of their examples."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


class Block(NamedTuple):
    """A fenced block: its language, the file that it names after it ("" if none), its text."""

    language: str
    file: str
    text: str


def blocks(markdown: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found = re.findall(r"^```(\w*) ?(\S*)\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found]


def section(markdown: str, heading: str) -> str:
    """Return what stands below ``heading`` up to the next heading of its level or above."""
    level = len(heading.partition(" ")[0])
    found: list[str] = []
    inside = fenced = False
    for line in markdown.splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if not fenced and re.match(f"#{{1,{level}}} ", line):
            inside = line.strip() == heading
        elif inside:
            found.append(line)
    assert found, heading
    return "".join(found)


def install(folder: Path, name: str, groups: Mapping[str, Mapping[str, str]]) -> None:
    """Write what an installer writes: a distribution's metadata, with its entry points."""
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n", "utf-8")
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")
