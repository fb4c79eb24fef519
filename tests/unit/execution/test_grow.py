"""A run that grows keeps its name and its old rows; wrong additions are one line."""

import json

import pandas as pd
import pytest
from tiny_runs import PRESET

from benchmark.config import presets
from benchmark.config.spec import RunSpec
from benchmark.errors import UsageError
from benchmark.execution.grow import Additions, grow, grown_since
from benchmark.execution.plan import plan
from benchmark.execution.runner import run
from benchmark.progress import Progress


def begin(tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "read_preset", lambda _: PRESET)
    asked = {"defenses": ["toys:Tiny"], "attacks": ["pgd"], "device": "cpu"}
    spec = plan(dataset="digits", preset="smoke", **asked)
    return spec, compute(spec, tmp_path).path


def compute(spec, out):
    return run(spec, out=out, command="test", progress=Progress(), audit=False)


def add(path, *texts, **options):
    return grow(path, Additions.parse(texts), progress=Progress(), **options)


def test_old_rows_stay_as_they_are(tmp_path, monkeypatch):
    spec, path = begin(tmp_path, monkeypatch)
    before = {t: pd.read_parquet(path / f"{t}.parquet") for t in ("cells", "samples")}
    grown = add(path, "defenses=toys:Coded", "attacks=pgd-l2", "seeds=1")
    assert grown.run_id == spec.run_id
    assert len(compute(grown, tmp_path).cells) == 2 * 2 * 2 * 2
    for table, old in before.items():
        now = pd.read_parquet(path / f"{table}.parquet")
        mine = (now["seed"] == 0) & (now["defense"] == "toys:Tiny") & (now["attack"] == "pgd")
        pd.testing.assert_frame_equal(now[mine].reset_index(drop=True), old)
    assert add(path, "seeds=1") == grown  # an interrupted command goes on
    assert grown_since(tmp_path, spec) == grown
    assert compute(grown, tmp_path).was_complete


def test_wrong_additions_are_refused(tmp_path, monkeypatch):
    _, path = begin(tmp_path, monkeypatch)
    for text, words in (
        ("defenses=toys:Tiny", "already"),
        ("attacks=pgd", "already"),
        ("seeds=0", "already"),
        ("seeds=x", "whole numbers"),
        ("eps=0.3", "would change old cells"),
        ("defences=rse", "did you mean 'defenses'"),
        ("defenses=mardy", "did you mean 'madry'"),
    ):
        with pytest.raises(UsageError, match=words):
            add(path, text)
    with pytest.raises(UsageError, match="other settings in this run"):
        add(path, "defenses=toys:Coded", changes={"training": {"epochs": 2}})


def test_a_grown_spec_that_was_changed_is_refused(tmp_path, monkeypatch):
    spec, _ = begin(tmp_path, monkeypatch)
    raw = json.loads(spec.grow(seeds=[1]).to_json())
    assert RunSpec.from_plain(raw).at_birth() == spec
    raw["seeds"], raw["grown"]["seeds"] = [0, 2], [2]
    with pytest.raises(UsageError, match="grown with"):
        RunSpec.from_plain(raw)
