"""A defense is one file and one entry-point line: the README's example, from list to report."""

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from paths import ROOT

from benchmark.testing import COLOUR, GREY, check_defense

README = (ROOT / "README.md").read_text("utf-8")

PLUGIN = "label-smoothing"
BROKEN = """raise RuntimeError("no such accelerator")\n"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def example() -> str:
    (block,) = [block for block in blocks("python") if "(Defense):" in block]
    return block


def entry_points() -> dict[str, str]:
    (block,) = blocks("toml")
    (group,) = tomllib.loads(block)["project"]["entry-points"].items()
    assert group[0] == "defensebench.defenses"
    return group[1]


@dataclass(frozen=True)
class Site:
    """A folder on the module path with installed plugins, and a folder for runs and caches."""

    plugins: Path
    work: Path

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, (str(self.plugins), os.environ.get("PYTHONPATH"))))
        return subprocess.run(
            [sys.executable, "-m", "benchmark", *words],
            cwd=self.work,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "BENCHMARK_CACHE_DIR": str(self.work / "cache"),
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def run(self, defenses: str) -> subprocess.CompletedProcess[str]:
        return self.command(
            *("run", "--dataset", "digits", "--preset", "smoke", "--defenses", defenses),
            *("--n-train", "200", "--n-test", "40", "--eps", "0,0.1", "--device", "cpu"),
            *("--attacks", "pgd"),
        )

    def result(self) -> tuple[pd.DataFrame, str]:
        """Return the cells of the only run and its report's page."""
        (folder,) = (self.work / "runs").iterdir()
        page = (folder / "report" / "report.html").read_text("utf-8")
        return pd.read_parquet(folder / "cells.parquet"), page


def install(folder: Path, name: str, module: str, source: str, points: dict[str, str]) -> None:
    """Do what an installer does: one module, and metadata with the entry points."""
    (folder / f"{module}.py").write_text(source, "utf-8")
    info = folder / f"{module}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n", "utf-8")
    lines = [f"{point} = {value}" for point, value in points.items()]
    text = "\n".join(["[defensebench.defenses]", *lines, ""])
    (info / "entry_points.txt").write_text(text, "utf-8")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    plugins, work = tmp_path / "plugins", tmp_path / "work"
    plugins.mkdir()
    work.mkdir()
    install(plugins, "smoothing", "label_smoothing", example(), entry_points())
    return Site(plugins, work)


def test_readme_names_the_example_consistently() -> None:
    assert entry_points() == {PLUGIN: "label_smoothing:LabelSmoothing"}
    (test,) = [block for block in blocks("python") if "check_defense" in block]
    assert "from label_smoothing import LabelSmoothing" in test


@pytest.mark.parametrize("info", [GREY, COLOUR], ids=lambda info: info.name)
def test_readme_example_conforms(site: Site, monkeypatch: pytest.MonkeyPatch, info: object) -> None:
    monkeypatch.syspath_prepend(site.plugins)
    import label_smoothing

    assert check_defense(label_smoothing.LabelSmoothing, info) == []


@pytest.mark.e2e
def test_plugin_is_listed_run_and_reported(site: Site) -> None:
    listed = site.command("list", "defenses", "--json")
    assert listed.returncode == 0, listed.stderr
    defenses = json.loads(listed.stdout)["defenses"]
    assert defenses[PLUGIN] == "label_smoothing:LabelSmoothing"
    assert set(defenses) >= {PLUGIN, "undefended", "madry", "e-cla", "ot-cla", "ot-cla-adv"}

    done = site.run(f"{PLUGIN},undefended")
    assert done.returncode == 0, done.stderr
    cells, page = site.result()
    assert set(zip(cells["defense"], cells["eps"], strict=True)) == {
        (name, eps) for name in (PLUGIN, "undefended") for eps in (0.0, 0.1)
    }
    assert set(cells["status"]) == {"ok"}
    assert set(cells["n"]) == {40}
    assert PLUGIN in page
    assert PLUGIN in done.stdout

    (script,) = [block for block in blocks("python") if "read_run" in block]
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=site.work, capture_output=True, text=True, check=True
    )
    assert PLUGIN in shown.stdout


@pytest.mark.e2e
def test_broken_plugin_costs_its_own_cells_only(site: Site) -> None:
    install(site.plugins, "broken", "broken_plugin", BROKEN, {"broken": "broken_plugin:Broken"})
    done = site.run(f"broken,{PLUGIN}")
    assert done.returncode == 1, done.stderr
    cells, page = site.result()
    broken, others = (group for _, group in cells.groupby(cells["defense"] != "broken"))
    assert set(broken["status"]) == {"failed"}
    assert len(broken) == 2
    assert broken["reason"].str.contains("no such accelerator").all()
    assert broken["robust_accuracy"].isna().all()
    assert set(others["status"]) == {"ok"}
    assert "no such accelerator" in page
    assert "no such accelerator" in done.stderr


@pytest.mark.e2e
def test_class_runs_by_its_path_without_an_entry_point(site: Site) -> None:
    (site.plugins / "loose.py").write_text(example(), "utf-8")
    done = site.run("loose:LabelSmoothing")
    assert done.returncode == 0, done.stderr
    cells, page = site.result()
    assert set(cells["defense"]) == {"loose:LabelSmoothing"}
    assert set(cells["status"]) == {"ok"}
    assert "loose:LabelSmoothing" in page


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("defenses", "message"),
    [
        ("label-smothing", "did you mean 'label-smoothing'?"),
        ("label_smoothing:Nothing", "label_smoothing has no 'Nothing'"),
        ("label_smoothing:train", "is not a subclass of benchmark.Defense"),
        ("no_such_module:Thing", "No module named 'no_such_module'"),
    ],
)
def test_a_wrong_name_is_one_line_and_exit_code_2(site: Site, defenses: str, message: str) -> None:
    done = site.run(defenses)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (site.work / "runs").exists()
