"""Faults of the machine: one clear line, what was done is kept, and the same command goes on."""

import errno
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from paths import HELPERS, ROOT
from tiny_runs import GRID, PRESET, RUN
from toys import Coded, Scripted, Tiny

import reports.html
from benchmark import registry
from benchmark.cli import main
from benchmark.config import presets
from benchmark.errors import MachineError, UsageError
from benchmark.execution import runner
from benchmark.io.atomic import write_atomic
from benchmark.machine_errors import AGAIN, cannot_write, fault_line, open_folder, out_of_memory
from benchmark.results import CELL_KEY, read_run, write_tables
from benchmark.results.pictures import read_pictures
from benchmark.training import supply

pytestmark = pytest.mark.usefixtures("undrawn")

TIMED = ["seconds", "versions", "git_sha"]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command line in a folder of its own; return its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCHMARK_DATA_DIR", raising=False)
    monkeypatch.setattr(Tiny, "fits", 0)
    monkeypatch.setattr(presets, "read_preset", lambda name: PRESET)
    monkeypatch.setattr(registry, "entry_points", cache(registry.entry_points))

    def run(*words):
        with pytest.raises(SystemExit) as stop:  # and nothing else: that would be a traceback
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def quick_report(monkeypatch):
    """A report that takes no time: a page."""

    def write(run_dirs):
        page = run_dirs[0] / "report" / "report.html"
        write_atomic(page, b"page")
        return page

    monkeypatch.setattr(reports.html, "write_report", write)
    return write


def tables(folder):
    """A run's tables without what a clock decides, in a fixed order, and what lies beside them."""
    run = read_run(folder)
    samples = run.samples.astype(dict.fromkeys(run.samples.select_dtypes("category"), object))
    pictures = read_pictures(folder)
    return (
        run.cells.drop(columns=TIMED).sort_values(CELL_KEY, ignore_index=True),
        samples.sort_values([*CELL_KEY, "sample_id"], ignore_index=True),
        pictures.sort_values([*CELL_KEY, "sample_id"], ignore_index=True),
        pd.DataFrame({"model": [model.defense for model in run.models]}),
    )


def same(one, other):
    for first, second in zip(tables(one), tables(other), strict=True):
        pd.testing.assert_frame_equal(first, second)


def the_run(folder):
    (path,) = (path for path in folder.iterdir() if path.is_dir())
    return path


def litter(folder):
    """Files that an unfinished write left behind."""
    found = [path for path in folder.rglob(".*-*") if path.is_file()]
    return [path for path in found if not path.name.startswith(".lock")]


def errors(text):
    return [line for line in text.splitlines() if line.startswith("error: ")]


# --- what is a fault


def test_what_is_a_fault_and_what_a_bug():
    full = OSError(errno.ENOSPC, "No space left on device", "runs/cells.parquet")
    assert fault_line(full) == (
        "there is no room left for runs/cells.parquet (No space left on device)"
    )
    locked = OSError(errno.EROFS, "Read-only file system", "runs/spec.json")
    assert fault_line(locked) == "runs/spec.json: Read-only file system"
    assert fault_line(MemoryError()) == "memory ran out"
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee docs.")
    assert fault_line(cuda).startswith("memory ran out (CUDA out of memory. Tried to")
    assert "\n" not in fault_line(cuda)
    assert fault_line(RuntimeError("CUDA error: out of memory")) != ""
    for bug in (ValueError("wrong"), RuntimeError("wrong"), OSError("no number"), KeyError("x")):
        assert fault_line(bug) == ""


@pytest.mark.parametrize("ask", [lambda: torch.empty(2**50), lambda: np.empty(2**50)])
def test_memory_that_really_runs_out_is_known(ask):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        ask()
    assert out_of_memory(caught.value)
    assert fault_line(caught.value).startswith("memory ran out (")


def test_another_folder_mends_a_wrong_place_and_no_full_disk():
    here = Path("runs")
    assert isinstance(cannot_write(here, OSError(errno.EACCES, "no"), "hint"), UsageError)
    assert isinstance(cannot_write(here, OSError(errno.ENOSPC, "full"), "hint"), MachineError)


# --- one write


@pytest.mark.parametrize(
    "step", ["tempfile.mkstemp", "os.fsync", "os.chmod", "pathlib.Path.replace"]
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "table"
    write_atomic(path, b"old")

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(step, full)
        with pytest.raises(OSError, match="No space") as caught:
            write_atomic(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["table"]
    assert path.read_bytes() == b"old"
    assert step == "tempfile.mkstemp" or caught.value.filename == str(path)


def test_a_folder_is_tried_before_anything_is_computed(tmp_path, monkeypatch):
    open_folder(tmp_path / "new" / "one")
    assert not any((tmp_path / "new" / "one").iterdir())
    monkeypatch.setattr("tempfile.TemporaryFile", failing(errno.EROFS))
    with pytest.raises(UsageError, match=r"cannot write to .*; name a writable folder with --out"):
        open_folder(tmp_path / "new" / "one")  # it is there, and takes no file
    monkeypatch.setattr("tempfile.TemporaryFile", failing(errno.ENOSPC))
    with pytest.raises(MachineError, match="cannot write to"):
        open_folder(tmp_path / "new" / "one")


def failing(number):
    def fail(*args, **options):
        raise OSError(number, os.strerror(number))

    return fail


# --- every write of a run


@pytest.fixture
def after(monkeypatch):
    """Let every write from the n-th on fail with an error number; return those asked for."""
    original = os.fsync

    def install(n, number):
        asked = []

        def fsync(handle):
            asked.append(handle)
            if len(asked) > n:
                raise OSError(number, os.strerror(number))
            original(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        return asked

    return install


def test_whichever_write_fails_the_same_command_goes_on(
    call, tmp_path, monkeypatch, quick_report, after
):
    code, out, _ = call(*RUN, "--out", "whole")
    assert code == 0
    counting = after(10**6, errno.ENOSPC)
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "counted"))
    call(*RUN, "--out", "counted")
    writes = len(counting)
    assert writes > 8
    for n in (0, 1, writes // 2, writes - 2, writes - 1):
        number = errno.ENOSPC if n % 2 else errno.EROFS
        monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / f"cache{n}"))
        after(n, number)
        code, _, err = call(*RUN, "--out", f"out{n}")
        place = tmp_path / f"out{n}"
        assert not litter(place)
        said = err.strip().splitlines()[-1]
        if code == 2:  # before anything was computed
            assert "name a writable folder with --out" in said
            assert "training on" not in err
        else:
            assert code == 1
            assert os.strerror(number) in err
            assert said.endswith(AGAIN)
            assert "is kept" in said or "are kept in" in said or "cannot write" in said
        after(10**6, number)
        code, again, _ = call(*RUN, "--out", f"out{n}")
        assert (code, again) == (0, out)
        same(the_run(place), the_run(tmp_path / "whole"))


def test_the_line_names_what_is_kept(call, tmp_path, monkeypatch, quick_report):
    put = write_tables
    calls = []

    def full(path, cells, samples):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path / "cells.parquet"))
        put(path, cells, samples)

    monkeypatch.setattr("benchmark.results.run_folder.write_tables", full)
    code, out, err = call(*GRID)
    path = the_run(tmp_path / "runs").relative_to(tmp_path)
    assert (code, out) == (1, "")
    assert errors(err) == [
        f"error: there is no room left for {path}/cells.parquet (No space left on device);"
        f" 4 finished cells are kept in {path}; {AGAIN}"
    ]
    assert len(read_run(path).cells) == 4
    trained = Tiny.fits
    assert call(*GRID)[0] == 0
    assert Tiny.fits == trained  # the models are there


def test_a_bug_keeps_its_traceback(call, monkeypatch):
    def bug(*args, **options):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(supply, "load_images", bug)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        main(list(RUN))


# --- folders that go away


def deleting(what, at):
    """PGD's stand-in, which deletes a folder at its ``at``-th search."""
    calls = []

    def script(view, x, y, eps):
        calls.append(eps)
        if len(calls) == at:
            shutil.rmtree(what())
        return x

    return script


def scripted(monkeypatch, script):
    monkeypatch.setattr(runner, "load_attack", lambda spec: Scripted(script=script))


def test_a_run_folder_deleted_meanwhile_is_written_anew(call, tmp_path, monkeypatch, quick_report):
    scripted(monkeypatch, lambda view, x, y, eps: x)
    assert call(*GRID, "--out", "whole")[0] == 0
    scripted(monkeypatch, deleting(lambda: tmp_path / "runs", at=4))
    code, _, err = call(*GRID)
    assert code == 0
    path = the_run(tmp_path / "runs")
    assert f"{path.relative_to(tmp_path)} was deleted meanwhile: written again from memory" in err
    same(path, the_run(tmp_path / "whole"))
    assert "nothing was computed" in call(*GRID)[2]


def test_a_cache_folder_deleted_meanwhile_costs_a_model_at_most(
    call, tmp_path, monkeypatch, quick_report
):
    scripted(monkeypatch, deleting(lambda: tmp_path / "cache", at=1))
    code, _, err = call(*RUN)
    assert code == 0
    assert not errors(err)
    assert set(read_run(the_run(tmp_path / "runs")).cells["status"]) == {"ok"}


def test_a_cache_folder_that_takes_nothing_costs_the_cache_alone(
    call, tmp_path, monkeypatch, quick_report
):
    (tmp_path / "blocked").write_text("a file")
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "blocked"))
    code, _, err = call(*RUN)
    assert code == 0
    assert "not kept in" in err


# --- memory


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    MemoryError("Unable to allocate 8.00 PiB for an array"),
]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("training", OUT_OF_MEMORY[0]),
        ("training", OUT_OF_MEMORY[2]),
        ("attack", OUT_OF_MEMORY[0]),
        ("attack", OUT_OF_MEMORY[1]),
    ],
)
def test_memory_that_runs_out_fails_its_cells_alone(
    call, tmp_path, monkeypatch, quick_report, error, where
):
    def exhausted(*args, **options):
        raise error

    with monkeypatch.context() as broken:
        if where == "training":
            broken.setattr(Coded, "loss", exhausted)
        else:
            original = runner.load_attack
            broken.setattr(
                runner,
                "load_attack",
                lambda spec: Scripted(script=exhausted) if spec.name == "pgd" else original(spec),
            )
        code, _, err = call(*GRID)
    assert code == 1
    assert "cells failed; the report says why" in err
    cells = read_run(the_run(tmp_path / "runs")).cells
    failed = cells[cells["status"] == "failed"]
    assert failed["reason"].str.contains(r"memory ran out|single image does not fit").all()
    assert set(failed["failure_kind"]) == {"memory"}
    column, value = ("defense", "toys:Coded") if where == "training" else ("attack", "pgd")
    assert set(failed[column]) == {value}
    assert (cells.loc[cells[column] != value, "status"] == "ok").all()
    assert call(*GRID)[0] == 0
    assert (read_run(the_run(tmp_path / "runs")).cells["status"] == "ok").all()


def test_memory_that_runs_out_in_the_harness_is_a_line(call, monkeypatch):
    def exhausted(*args, **options):
        raise MemoryError("Unable to allocate 8.00 PiB for an array")

    monkeypatch.setattr("benchmark.datasets.load.DatasetSource.load", exhausted)
    code, out, err = call(*RUN)
    assert (code, out) == (1, "")
    assert errors(err) == [
        "error: memory ran out (Unable to allocate 8.00 PiB for an array); what was finished is"
        f" kept; {AGAIN}"
    ]


# --- the report


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "report.html"),
        MemoryError("too large"),
        UsageError("report: cannot write to there"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_without_its_report_a_run_is_kept_and_shown(
    call, tmp_path, monkeypatch, quick_report, error
):
    def fails(run_dirs):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(reports.html, "write_report", fails)
        code, out, err = call(*RUN)
    assert code == 1
    assert "accuracy under pgd" in out
    path = the_run(tmp_path / "runs")
    assert f"the results are kept in {path.relative_to(tmp_path)}; {AGAIN}" in err
    assert err.splitlines()[-1].startswith("no report: ")
    assert len(read_run(path).cells) == 2
    code, again, err = call(*RUN)
    assert (code, again) == (0, out)
    assert "nothing was computed" in err
    assert (path / "report" / "report.html").exists()


def test_a_report_older_than_its_tables_is_written_anew(call, tmp_path, quick_report):
    assert call(*RUN)[0] == 0
    path = the_run(tmp_path / "runs")
    page, table = path / "report" / "report.html", path / "cells.parquet"
    page.write_text("older")
    os.utime(page, ns=(0, table.stat().st_mtime_ns - 1))
    assert call(*RUN)[0] == 0
    assert page.read_text() == "page"


def test_a_full_disk_under_a_report_of_its_own(call, tmp_path, monkeypatch, after):
    monkeypatch.setattr(reports.html, "render", lambda *given: ("page", {"table.csv": b"1"}))
    assert call(*RUN)[0] == 0
    after(1, errno.ENOSPC)
    path = the_run(tmp_path / "runs")
    code, out, err = call("report", path)
    assert (code, out) == (1, "")
    assert errors(err) == [
        f"error: report: cannot write to {path}/report (No space left on device); {AGAIN}"
    ]
    assert not litter(path)


# --- what is measured at once is printed where it cannot be kept


CROSSCHECK = ("crosscheck", "--dataset", "digits", "--attack", "pgd", "--defense", "toys:Tiny")
CROSSCHECK += ("--libraries", "inhouse", "--n", "4", "--preset", "smoke", "--device", "cpu")
SPEED = ("speed", "--dataset", "digits", "--defense", "toys:Tiny", "--tasks", "sweep", "--n", "4")
SPEED += ("--libraries", "inhouse", "--repeats", "1", "--levels", "1", "--preset", "smoke")
SPEED += ("--device", "cpu")
DIMENSION = ("dimension", "--dataset", "digits", "--n", "60")


@pytest.mark.parametrize("words", [CROSSCHECK, SPEED, DIMENSION], ids=lambda words: words[0])
def test_a_result_that_cannot_be_written_is_printed(call, tmp_path, monkeypatch, words):
    module = {
        "crosscheck": "crosscheck.measure",
        "speed": "speed.measure",
        "dimension": "dimension.measure",
    }
    writer = {"crosscheck": "write_crosscheck"}.get(words[0], "write_json")
    with monkeypatch.context() as broken:
        broken.setattr(f"benchmark.{module[words[0]]}.{writer}", failing(errno.ENOSPC))
        code, out, err = call(*words)
    assert code == 1
    assert isinstance(json.loads(out), dict)
    (line,) = errors(err)
    assert "there is no room left (No space left on device): the result was printed, not" in line
    assert line.endswith(AGAIN)
    code, again, _ = call(*words, "--json")
    assert code == 0
    assert set(json.loads(again)) == set(json.loads(out))


# --- a real disk and a real limit

CHILD = """
import os, resource, sys
import torch
torch.set_num_threads(1)
from benchmark import cli
from benchmark.config import presets
from tiny_runs import PRESET, RUN
import benchmark.execution.runner, reports.html, toys

presets.read_preset = lambda name: PRESET

def page(run_dirs):
    return run_dirs[0] / "report"

reports.html.write_report = page

def call(*words):
    try:
        cli.main([*RUN, *words])
    except SystemExit as stop:
        return stop.code or 0

def limited(kind, soft, *words):
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    code = call(*words)
    resource.setrlimit(kind, before)
    return code

codes = [limited(resource.RLIMIT_FSIZE, 6000, "--out", "small"), call("--out", "small")]

class Greedy(toys.Tiny):
    def loss(self, x, y):
        torch.ones(2**28)  # 1 GiB
        return super().loss(x, y)

Greedy.__module__, Greedy.__qualname__ = "toys", "Tiny"  # its seeds come from there
toys.Tiny, kept = Greedy, toys.Tiny
used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
os.environ["BENCHMARK_CACHE_DIR"] += "-2"
codes.append(limited(resource.RLIMIT_AS, used + 2**29, "--out", "greedy"))
toys.Tiny = kept
codes.append(call("--out", "greedy"))
print("codes", codes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")
def test_a_real_limit_on_files_and_on_memory(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HELPERS), str(ROOT)]),
        "BENCHMARK_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "codes [1, 0, 1, 0]", done.stderr
    assert "File too large" in done.stderr
    assert "memory ran out ([enforce fail" in done.stderr
    for out in ("small", "greedy"):
        path = the_run(tmp_path / out)
        assert (read_run(path).cells["status"] == "ok").all()
        assert not litter(path)
