"""Several processes on the same folders: who waits, for whom, and what a dead one leaves."""

import errno
import fcntl
import json
import os
import signal
import socket
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from processes import FORKING, PATIENCE, ended, said, start, wait_for

from benchmark.datasets import DIGITS, DatasetSource
from benchmark.datasets.info import RawSplit
from benchmark.io.locks import held
from benchmark.progress import Progress
from benchmark.results import read_run
from benchmark.training.model_cache import Checkpoints


class Listening(Progress):
    """Keeps what is said and shown; answers what is said."""

    def __init__(self, answer=lambda: None):
        self.answer = answer
        self.said, self.shown = [], []

    def say(self, text):
        self.said.append(text)
        self.answer()

    @contextmanager
    def task(self, description, total):
        self.shown.append(description)
        with super().task(description, total) as advance:
            yield advance


def hold(path, line):
    """What another process does: take the lock, say so, and keep it until it is told."""
    with held(Path(path), "it", Progress()):
        line.send("I have it")
        line.poll(PATIENCE)


@pytest.fixture
def other(tmp_path):
    """Another process that has the lock of ``folder/.lock``, and what lets it go."""
    here, there = FORKING.Pipe()
    path = tmp_path / "folder" / ".lock"
    process = FORKING.Process(target=hold, args=(str(path), there))
    process.start()
    assert here.poll(PATIENCE)
    yield process, lambda: here.send("go"), path
    if process.is_alive():
        process.kill()
    assert ended(process) is not None


# --- one lock


def test_a_second_process_says_for_whom_it_waits_and_waits(other):
    process, let_go, path = other
    progress = Listening(answer=let_go)
    with held(path, "the folder", progress):
        assert ended(process) == 0
        told = json.loads(path.with_name(".lock.json").read_text("utf-8"))
        assert told["pid"] == os.getpid()
    (line,) = progress.said
    assert line.startswith(
        f"the folder is in use by process {process.pid} on {socket.gethostname()} since 2"
    )
    assert line.endswith(" UTC: waiting until it is free; Ctrl-C stops")
    assert progress.shown == ["waiting for the folder"]
    assert [entry.name for entry in path.parent.iterdir()] == [".lock"]


def test_a_killed_processs_lock_is_free_at_once(other):
    process, _, path = other
    os.kill(process.pid, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL
    assert path.with_name(".lock.json").exists()  # stale: it decides nothing
    progress = Listening()
    with held(path, "the folder", progress):
        told = json.loads(path.with_name(".lock.json").read_text("utf-8"))
        assert told["pid"] == os.getpid()
    assert progress.said == progress.shown == []


def test_killed_while_another_waits(other):
    process, _, path = other
    progress = Listening(answer=lambda: os.kill(process.pid, signal.SIGKILL))
    with held(path, "the folder", progress):
        assert ended(process) == -signal.SIGKILL
    assert len(progress.said) == 1


def test_an_exception_frees_the_lock(tmp_path):
    path = tmp_path / "folder" / ".lock"
    with pytest.raises(ZeroDivisionError), held(path, "it", Progress()):
        raise ZeroDivisionError
    progress = Listening()
    with held(path, "it", progress):
        assert progress.said == []


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, "another process"),
        ("{", "another process"),
        ("[" * 100_000, "another process"),
        (json.dumps({"pid": 1}), "another process"),
        (
            json.dumps({"pid": "\x1b[2J1", "host": "a\nb", "since": "\u202enow"}),
            "process ?[2J1 on a?b since ?now",
        ),
    ],
    ids=["absent", "damaged", "deep", "incomplete", "hostile"],
)
def test_who_has_it_is_one_line_whatever_the_file_says(other, told, expected):
    _, let_go, path = other
    beside = path.with_name(".lock.json")
    beside.unlink() if told is None else beside.write_text(told, "utf-8")
    progress = Listening(answer=let_go)
    with held(path, "it", progress):
        pass
    assert progress.said[0].startswith(f"it is in use by {expected}: waiting")


@pytest.mark.parametrize(("error", "lines"), [("ENOSYS", 1), ("ENOLCK", 1), ("EROFS", 0)])
def test_without_locks_it_goes_on_and_says_so(tmp_path, monkeypatch, error, lines):
    def refuse(descriptor, operation):
        raise OSError(getattr(errno, error), "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    progress, done = Listening(), []
    with held(tmp_path / "folder" / ".lock", "the folder", progress):
        done.append(1)
    assert done == [1]
    assert len(progress.said) == lines  # where nothing can be written, no lock is missed
    for line in progress.said:
        assert f"the folder: no lock in {tmp_path / 'folder'} (no locks here)" in line
        assert "going on without" in line
    assert not (tmp_path / "folder" / ".lock.json").exists()


def test_a_link_in_the_locks_place_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("as it was", "utf-8")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    progress = Listening()
    with held(tmp_path / ".lock", "it", progress):
        pass
    assert "no lock in" in progress.said[0]
    assert (tmp_path / "mine").read_text("utf-8") == "as it was"


def test_one_process_at_a_time_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("BENCHMARK_DATA_DIR", raising=False)
    tried = []

    def download(info, split, root):
        with pytest.raises(Timeout):
            FileLock(root / "digits.lock").acquire(blocking=False)
        tried.append(split)
        images = np.zeros((10, 1, 28, 28), np.uint8)
        return RawSplit(np.arange(10), lambda rows: images[rows], "download")

    source = DatasetSource(replace(DIGITS.info), download=download)
    assert len(source.load("train")) == 10
    assert tried == ["train"]
    assert not (tmp_path / "datasets" / "digits.lock.json").exists()


# --- two runs


WORDS = ["run", "--dataset", "digits", "--preset", "smoke", "--device", "cpu"]
WORDS += ["--defenses", "undefended,madry", "--attacks", "pgd", "--n-train", "100"]
WORDS += ["--n-test", "10", "--eps", "0,0.2"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run that has its folders to itself."""
    folder = tmp_path_factory.mktemp("alone")
    process = start([*WORDS, "--out", str(folder / "out")], folder / "log", folder / "cache")
    assert ended(process) == 0, said(folder / "log")
    (path,) = (folder / "out").iterdir()
    return read_run(path)


def same(one, other):
    """Tell whether two runs hold the same numbers."""
    for first, second in ((one.cells, other.cells), (one.samples, other.samples)):
        drop = [name for name in ("seconds",) if name in first]
        pd.testing.assert_frame_equal(
            first.drop(columns=drop), second.drop(columns=drop), check_exact=True
        )
    return True


def test_two_runs_in_one_folder_take_turns_and_compute_everything_once(tmp_path, alone):
    path = tmp_path / "out" / alone.run_id
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    with held(path / ".lock", "it", Progress()):
        both = [start([*WORDS, "--out", str(tmp_path / "out")], log, tmp_path) for log in logs]
        for process, log in zip(both, logs, strict=True):
            text = wait_for("waiting until it is free", log, process)
            assert f"{path} is in use by process {os.getpid()} on" in text
    assert [ended(process) for process in both] == [0, 0], [said(log) for log in logs]
    assert same(read_run(path), alone)
    text = "".join(said(log) for log in logs)
    for name in ("undefended", "madry"):
        assert text.count(f"{name} (seed 0): training on") == 1
        assert text.count(f"{name}, pgd (inhouse): accuracy") == 1


def test_two_runs_that_share_a_cache_train_each_model_once(tmp_path, alone):
    outs, logs = [tmp_path / "a", tmp_path / "b"], [tmp_path / "a.log", tmp_path / "b.log"]
    cache = tmp_path / "cache"
    key = next(model.key for model in alone.models if model.defense == "undefended")
    with held(cache / "models" / f"{key[:32]}.lock", "it", Progress()):
        both = [
            start([*WORDS, "--out", str(out)], log, cache)
            for out, log in zip(outs, logs, strict=True)
        ]
        for process, log in zip(both, logs, strict=True):
            wait_for("undefended's model is in use by process", log, process)
    assert [ended(process) for process in both] == [0, 0], [said(log) for log in logs]
    one, other = (read_run(out / alone.run_id) for out in outs)
    assert same(one, alone)
    assert same(other, alone)
    # A second training would have taken other times.
    assert [model.log for model in one.models] == [model.log for model in other.models]
    assert len(list((cache / "models").glob("*.safetensors"))) == 2
    text = "".join(said(log) for log in logs)
    for what in ("training on", "taken from the cache"):
        assert text.count(f"undefended (seed 0): {what}") == 1
    twin = Checkpoints(cache / "models").folder / f"{key[:32]}.safetensors"
    assert twin.stat().st_size > 0


# --- Ctrl-C, as the terminal sends it


def interrupted(words, log, cache, at):
    """Send SIGINT where the command says ``at``; return the lines that it says after that one."""
    process = start(words, log, cache, stay_at=at)
    wait_for(at, log, process)
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == 130, said(log)
    return said(log).partition(at)[2].strip().splitlines()[1:]


STOPPED = "stopped; what was finished is kept, and the same command goes on from there"


@pytest.mark.parametrize("at", ["undefended (seed 0): training on", "madry: 4"])
def test_ctrl_c_ends_training_and_attacks_at_once(tmp_path, alone, at):
    words = [*WORDS, "--out", str(tmp_path / "out")]
    log = tmp_path / "log"
    assert interrupted(words, log, tmp_path / "cache", at) == [STOPPED]
    half = [p for p in tmp_path.rglob(".*") if p.name != ".lock" and p.suffix != ".lock"]
    assert half == []  # nothing half-written, nobody named as the holder
    assert ended(start(words, log, tmp_path / "cache")) == 0, said(log)
    assert same(read_run(tmp_path / "out" / alone.run_id), alone)


def test_ctrl_c_ends_the_wait_for_a_lock(tmp_path, alone):
    path = tmp_path / "out" / alone.run_id
    with held(path / ".lock", "it", Progress()):
        words = [*WORDS, "--out", str(tmp_path / "out")]
        at = "waiting until it is free"
        assert interrupted(words, tmp_path / "log", tmp_path / "cache", at) == [STOPPED]


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
