"""The table of checks in docs/checks/README.md, from the decorators and the checks' pages.

``python tests/helpers/check_table.py`` writes it again.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from paths import ROOT

from benchmark.audit.checks import CHECKS, Check

README = ROOT / "docs" / "checks" / "README.md"
HEAD = ("check", "level", "role", "doubts the gradient", "alarm", "source")
MARKS = "<!-- written by tests/helpers/check_table.py -->", "<!-- end -->"


def check_table(checks: Mapping[str, Check], folders: Sequence[Path]) -> str:
    """Return the Markdown table; each check's page is in the first of the ``folders`` with one."""
    rows = [HEAD, ["---"] * len(HEAD)]
    for name, check in checks.items():
        page = next(path for folder in folders if (path := folder / f"{name}.md").exists())
        facts = dict(re.findall(r"^- (alarm|source): (.+)$", page.read_text("utf-8"), re.MULTILINE))
        doubts = "yes" if check.doubts_gradient else "no"
        link = f"[{name}]({name}.md)"
        rows.append([link, check.level, check.role, doubts, facts["alarm"], facts["source"]])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(text: str) -> str:
    """Return the README's ``text`` with the table of today."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    table = check_table(CHECKS, [README.parent])
    return f"{before}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text("utf-8")), "utf-8")
