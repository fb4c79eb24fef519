"""``examples/``: the plugin package as an author runs it, before and after it is installed."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from markdown_pages import blocks, install
from paths import ROOT

from benchmark.registry import ATTACKS, DATASETS, DEFENSES

EXAMPLES = ROOT / "examples"
PLUGIN = EXAMPLES / "plugin"
PROJECT = tomllib.loads((PLUGIN / "pyproject.toml").read_text("utf-8"))["project"]
POINTS = PROJECT["entry-points"]
REGISTRIES = (DEFENSES, ATTACKS, DATASETS)

SMALL = ("--preset", "smoke", "--n-train", "100", "--n-test", "16", "--eps", "0,0.1")


def command(work: Path, *words: str, path: tuple[Path, ...] = (PLUGIN,)) -> str:
    """Run the command line in ``work`` with ``path`` on the module path; return what it printed."""
    paths = [*map(str, path), str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", *words],
        cwd=work,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "BENCHMARK_CACHE_DIR": str(work / "cache"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(work: Path) -> pd.DataFrame:
    """Return the cells of the only run in ``work``."""
    (folder,) = (work / "runs").iterdir()
    return pd.read_parquet(folder / "cells.parquet")


def test_every_entry_point_names_what_the_harness_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "defensebench_example", POINTS)
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    assert {registry.group for registry in REGISTRIES} == set(POINTS)
    for registry in REGISTRIES:
        for name, value in POINTS[registry.group].items():
            assert registry.load(name) is registry.load(value)


def test_the_readme_names_every_file_and_every_plugin() -> None:
    page = (PLUGIN / "README.md").read_text("utf-8")
    for path in (PLUGIN / "example_defenses").glob("[!_]*.py"):
        assert f"`example_defenses/{path.name}`" in page
    commands = "".join(block.text for block in blocks(page) if block.language == "console")
    for points in POINTS.values():
        for name in points:
            assert name in commands


@pytest.mark.e2e
def test_classes_run_by_their_paths(tmp_path: Path) -> None:
    defense, attack = "example_defenses.trades:Trades", "example_defenses.momentum_fgsm:MomentumFGSM"
    command(
        tmp_path,
        *("run", "--dataset", "digits", "--defenses", defense, "--attacks", attack, *SMALL),
        *("--device", "cpu", "--audit", "off"),
    )
    found = cells(tmp_path)
    assert set(found["status"]) == {"ok"}, list(found["reason"])
    assert set(found["defense"]) == {defense}
    assert set(found["eps"]) == {0.0, 0.1}


@pytest.mark.e2e
def test_names_run_once_the_package_is_installed(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    build = "import setuptools; setuptools.setup()"
    subprocess.run(
        [sys.executable, "-c", build, "-q", "egg_info", "--egg-base", str(site)],
        cwd=PLUGIN,
        check=True,
        capture_output=True,
    )
    path = (PLUGIN, site)
    listed = json.loads(command(tmp_path, "list", "--json", path=path))
    assert listed["defenses"].items() >= POINTS[DEFENSES.group].items()
    command(
        tmp_path,
        *("run", "--dataset", "three-or-five", "--defenses", "squeezed", *SMALL),
        *("--attacks", "pgd-bpda,momentum-fgsm", "--device", "cpu", "--audit", "off"),
        path=path,
    )
    found = cells(tmp_path).set_index(["attack", "eps"])
    assert set(found.loc["pgd-bpda", "status"]) == {"ok"}, list(found["reason"])
    assert set(found.loc["momentum-fgsm", "status"]) == {"skipped"}  # no gradient without BPDA
