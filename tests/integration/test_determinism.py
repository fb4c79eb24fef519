"""The same spec gives the same tables bit for bit, and what else is in a run changes no row."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from determinism import ATTACKS, DEFENSES, LIBRARIES, NAMED, PRESET, planned, ran
from paths import HELPERS, ROOT

from benchmark.results import CELL_KEY, CELLS, SAMPLES, read_run, read_table
from benchmark.results.embedding_points import read_codes
from benchmark.results.pictures import read_pictures
from benchmark.results.run_folder import RunFolder

CLOCK = ["seconds", "git_sha"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for runs, and a cache of the models that they share."""
    return tmp_path_factory.mktemp("determinism")


@pytest.fixture(scope="module")
def whole(place):
    """A run of every defense and attack, with one thread."""
    return ran(planned(), place / "whole", place / "cache")


def bits(frame: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """The table in the order of ``key``, each float as its 64 bits: NaN equals NaN, 0 not -0."""
    frame = frame.sort_values(key, ignore_index=True)
    for name in frame.select_dtypes("floating"):
        frame[name] = frame[name].to_numpy(np.float64).view(np.int64)
    return frame


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Everything in a run's folder that no clock decides."""
    cells = read_table(folder / "cells.parquet", CELLS).drop(columns=CLOCK)
    samples = read_table(folder / "samples.parquet", SAMPLES).drop(columns="run_id")
    records = []
    for model in read_run(folder).models:
        record = asdict(model) | {"train_seconds": 0}
        record["log"] = [row | {"seconds": 0} for row in record["log"]]
        origin = record.pop("origin")
        record |= {f"origin {name}": value for name, value in origin.items() if name != "parts"}
        record |= {f"part {name}": value for name, value in origin["parts"].items()}
        records += [
            {"defense": model.defense, "field": name, "value": json.dumps(value, sort_keys=True)}
            for name, value in record.items()
        ]
    of_image = [*CELL_KEY, "sample_id"]
    return {
        "cells": bits(cells, CELL_KEY),
        "samples": bits(samples, of_image),
        "pictures": bits(read_pictures(folder), of_image),
        "codes": bits(read_codes(folder), ["defense", "condition", "sample_id"]),
        "models": pd.DataFrame(records),
    }


def same(one: Path, other: Path, *, where=lambda table: table) -> bool:
    """Compare two runs row by row: the rows of ``one`` with those of ``other`` that it has too."""
    for (name, first), second in zip(tables(one).items(), tables(other).values(), strict=True):
        shared = [c for c in (*CELL_KEY, "condition", "sample_id", "field") if c in first]
        first, second = where(first), where(second)
        second = second.merge(first[shared].drop_duplicates(), on=shared)
        assert len(first) > 0 or name == "codes"  # which are not those of every defense
        pd.testing.assert_frame_equal(
            first.reset_index(drop=True), second[list(first)], check_exact=True, obj=name
        )
    return True


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Runs of another process, trained anew, in which words have other hashes."""
    folder = tmp_path_factory.mktemp("elsewhere")
    code = "import sys; from determinism import in_another_process as run; run(sys.argv[1])"
    # As many threads for numpy and scikit-learn as here; torch's are set there.
    waiting = {"PYTHONHASHSEED": "7", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-c", code, folder],
        env={**os.environ, **waiting, "PYTHONPATH": os.pathsep.join([str(HELPERS), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {
        path.name: next(path.iterdir()) for path in folder.iterdir() if "cache" not in path.name
    }


def test_another_process_gives_the_same_bits(whole, elsewhere):
    """No set's order decides anything, and nothing is left from what the process did before."""
    assert same(whole, elsewhere["one"])


def test_two_threads_give_the_same_bits_twice(elsewhere):
    assert same(elsewhere["two"], elsewhere["two again"])


FEWER = {
    "without a defense": {"defenses": DEFENSES[1:]},
    "without an attack": {"attacks": (*ATTACKS[1:], NAMED)},
    "without a library's": {"attacks": ATTACKS},
    "in another order": {"defenses": DEFENSES[::-1], "attacks": (NAMED, *ATTACKS[::-1])},
}


@pytest.mark.parametrize("changes", FEWER.values(), ids=FEWER)
def test_adding_and_removing_changes_no_other_row(changes, whole, place, tmp_path):
    assert same(ran(planned(**changes), tmp_path, place / "cache"), whole)


def test_another_library_changes_no_row(place, tmp_path):
    attacks = ("pgd",)
    alone = ran(planned(attacks=attacks), tmp_path, place / "cache")
    both = ran(planned(attacks=attacks, libraries=LIBRARIES), tmp_path, place / "cache")
    assert len(tables(both)["cells"]) == 2 * len(tables(alone)["cells"])
    assert same(alone, both)


def test_the_audit_changes_no_row(whole, place, tmp_path):
    wanted = planned(defenses=("e-cla",))
    assert same(ran(wanted, tmp_path, place / "cache", audit=True), whole)


def test_how_many_images_another_attack_sees_changes_no_row(whole, place, tmp_path, monkeypatch):
    fewer = {**PRESET["defaults"]["attack_settings"], "fgsm": {"n": 5}}
    defaults = {**PRESET["defaults"], "attack_settings": fewer}
    monkeypatch.setitem(PRESET, "defaults", defaults)
    other = ran(planned(), tmp_path, place / "cache")
    assert set(tables(other)["cells"].query("attack == 'fgsm'")["n"]) == {5}
    # The code map's attack is the one that sees fewer: it is not compared.
    assert same(other, whole, where=lambda t: t[t["attack"] != "fgsm"] if "attack" in t else t)


def test_a_run_gone_on_with_cell_by_cell_is_the_same(whole, place, tmp_path, monkeypatch):
    put, stops = RunFolder.put, []

    def put_and_stop(self, *words):
        put(self, *words)
        stops.append(words)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "put", put_and_stop)
    wanted = planned(defenses=("rse", "e-cla"), attacks=(NAMED, "fgsm", "pgd"))
    sweeps = len(wanted.defenses) * len(wanted.attacks)
    for _ in range(sweeps):
        with pytest.raises(KeyboardInterrupt):
            ran(wanted, tmp_path, place / "cache")
    assert len(stops) == sweeps
    assert same(ran(wanted, tmp_path, place / "cache"), whole)


LEVELS = (0.0, 0.1, 0.3)


MORE = (0.0, 0.05, 0.1, 0.3, 0.4)


def swept(place, out, eps, attacks, *, exact=False):
    wanted = planned(defenses=("undefended", "rse"), attacks=attacks, eps=eps, exact=exact)
    return ran(wanted, out, place / "cache")


def same_levels(one, other, ignoring=()):
    """Compare cells and samples; a sweep's pictures stand at an eps that its levels decide."""
    few, many = tables(one), tables(other)
    for name, key in (("cells", CELL_KEY), ("samples", [*CELL_KEY, "sample_id"])):
        first = few[name].drop(columns=[c for c in ignoring if c in few[name]])
        second = many[name].merge(first[key], on=key)
        assert len(first) > 0
        pd.testing.assert_frame_equal(first, second[list(first)], check_exact=True, obj=name)
    return True


def test_an_exact_sweep_takes_no_notice_of_its_other_levels(place, tmp_path):
    attacks = ("pgd", "fgsm", "pgd-eot", NAMED)
    few = swept(place, tmp_path / "few", LEVELS, attacks, exact=True)
    many = swept(place, tmp_path / "many", MORE, attacks, exact=True)
    assert same_levels(few, many)


def test_a_minimal_attack_takes_no_notice_of_its_levels(place, tmp_path):
    few = swept(place, tmp_path / "few", (0.5, 2.0), ("cw",))
    many = swept(place, tmp_path / "many", (0.0, 0.5, 1.0, 2.0, 5.0), ("cw",))
    # The one search's queries, and what the harness noticed, stand in the row of its smallest eps.
    assert same_levels(few, many, ignoring=("n_forward", "n_backward", "reason"))


def test_ascending_sweeps_take_no_notice_of_larger_levels(place, tmp_path):
    attacks = ("fgsm", NAMED)
    few = swept(place, tmp_path / "few", LEVELS, attacks)
    many = swept(place, tmp_path / "many", (*LEVELS, 0.4, 0.6), attacks)
    assert same_levels(few, many)
