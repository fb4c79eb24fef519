"""A run's code map: kept beside the tables, made once, and no cell's loss where it fails."""

from dataclasses import replace

import pytest

from benchmark.config.spec import AttackSpec, CodeMapSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.evaluation import embedding_map
from benchmark.execution import runner
from benchmark.progress import Progress
from benchmark.results.embedding_points import read_codes

PGD = AttackSpec("pgd", ThreatModel("linf", (0.1,)), 30, params={"steps": 2})
MAPPED = RunSpec(
    dataset="digits",
    preset="smoke",
    n_train=100,
    n_test=40,
    seeds=(0,),
    device="cpu",
    defenses=(DefenseSpec("toys:Tiny"), DefenseSpec("toys:Coded")),
    attacks=(PGD,),
    code_map=CodeMapSpec(("toys:Coded",), PGD),
)


@pytest.fixture
def go(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))

    def run(spec=MAPPED):
        return runner.run(spec, out=tmp_path, command="", progress=Progress())

    return run


def test_the_code_map_is_kept_beside_the_tables_and_made_once(go, monkeypatch):
    points = read_codes(go().path)
    assert set(points["defense"]) == {"toys:Coded"}
    assert points.groupby("condition").size().to_dict() == {"attacked": 30, "clean": 30}
    monkeypatch.setattr(runner, "embedding_map", None)
    assert go().was_complete


def test_a_code_map_that_fails_costs_no_cell_and_is_tried_again(go, monkeypatch):
    def broken(codes, seed):
        raise RuntimeError("no plane")

    with monkeypatch.context() as patch:
        patch.setattr(embedding_map, "place", broken)
        result = go()
    assert result.n_failed == 0
    assert read_codes(result.path).empty
    (trace,) = (result.path / "errors").iterdir()
    assert "no plane" in trace.read_text()
    assert not go().was_complete
    assert len(read_codes(result.path)) == 60


def test_without_a_code_map_nothing_is_kept(go):
    assert read_codes(go(replace(MAPPED, code_map=None)).path).empty
