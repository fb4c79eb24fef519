"""What a run writes of a cell's attack and of why it has no result, apart from the prose."""

from dataclasses import replace

import pandas as pd
import pytest
from plugin_runs import HONEST, SPEC, attack, go, own_cache

from benchmark.config.spec import AttackSpec, DefenseSpec
from benchmark.config.threat import ThreatModel
from benchmark.plugins.time_limit import TimeLimitError
from benchmark.results import read_run
from benchmark.results.rows import failure_kind

__all__ = ["own_cache"]

CW = AttackSpec("nearest", ThreatModel("l2", (0.0, 1.0)), 4, type="cw", params={"steps": 2})
LATENT = AttackSpec("latent", ThreatModel("l2", (0.0, 1.0)), 4, type="latent-cw")
RAISES = attack("raises", "wrong_plugins:RaisesInRun")
ABSENT = attack("absent", "wrong_plugins:ThereIsNone")


def told(result, column):
    """Return what the cells above eps 0 say in a column, by attack; None where it is null."""
    for cells in (result.cells, read_run(result.path).cells):
        rows = cells[cells["eps"] > 0]
        found = {
            name: {None if pd.isna(value) else value for value in own[column]}
            for name, own in rows.groupby("attack")
        }
    return found


def test_a_run_tells_families_and_kinds(tmp_path):
    result = go(replace(SPEC, attacks=(HONEST, CW, LATENT, RAISES, ABSENT)), tmp_path)
    assert told(result, "attack_family") == {
        "honest": {"budget"},
        "nearest": {"minimal"},
        "latent": {"minimal"},
        "raises": {"budget"},
        "absent": {None},
    }
    assert told(result, "failure_kind") == {
        "honest": {None},
        "nearest": {None},
        "latent": {"skipped"},
        "raises": {"error"},
        "absent": {"error"},
    }


def test_a_training_that_fails_tells_the_kind_for_every_attack(tmp_path):
    hangs = DefenseSpec("wrong_plugins:HangsInFit")
    result = go(replace(SPEC, defenses=(hangs,), attacks=(HONEST, CW)), tmp_path)
    assert told(result, "failure_kind") == {"honest": {"time"}, "nearest": {"time"}}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("CUDA out of memory. Tried"), "memory"),
        (TimeLimitError("took longer"), "time"),
        (ValueError("took longer than 1 s (--time-limit)"), "error"),
    ],
)
def test_the_kind_is_that_of_the_exception_not_of_its_words(error, kind):
    assert failure_kind(error) == kind
