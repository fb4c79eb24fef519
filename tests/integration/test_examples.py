"""``examples/``: the plugin package as an author runs it, before and after it is installed."""

import os
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from markdown_pages import blocks
from paths import ROOT

import benchmark
from benchmark.registry import ATTACKS, DATASETS, DEFENSES
from benchmark.seeding import seeded

EXAMPLES = ROOT / "examples"
PLUGIN = EXAMPLES / "plugin"
PROJECT = tomllib.loads((PLUGIN / "pyproject.toml").read_text("utf-8"))["project"]
POINTS = PROJECT["entry-points"]
REGISTRIES = (DEFENSES, ATTACKS, DATASETS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the metadata that an installer makes of the package."""
    folder = tmp_path_factory.mktemp("site")
    build = "import setuptools; setuptools.setup()"
    subprocess.run(
        [sys.executable, "-c", build, "-q", "egg_info", "--egg-base", str(folder)],
        cwd=PLUGIN,
        check=True,
        capture_output=True,
    )
    return folder


def test_names_and_paths_load_the_same(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.syspath_prepend(site)
    assert {registry.group for registry in REGISTRIES} == set(POINTS)
    for registry in REGISTRIES:
        for name, value in POINTS[registry.group].items():
            assert name in registry.names()
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
def test_a_run_takes_them_by_name_and_by_path(site: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmark", "run", "--dataset", "three-or-five"),
            *("--defenses", "squeezed,example_defenses.trades:Trades"),
            *("--attacks", "pgd-bpda,example_defenses.momentum_fgsm:MomentumFGSM"),
            *("--preset", "smoke", "--n-train", "100", "--n-test", "16", "--eps", "0,0.1"),
            *("--device", "cpu", "--audit", "off"),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (PLUGIN, site, ROOT))),
            "BENCHMARK_CACHE_DIR": str(tmp_path / "cache"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    cells = pd.read_parquet(folder / "cells.parquet")
    status = cells.groupby(["defense", cells["attack"] == "pgd-bpda"])["status"].unique()
    # Each is attacked as its gradient allows. What is registered has its name, however asked for.
    assert {key: set(found) for key, found in status.items()} == {
        ("squeezed", True): {"ok"},
        ("squeezed", False): {"skipped"},
        ("trades", True): {"skipped"},
        ("trades", False): {"ok"},
    }


@pytest.mark.skipif(
    not hasattr(benchmark, "evaluate"), reason="benchmark.evaluate is not there yet"
)
def test_the_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cells in one process: a py:percent file is a Python script."""
    from matplotlib import pyplot

    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("agg")
    try:
        with seeded(0):
            told = runpy.run_path(str(EXAMPLES / "evaluate.py"), run_name="notebook")
        assert len(pyplot.get_fignums()) == 2
    finally:
        pyplot.close("all")
    evaluation, only_answers = told["evaluation"], told["only_answers"]
    assert evaluation.clean_accuracy > 0.9
    assert evaluation.accuracy(0.2) < 0.2
    assert len(told["fallen"]) > 0
    assert evaluation.verdict.word
    assert set(only_answers.skipped["attack"]) == {"standard"}
    for shown in (evaluation, only_answers):
        assert f"{shown.clean_accuracy:.2f}" in repr(shown)
        assert "<table" in shown._repr_html_()
    verdict, of_255, out_of_range, left_out = capsys.readouterr().out.splitlines()[:4]
    assert verdict.startswith(evaluation.verdict.word)
    assert "255" in of_255
    assert "[0, 1]" in out_of_range
    right, wrong = map(float, left_out.split(" or, left out, "))
    assert wrong < right
    assert list(tmp_path.iterdir()) == []  # without out= nothing is kept
