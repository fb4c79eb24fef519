"""The time limit of a cell: what hangs fails alone, in Python and in C, and is tried again last."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pandas as pd
import pytest
import wrong_plugins
from paths import HELPERS, ROOT
from plugin_runs import HONEST, LONG, SPEC, TINY, attack, go, own
from processes import PATIENCE

from benchmark import cli
from benchmark.config.spec import DefenseSpec
from benchmark.errors import PluginError
from benchmark.execution import runner
from benchmark.plugins import restart
from benchmark.plugins.time_limit import MOST_SECONDS, paused, time_limit
from benchmark.results import read_run

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_limit_that_passes_at_one_eps_keeps_the_cells_before(tmp_path):
    late = attack("late", "wrong_plugins:HangsAtALargerEps")
    cells = own(go(replace(SPEC, attacks=(late, HONEST)), tmp_path).cells, attack="late")
    assert cells["status"].tolist() == ["ok", "ok", "failed"]
    assert cells["reason"][2] == "took longer than 0.01 s (--time-limit)"
    assert cells["failure_kind"].isna().tolist() == [True, True, False]
    assert cells["failure_kind"][2] == "time"


def test_the_limit_is_no_setting_of_the_run(tmp_path, untouched):
    first = go(SPEC, tmp_path, limit=0)
    assert go(SPEC, tmp_path, limit=LONG).was_complete
    pd.testing.assert_frame_equal(own(first.cells), untouched)


def test_what_took_too_long_is_tried_again_last(tmp_path, monkeypatch):
    slow = attack("slow", "wrong_plugins:Nothing")
    spec = replace(SPEC, attacks=(slow, HONEST))
    order: list[str] = []
    original = runner.load_attack

    def load(asked):
        order.append(asked.name)
        return original(asked)

    monkeypatch.setattr(runner, "load_attack", load)
    monkeypatch.setattr(wrong_plugins.Nothing, "change", lambda *_: wrong_plugins.hang())
    monkeypatch.setattr("benchmark.attacks.pgd.PGD.run", lambda *_, **__: 1 / 0)
    monkeypatch.setattr("benchmark.attacks.pgd.PGD.descend", lambda *_, **__: 1 / 0)
    assert go(spec, tmp_path).n_failed >= 4
    monkeypatch.undo()
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(runner, "load_attack", load)
    assert go(spec, tmp_path).n_failed == 0
    assert order == ["slow", "honest", "honest", "slow"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX has such timers")
def test_waiting_for_another_process_does_not_count():
    def hung(reason):
        raise AssertionError(reason)

    with time_limit(LONG, hung):
        signal.setitimer(signal.ITIMER_REAL, LONG / 2)  # as if half of it had passed
        with paused():
            assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        assert signal.getitimer(signal.ITIMER_REAL)[0] > LONG / 2  # anew
    with pytest.raises(PluginError, match="--time-limit"), time_limit(LONG, hung):
        wrong_plugins.hang()


def test_a_limit_off_the_main_thread_is_watched():
    """There no signal interrupts: the watching thread is told at once."""
    told = threading.Event()

    def hang():
        with time_limit(0.01, lambda _: told.set()):
            told.wait(PATIENCE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.plugins.time_limit.GRACE", 0.0)
        thread = threading.Thread(target=hang)
        thread.start()
        thread.join(PATIENCE)
    assert told.is_set()


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", str(2 * MOST_SECONDS)])
def test_a_limit_that_is_none_is_refused(seconds, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "--dataset", "digits", f"--time-limit={seconds}"])
    assert stopped.value.code == 2
    assert "--time-limit" in capsys.readouterr().err


@pytest.mark.parametrize("told", ["", "x", "3", "[1]", '[["a", 1, 2, 3]]', "[[1, 2]]"])
def test_a_list_of_failures_that_is_none_counts_as_empty(told, monkeypatch):
    monkeypatch.setenv(restart.FAILED_BEFORE, told)
    assert restart.failed_before() == frozenset()


def test_the_process_begins_anew_or_ends(monkeypatch):
    done: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "execv", lambda *words: done.append(words))
    monkeypatch.setattr(os, "_exit", lambda code: done.append((code,)))
    failed = {(0, "a", "pgd", "inhouse"), (1, "b", "", "")}
    restart.end(failed)  # a test is not the command line
    assert done == [(1,)]
    assert "goes on with the other cells first" in restart.prospect()
    monkeypatch.setattr(sys, "argv", ["/bin/defensebench", "run"])
    monkeypatch.setenv(restart.FAILED_BEFORE, "")
    restart.end(failed)
    assert done == [(1,), (sys.executable, sys.orig_argv), (1,)]
    assert restart.failed_before() == failed
    assert restart.failed_before() == frozenset()


HANGING = """
import sys
from pathlib import Path
from benchmark.execution import runner
from benchmark.plugins import restart, time_limit
from benchmark.progress import ConsoleProgress
from benchmark.config.spec import RunSpec

time_limit.GRACE = 0.05
restart.can_restart = lambda: True
out = Path(sys.argv[1])
spec = RunSpec.from_json((out / "asked.json").read_text())
result = runner.run(spec, out=out, command="", progress=ConsoleProgress(),
                    time_limit=1000)
print("failed", result.n_failed)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="hangs in Linux's C library")
def test_a_hang_that_nothing_interrupts_costs_its_own_cells(tmp_path):
    hanging = DefenseSpec("wrong_plugins:HangsInC")
    spec = replace(SPEC, defenses=(hanging, TINY))
    (tmp_path / "asked.json").write_text(spec.to_json(), "utf-8")
    path = os.pathsep.join([str(HELPERS), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", HANGING, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["failed", "3"]
    said = "in code that cannot be interrupted; the command starts again and goes on without it"
    assert said in done.stderr
    cells = read_run(tmp_path / spec.run_id).cells
    assert cells.groupby("defense")["status"].unique().map(list).to_dict() == {
        hanging.name: ["failed"],
        TINY.name: ["ok"],
    }
    reasons = set(cells.loc[cells["defense"] == hanging.name, "reason"])
    assert reasons == {"training failed: took longer than 0.01 s (--time-limit)"}
