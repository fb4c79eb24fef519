"""``pytest --defense my_package:MyDefense``: what an author without a test file sees."""

import configparser
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from paths import ROOT

from benchmark.errors import UsageError
from benchmark.testing import items

PLUGINS = """
import numpy as np
import torch
from torch import nn

from benchmark import Defense, TrainingLog
from benchmark.attacks.pgd import PGD


class Good(Defense):
    def __init__(self, info, *, scale=1.0):
        super().__init__(info)
        self.scale = scale
        self.linear = nn.Linear(int(np.prod(info.shape)), info.n_classes)

    def forward(self, x):
        return self.scale * self.linear(x.flatten(1))

    def fit(self, data, *, seed, progress):
        return TrainingLog()


class Detached(Good):
    def surrogate(self, x):
        return self(x).detach()


class Raises(Good):
    def fit(self, data, *, seed, progress):
        raise ValueError("no such accelerator")


class Unsaid(Good):
    def forward(self, x):
        return super().forward((x * 8).round() / 8)

    def surrogate(self, x):
        return Good.forward(self, x)


class LeavesBall(PGD):
    def run(self, view, x, y, *, eps, generator):
        return (super().run(view, x, y, eps=eps, generator=generator) + 0.01).clamp(0, 1)
"""


@dataclass
class Seen:
    """What a run of pytest reported, by node id."""

    outcomes: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    code: int = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.outcomes[report.nodeid] = report.outcome
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            self.texts[report.nodeid] = str(reason or "")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.texts[report.nodeid] = str(report.longrepr)

    def pytest_warning_recorded(self, warning_message: object) -> None:
        self.warnings.append(str(warning_message.message))

    def of(self, outcome: str) -> set[str]:
        return {node for node, found in self.outcomes.items() if found == outcome}


Run = Callable[..., Seen]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest in a project of its own, in this process, with our plugin alone."""
    (tmp_path / "plugins_to_check.py").write_text(PLUGINS, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def go(*words: str) -> Seen:
        seen = Seen()
        with monkeypatch.context() as patch:
            for name in ("plugins_to_check", "test_own", "conftest"):
                patch.delitem(sys.modules, name, raising=False)
            patch.setattr(sys, "dont_write_bytecode", True)
            quiet = ("-p", "no:cacheprovider", "-p", "defensebench_pytest", "-q", "--capture=no")
            seen.code = int(pytest.main([*quiet, *words], plugins=[seen]))
        return seen

    return go


def test_each_check_is_a_test_and_no_file_is_needed(run: Run) -> None:
    seen = run("--defense", "plugins_to_check:Good")
    assert seen.code == 0
    assert len(seen.of("passed")) > 8
    assert seen.of("skipped") == {"defense plugins_to_check:Good::embed"}
    assert seen.texts["defense plugins_to_check:Good::embed"] == "Skipped: Good has no embeddings"
    assert all(node.startswith("defense plugins_to_check:Good::") for node in seen.outcomes)


def test_failures_are_the_rules_sentences(run: Run) -> None:
    seen = run(
        *("--defense", "plugins_to_check:Detached", "--defense", "plugins_to_check:Raises"),
        *("--attack", "plugins_to_check:LeavesBall", "--attack-options", "steps=2"),
    )
    assert seen.code == 1
    detached = "defense plugins_to_check:Detached"
    assert seen.texts[f"{detached}::surrogate"] == (
        "Detached: surrogate must be differentiable; override it if forward is not"
    )
    assert seen.texts[f"{detached}::gradient"] == "Skipped: not checked: surrogate failed"
    raises = "defense plugins_to_check:Raises"
    (line,) = seen.texts[f"{raises}::fit"].splitlines()
    assert line.startswith("ValueError: no such accelerator (")
    assert "plugins_to_check.py, line " in line
    others = {text for node, text in seen.texts.items() if node.startswith(raises)} - {line}
    assert others == {"Skipped: not checked: fit failed"}
    assert "stay in the ball" in seen.texts["attack plugins_to_check:LeavesBall::eps-0"]


def test_a_finding_is_a_warning(run: Run) -> None:
    seen = run("--defense", "plugins_to_check:Unsaid", "-k", "gradient")
    assert seen.code == 0
    (said,) = [text for text in seen.warnings if text.startswith("Unsaid: ")]
    assert "differentiable = False" in said


def test_options_reach_the_plugin(run: Run) -> None:
    words = ("--defense", "plugins_to_check:Good", "-k", "forward")
    assert run(*words, "--defense-options", "scale=2.0", "--defense-images=colour").code == 0
    seen = run(*words, "--defense-options", "size=2")
    assert seen.code == 0  # the checks after fit are left out, with the reason
    assert set(seen.outcomes.values()) == {"skipped"}
    seen = run("--defense", "plugins_to_check:Good", "-k", "fit", "--defense-options", "size=2")
    assert seen.code == 1
    assert "TypeError: Good.__init__() got an unexpected keyword argument 'size'" in (
        seen.texts.values()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--defense", "plugins_to_check:Nothing"), "plugins_to_check has no 'Nothing'"),
        (("--defense", "madri"), "did you mean 'madry'?"),
        (("--defense", "plugins_to_check:PGD"), "is not a subclass of benchmark.Defense"),
        (("--attack", "plugins_to_check:Good"), "is not a subclass of BudgetAttack"),
        (("--attack", "pgd", "--attack-options", "stepz=2"), "stepz"),
        (("--dataset", "plugins_to_check:Good"), "is not a benchmark.datasets.DatasetSource"),
        (("--defense", "madry", "--defense-images", "green"), "did you mean 'grey'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_name_is_one_line(run: Run, words: tuple[str, ...], said: str) -> None:
    seen = run(*words)
    assert seen.code == 2
    (text,) = seen.texts.values()
    assert said in text
    assert "\n" not in text.strip()


def test_tests_that_are_named_run_as_well(run: Run) -> None:
    words = ("--dataset", "digits", "-k", "description or own")
    assert run(*words).of("passed") == {"dataset digits::description"}
    assert run(*words, "test_own.py").of("passed") == {
        "dataset digits::description",
        "test_own.py::test_own",
    }


def test_options_in_the_projects_settings_add_to_its_tests(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --dataset=digits\n", "utf-8")
    assert run("-k", "description or own").of("passed") == {
        "dataset digits::description",
        "test_own.py::test_own",
    }


def test_a_projects_own_option_of_the_same_name_counts(run: Run, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--dataset', choices=('cifar',))\n"
        "    parser.addoption('--attack', action='store_true')\n",
        "utf-8",
    )
    (tmp_path / "test_own.py").write_text(
        "def test_own(pytestconfig): assert pytestconfig.getoption('dataset') == 'cifar'\n", "utf-8"
    )
    seen = run("--dataset=cifar", "--attack")
    assert seen.code == 0
    assert seen.of("passed") == {"test_own.py::test_own"}


def test_keywords() -> None:
    assert items.keywords("--defense-options", ["a=1,b=[1, 2]", "c=word"]) == {
        "a": 1,
        "b": [1, 2],
        "c": "word",
    }
    with pytest.raises(UsageError, match="write it as key=value"):
        items.keywords("--defense-options", ["alone"])


def test_nothing_is_loaded_until_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test_loaded.py").write_text(
        "import sys\n"
        "def test_loaded():\n"
        "    assert 'defensebench_pytest' in sys.modules\n"
        "    assert not {'benchmark', 'torch', 'numpy', 'pandas'} & set(sys.modules)\n",
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "defensebench_pytest", "--strict-config"],
        cwd=tmp_path,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_registered_under_its_own_name() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    # -p and the entry point may then both name it.
    points = config["options.entry_points"]["pytest11"].split()
    assert points == ["defensebench_pytest", "=", "defensebench_pytest"]
    assert config["options"]["py_modules"] == "defensebench_pytest"
