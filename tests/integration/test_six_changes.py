"""docs/architecture.md says which files six changes touch: each is made in a copy of the tree.

The examples are the page's own. All are made at once, so that one tiny run shows them.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from markdown_pages import Block, blocks, install, section
from paths import ROOT

from benchmark.results import CELLS, write_table
from benchmark.results.audit_tables import read_findings

PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PACKAGES = ("benchmark", "defenses", "baselines", "reports")

CHANGES = {
    "defense": "### A defense",
    "attack": "### An attack",
    "dataset": "### A dataset",
    "check": "### A check of the audit",
    "figure": "### A figure of the report",
    "column": "### A column of a results table",
}
"""The headings of the page."""


def example(change: str) -> list[Block]:
    return blocks(section(PAGE, CHANGES[change]))


def make(change: list[Block], tree: Path) -> None:
    """Write the blocks of a change to ``tree``; entry points are left to :func:`install`."""
    for language, file, text in change:
        path = tree / file
        if language == "diff":
            lines = text.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] in " -")
            after = "".join(line[1:] for line in lines if line[0] in " +")
            old = path.read_text("utf-8")
            assert old.count(before) == 1, f"{file} does not hold once:\n{before}"
            path.write_text(old.replace(before, after), "utf-8")
        elif language != "toml":
            old = path.read_text("utf-8") + "\n\n" if path.exists() else ""
            path.write_text(old + text, "utf-8")


def entry_points(*changes: str) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    for change in changes:
        for block in example(change):
            if block.language == "toml":
                groups |= tomllib.loads(block.text)["project"]["entry-points"]
    return groups


@dataclass(frozen=True)
class Changed:
    """A copy of the tree with all the changes, and a run made with it."""

    tree: Path
    printed: str
    folder: Path

    def python(self, *words: str) -> str:
        return python(self.tree, *words)

    @property
    def page(self) -> str:
        return (self.folder / "report" / "report.html").read_text("utf-8")


def python(tree: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "BENCHMARK_CACHE_DIR": str(tree / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Changed:
    tree = tmp_path_factory.mktemp("tree")
    for name in (*PACKAGES, "docs/checks"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in CHANGES:
        make(example(name), tree)
    install(tree, "six-changes", entry_points(*CHANGES))
    printed = python(
        *(tree, "-m", "benchmark", "run", "--dataset", "dim-digits", "--preset", "smoke"),
        *("--defenses", "blurred", "--attacks", "noise,pgd", "--eps", "0,0.2"),
        *("--n-train", "60", "--n-test", "10", "--device", "cpu"),
    )
    (folder,) = (tree / "runs").iterdir()
    return Changed(tree, printed, folder)


# --- how many files ------------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_touches_two_files_at_most(change: str) -> None:
    files = {block.file for block in example(change)}
    assert 1 <= len(files) <= 2
    assert all(files)


# --- what comes of it ----------------------------------------------------------------------------


def test_plugins_are_found_by_their_entry_points(changed: Changed) -> None:
    listed = json.loads(changed.python("-m", "benchmark", "list", "--json"))
    assert listed["defenses"]["blurred"] == "my_defense:Blurred"
    assert listed["attacks"]["noise"] == "my_attack:Noise"
    assert listed["datasets"]["dim-digits"] == "my_data:DIM"


def test_defense_attack_and_dataset_run(changed: Changed) -> None:
    cells = pd.read_parquet(changed.folder / "cells.parquet")
    assert set(cells["dataset"]) == {"dim-digits"}
    assert set(cells["defense"]) == {"blurred"}
    found = set(zip(cells["attack"], cells["eps"], strict=True))
    assert found == {(attack, eps) for attack in ("noise", "pgd") for eps in (0.0, 0.2)}
    assert set(cells["status"]) == {"ok"}, list(cells["reason"])
    samples = pd.read_parquet(changed.folder / "samples.parquet")
    queries = samples.groupby("attack")["n_backward"].sum()
    assert queries["noise"] == 0
    assert queries["pgd"] > 0
    assert "blurred" in changed.printed


def test_a_check_is_asked_in_the_basic_audit_and_shown(changed: Changed) -> None:
    findings = read_findings(changed.folder)
    (own,) = findings[findings["check"] == "dark-images"].to_dict("records")
    assert (own["answer"], own["level"]) == ("pass", "basic")
    assert 0 < own["value"] < 0.5  # of images at half their brightness
    assert own["question"].startswith("Tell whether the images are so dark")
    assert "dark-images" in changed.page
    assert "The mean of all pixels." in changed.page


def test_a_figure_is_on_the_page_in_a_section_of_its_own(changed: Changed) -> None:
    assert 'alt="Images attacked, by attack"' in changed.page
    assert (changed.folder / "report" / "sizes.svg").stat().st_size > 0
    assert ">Images attacked</h" in changed.page


def test_a_column_is_written_and_a_table_without_it_is_still_read(
    changed: Changed, tmp_path: Path
) -> None:
    new = pd.read_parquet(changed.folder / "cells.parquet")
    (column,) = set(new.columns) - set(CELLS.names)
    samples = pd.read_parquet(changed.folder / "samples.parquet")
    counts: dict[tuple[str, float], int] = defaultdict(int)
    for row in samples.to_dict("records"):
        fooled = row["success"] and row["pred_clean"] == row["label"]
        counts[row["attack"], row["eps"]] += fooled
    assert {(row.attack, row.eps): row.fooled for row in new.itertuples()} == counts

    old = tmp_path / changed.folder.name
    shutil.copytree(changed.folder, old)
    write_table(old / "cells.parquet", new.drop(columns=column), CELLS)  # by the present version
    code = (
        "import sys, pathlib, json; from benchmark.results import read_run\n"
        f"tables = [read_run(pathlib.Path(path)).cells[{column!r}] for path in sys.argv[1:]]\n"
        "print(json.dumps([int(table.notna().sum()) for table in tables]))"
    )
    read = changed.python("-c", code, str(changed.folder), str(old))
    assert json.loads(read) == [len(new), 0]
