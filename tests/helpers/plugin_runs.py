"""Runs of one plugin after the other, each with a cache of its own."""

from pathlib import Path

import pandas as pd
import pytest

from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.execution import runner
from benchmark.progress import Progress
from benchmark.results import CELL_KEY

EPS = (0.0, 0.1, 0.2)


LONG = 1000.0


UNSTABLE = ["seconds", "versions", "git_sha"]


def attack(name: str, type: str = "", **params: object) -> AttackSpec:
    return AttackSpec(name, ThreatModel("linf", EPS), 20, type=type or name, params=params)


HONEST = attack("honest", "pgd", steps=3)


TINY = DefenseSpec("toys:Tiny")


SPEC = RunSpec(
    dataset="digits",
    preset="smoke",
    n_train=60,
    n_test=20,
    seeds=(0,),
    device="cpu",
    defenses=(TINY,),
    attacks=(HONEST,),
)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def go(spec: RunSpec, out: Path, limit: float = LONG) -> runner.RunResult:
    return runner.run(spec, out=out, command="", progress=Progress(), time_limit=limit)


def own(cells: pd.DataFrame, **which: str) -> pd.DataFrame:
    for column, value in which.items():
        cells = cells[cells[column] == value]
    return cells.drop(columns=UNSTABLE).sort_values(CELL_KEY, ignore_index=True)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, own_cache):
    """The honest cells where nobody else is in the run."""
    result = go(SPEC, tmp_path_factory.mktemp("untouched"))
    assert set(result.cells["status"]) == {"ok"}
    return own(result.cells)
