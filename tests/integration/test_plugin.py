"""The README's examples: a defense from list to report, weights that exist, images of one's own."""

import io
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from markdown_pages import blocks, install
from paths import ROOT
from PIL import Image
from torch import nn

from benchmark.testing import COLOUR, GREY, check_defense

README = (ROOT / "README.md").read_text("utf-8")

PLUGIN = "label-smoothing"
BROKEN = """raise RuntimeError("no such accelerator")\n"""


def texts(language: str) -> list[str]:
    return [block.text for block in blocks(README) if block.language == language]


def holding(words: str) -> str:
    """Return the only Python example of the README with these words."""
    (block,) = [block for block in texts("python") if words in block]
    return block


def example() -> str:
    return holding("LabelSmoothing(Defense):")


def entry_points() -> dict[str, str]:
    (block,) = [block for block in texts("toml") if "entry-points" in block]
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


def install_defenses(folder: Path, module: str, source: str, points: dict[str, str]) -> None:
    """Do what an installer does: one module, and metadata with the entry points."""
    (folder / f"{module}.py").write_text(source, "utf-8")
    install(folder, module, {"defensebench.defenses": points})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    plugins, work = tmp_path / "plugins", tmp_path / "work"
    plugins.mkdir()
    work.mkdir()
    install_defenses(plugins, "label_smoothing", example(), entry_points())
    return Site(plugins, work)


def test_readme_names_the_example_consistently() -> None:
    assert entry_points() == {PLUGIN: "label_smoothing:LabelSmoothing"}
    assert "from label_smoothing import LabelSmoothing" in holding("check_defense")


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

    script = holding("read_run")
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=site.work, capture_output=True, text=True, check=True
    )
    assert PLUGIN in shown.stdout


@pytest.mark.e2e
def test_broken_plugin_costs_its_own_cells_only(site: Site) -> None:
    install_defenses(site.plugins, "broken_plugin", BROKEN, {"broken": "broken_plugin:Broken"})
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
def test_weights_that_exist_run_without_training(site: Site) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
    torch.save(network.state_dict(), site.work / "weights.pt")
    (site.plugins / "my_model.py").write_text(holding("class MyModel"), "utf-8")
    done = site.run("my_model:MyModel")
    assert done.returncode == 0, done.stderr
    cells, _ = site.result()
    assert set(cells["status"]) == {"ok"}, list(cells["reason"])
    assert "7,850 parameters" in done.stderr


@pytest.mark.e2e
def test_images_of_ones_own_run_from_a_mirror(site: Site) -> None:
    (site.plugins / "shapes.py").write_text(holding("SHAPES"), "utf-8")
    mirror = site.work / "data" / "shapes"
    mirror.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, n in (("train", 40), ("test", 10)):
        labels = np.arange(n) % 2
        pixels = rng.integers(0, 128, (n, 32, 32, 3)) + 127 * labels[:, None, None, None]
        frame = pd.DataFrame({"image": [png(image) for image in pixels], "label": labels})
        frame.to_parquet(mirror / f"{split}.parquet")
    done = site.command(
        *("run", "--dataset", "shapes:SHAPES", "--data-dir", "data", "--preset", "smoke"),
        *("--defenses", PLUGIN, "--attacks", "pgd", "--eps", "0,0.1", "--device", "cpu"),
        *("--n-train", "40", "--n-test", "10"),
    )
    assert done.returncode == 0, done.stderr
    cells, _ = site.result()
    assert set(cells["dataset"]) == {"shapes:SHAPES"}
    assert set(cells["status"]) == {"ok"}, list(cells["reason"])


def png(pixels: np.ndarray) -> dict[str, bytes]:
    """An image as dataset hubs keep one in a column."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "png")
    return {"bytes": file.getvalue()}


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
