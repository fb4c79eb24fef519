"""The command line in a folder that holds plugins, and packages with the names of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from benchmark.plugins import restart

# What pip writes for the entry point.
SCRIPT = "import sys\nfrom benchmark.cli import main\nsys.exit(main())\n"

# An editable installation: a finder that is asked after the whole module path.
EDITABLE = f"""import runpy, sys
from importlib.machinery import PathFinder

class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("benchmark", "defenses", "baselines", "reports"):
            return PathFinder.find_spec(name, [{str(ROOT)!r}])

sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Editable)
"""
MODULE = 'runpy.run_module("benchmark", run_name="__main__", alter_sys=True)\n'

PLUGIN = "from baselines.undefended import Undefended as Mine\n"

NAMES = ("defenses", "baselines", "reports")
PACKAGES = [f"{name}/__init__.py" for name in NAMES]
MODULES = [f"{name}.py" for name in NAMES]
PAGES = [f"{name}/run.html" for name in NAMES]


class Folder:
    """The user's folder, and the console script elsewhere."""

    def __init__(self, path: Path) -> None:
        self.here, scripts = path / "here", path / "bin"
        self.here.mkdir()
        scripts.mkdir()
        self.script = scripts / "defensebench"
        self.script.write_text(SCRIPT)
        self.editable = scripts / "editable_script.py"
        self.editable.write_text(EDITABLE + SCRIPT)

    def write(self, name: str, text: str = "raise RuntimeError('imported')\n") -> None:
        path = self.here / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def command(self, way: str, *words: str) -> subprocess.CompletedProcess[str]:
        start = {
            "script": [str(self.script)],
            "module": ["-m", "benchmark"],
            "editable script": [str(self.editable)],
            "editable module": ["-c", EDITABLE + MODULE],
        }[way]
        path = "" if way.startswith("editable") else str(ROOT)
        return subprocess.run(
            [sys.executable, *start, *words],
            cwd=self.here,
            env={
                **os.environ,
                "PYTHONPATH": path,
                "BENCHMARK_CACHE_DIR": str(self.here.parent / "cache"),
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("way", "strangers"),
    [
        ("script", PACKAGES),
        ("module", PACKAGES),
        ("module", MODULES),
        ("editable script", PAGES),
        ("editable module", PAGES),
    ],
)
def test_our_packages_go_before_the_folders(folder: Folder, way: str, strangers: list[str]) -> None:
    for name in strangers:
        folder.write(name)
    done = folder.command(way, "report", "no_run_there")
    assert done.returncode == 2
    *said, error = done.stderr.splitlines()
    assert error.startswith("error: no_run_there")  # by reports.html, ours
    shown = [] if strangers is PAGES else [name.removesuffix("__init__.py") for name in strangers]
    assert [line.partition(" in this folder is not used: ")[0] for line in said] == shown


@pytest.mark.parametrize("name", ["benchmark.py", "benchmark/__init__.py"])
def test_the_script_works_beside_a_benchmark_of_the_users(folder: Folder, name: str) -> None:
    folder.write(name)
    done = folder.command("script", "list", "presets")
    assert done.returncode == 0, done.stderr
    assert "smoke" in done.stdout
    assert done.stderr.startswith(f"{name.removesuffix('__init__.py')} in this folder is not used")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.e2e
@pytest.mark.parametrize("way", ["script", "module"])
def test_a_plugin_of_the_folder_is_found(folder: Folder, way: str) -> None:
    folder.write("my_defense.py", PLUGIN)
    folder.write("reports/__init__.py")
    run = ("run", "--dataset", "digits", "--preset", "smoke", "--attacks", "fgsm")
    size = ("--n-train", "100", "--n-test", "10", "--eps", "0.1", "--audit", "off")
    done = folder.command(way, *run, *size, "--defenses", "my_defense:Mine")
    assert done.returncode == 0, done.stderr
    assert "report: runs/" in done.stderr


def test_a_plugin_under_a_name_of_ours_is_told_to_move(folder: Folder) -> None:
    folder.write("reports/mine.py", PLUGIN)
    run = ("run", "--dataset", "digits", "--preset", "smoke")
    done = folder.command("script", *run, "--defenses", "reports.mine:Mine")
    assert done.returncode == 2
    assert "reports is defensebench's own package, rename yours" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_installed_module_goes_before_the_folders_own(folder: Folder) -> None:
    folder.write("torch.py")
    assert folder.command("script", "run", "--dataset", "no_such").returncode == 2


def test_the_script_may_begin_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(folder.script)])
    assert restart.can_restart() == (os.name == "posix")


def test_a_folder_that_is_gone_does_no_harm(folder: Folder) -> None:
    code = f"import os; os.rmdir({str(folder.here)!r})\n{SCRIPT}"
    folder.script.write_text(code)
    done = folder.command("script", "list", "presets")
    assert done.returncode == 0, done.stderr
