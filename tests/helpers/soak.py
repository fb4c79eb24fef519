"""Kill a run at random moments, go on with the same command, and compare with one left alone.

    python tests/soak.py --kills 30 --dataset digits

Each round runs ``python -m benchmark run`` in folders of its own. A launch is killed (SIGKILL) at
a random time after its first line of output, so that importing torch takes no part in it, or at the
first file that it is writing after that time; the same command is launched again until it
completes. Then every table, picture, model record and weight must equal those of a run that
nothing disturbed, bit for bit but for the times taken, and no cell that was once finished may have
been computed again (its ``seconds`` would differ). Exit code 1 if something differs.

With ``--forked`` the launches are forked from a process that has imported torch: quick, for the
test suite.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import pandas as pd
import processes
from paths import ROOT

from benchmark.results import CELL_KEY, CELLS, read_run, read_table
from benchmark.results.embedding_points import read_codes
from benchmark.results.pictures import read_pictures
from benchmark.training.model_cache import Checkpoints

DEFENSES = "undefended,madry,defense-gan"
ATTACKS = "pgd,cw"
SIZE = ["--n-train", "400", "--n-test", "40"]
UNFINISHED = re.compile(r"^\.(.+)-[a-z0-9_]{8}$")
"""A file that is being written, before it takes its name."""

GOES_ON = "training goes on after epoch"
WRITES = 1 / 3
"""So many kills wait for the next file that is being written."""

PART = 1 / 3
"""A kill comes within this part of the undisturbed run's time, so that a round has several."""


class Launched(Protocol):
    """A process that was started."""

    pid: int | None

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""


class Forked:
    """A command forked from a process that has imported torch."""

    def __init__(self, words: list[str], log: Path, cache: Path) -> None:
        self.process = processes.start(words, log, cache)
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


class Spawned:
    """``python -m benchmark`` as a user starts it."""

    def __init__(self, words: list[str], log: Path, cache: Path) -> None:
        environment = {**os.environ, "BENCHMARK_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmark", *words],
                stdout=output,
                stderr=output,
                env=environment,
                cwd=ROOT,
            )
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Tally:
    """What happened over all rounds."""

    kills: int = 0
    rounds: int = 0
    resumes: int = 0
    recomputed: int = 0
    trainings_resumed: int = 0
    where: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


@dataclass
class Run:
    """One output folder, one cache and one log, for the launches of one command."""

    folder: Path
    words: list[str]
    launch: Callable[[list[str], Path, Path], Launched]

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def path(self) -> Path:
        """The run's folder."""
        (path,) = (p for p in (self.folder / "out").iterdir() if p.is_dir())
        return path

    def start(self) -> Launched:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.launch([*self.words, "--out", str(self.folder / "out")], self.log, self.cache)

    def writing(self) -> set[str]:
        """Return the files that are being written, or were when a launch was killed."""
        found = set()
        for folder in (
            self.cache / "models",
            *self.folder.glob("out/*"),
            *self.folder.glob("out/*/*"),
        ):
            if folder.is_dir():
                for entry in os.scandir(folder):
                    if UNFINISHED.match(entry.name):
                        found.add(entry.name)
        return found

    def finished(self) -> dict[tuple[object, ...], float]:
        """Return the seconds that each finished cell took."""
        tables = list(self.folder.glob("out/*/cells.parquet"))
        if not tables:
            return {}
        cells = read_table(tables[0], CELLS)
        cells = cells[cells["status"] != "failed"]
        keys = cells[CELL_KEY].itertuples(index=False, name=None)
        return dict(zip(keys, cells["seconds"], strict=True))


def finish(run: Run) -> float:
    """Launch a command, let it complete, and return the seconds from its first line on."""
    process, first = run.start(), 0.0
    while process.poll() is None:
        if not first and processes.said(run.log):
            first = time.monotonic()
        time.sleep(0.002)
    if process.poll() != 0:
        raise SystemExit(f"exit code {process.poll()}:\n{processes.said(run.log)}")
    return time.monotonic() - first


def disturb(run: Run, after: float, *, at_write: bool) -> str:
    """Launch a command and kill it; return what it was doing, "" if it completed before."""
    before = len(processes.said(run.log))
    stale = run.writing()
    process, first = run.start(), 0.0
    while process.poll() is None:
        now = time.monotonic()
        if not first:
            first = now if len(processes.said(run.log)) > before else 0.0
        elif now - first >= after and (not at_write or run.writing() - stale):
            process.kill()
            return _doing(run, run.writing() - stale)
        time.sleep(0 if first and at_write else 0.002)
    if process.poll() != 0:
        raise SystemExit(f"exit code {process.poll()}:\n{processes.said(run.log)}")
    return ""


def _doing(run: Run, unfinished: set[str]) -> str:
    for name in unfinished:
        if file := UNFINISHED.match(name):
            return "writing " + re.sub(r"[0-9a-f]{32}", "MODEL", file[1])
    last = processes.said(run.log).strip().splitlines()[-1]
    if "training on" in last or GOES_ON in last:
        return "training"
    return "attacking" if "trained in" in last or "accuracy" in last else "starting"


def soak(
    kills: int, dataset: str, seed: int, folder: Path, launch: Callable[..., Launched]
) -> Tally:
    """Kill so many launches, round after round, and compare each round with a run left alone."""
    words = ["run", "--dataset", dataset, "--preset", "smoke", "--device", "cpu", *SIZE]
    words += ["--defenses", DEFENSES, "--attacks", ATTACKS]
    rng, tally = random.Random(seed), Tally()
    alone = Run(folder / "alone", words, launch)
    seconds = finish(alone)
    _say(f"undisturbed: {seconds:.1f} s after the first line")
    while tally.kills < kills:
        tally.rounds += 1
        run = Run(folder / f"round-{tally.rounds}", words, launch)
        _round(run, kills, seconds, rng, tally)
        tally.trainings_resumed += processes.said(run.log).count(GOES_ON)
        tally.differences += [f"round {tally.rounds}: {what}" for what in differences(alone, run)]
    return tally


def _round(run: Run, kills: int, seconds: float, rng: random.Random, tally: Tally) -> None:
    finished: dict[tuple[object, ...], float] = {}
    launches = 0
    while True:
        launches += 1
        if tally.kills == kills:
            finish(run)
            doing = ""
        else:
            after = rng.uniform(0, seconds * PART)
            doing = disturb(run, after, at_write=rng.random() < WRITES)
        now = run.finished()
        again = [key for key, took in finished.items() if now.get(key) != took]
        tally.recomputed += len(again)
        finished = now
        if not doing:
            tally.resumes += launches - 1
            return
        tally.kills += 1
        kind = doing.partition(" ")[0]
        tally.where[kind] = tally.where.get(kind, 0) + 1
        _say(f"kill {tally.kills}: round {tally.rounds}, {doing}; {len(now)} cells")


def differences(alone: Run, run: Run) -> list[str]:
    """Return in what a run differs from the undisturbed one, but for the times taken."""
    one, other = read_run(alone.path), read_run(run.path)
    tables = {
        "cells": (one.cells.drop(columns="seconds"), other.cells.drop(columns="seconds")),
        "samples": (one.samples, other.samples),
        "pictures": (read_pictures(one.path), read_pictures(other.path)),
        "codes": (read_codes(one.path), read_codes(other.path)),
    }
    found = [name for name, (first, second) in tables.items() if not _equal(first, second)]
    models = [[_timeless(asdict(model)) for model in each.models] for each in (one, other)]
    if models[0] != models[1]:
        found.append("model records")
    for model in one.models:
        weights = [
            Checkpoints(each.cache / "models").folder / f"{model.key[:32]}.safetensors"
            for each in (alone, run)
        ]
        if weights[0].read_bytes() != weights[1].read_bytes():
            found.append(f"weights of {model.defense}")
    found += [f"left over: {path.name}" for path in run.cache.rglob("*.partial-*")]
    return found


def _equal(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    try:
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    except AssertionError:
        return False
    return True


def _timeless(value: object) -> object:
    """Return a model's record without its times."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if "seconds" not in key}
        return {key: _timeless(item) for key, item in kept.items()}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--forked", action="store_true", help="launch by forking: quicker")
    parser.add_argument("--folder", type=Path, help="an empty one, kept; else a temporary one")
    given = parser.parse_args()
    launch = Forked if given.forked else Spawned
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = given.folder or Path(temporary)
        tally = soak(given.kills, given.dataset, given.seed, folder.resolve(), launch)
    places = ", ".join(f"{n} while {kind}" for kind, n in sorted(tally.where.items()))
    _say(f"kills: {tally.kills} ({places})")
    _say(f"rounds: {tally.rounds}")
    _say(f"resumes: {tally.resumes}")
    _say(f"trainings resumed: {tally.trainings_resumed}")
    _say(f"finished cells computed again: {tally.recomputed}")
    _say(f"differences: {len(tally.differences)}")
    for line in tally.differences:
        _say(f"  {line}")
    raise SystemExit(bool(tally.differences or tally.recomputed))


if __name__ == "__main__":
    main()
