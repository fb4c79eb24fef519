"""The two tables: every breach is named, files are written whole, and damage is one line."""

import json
import math
import os
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import fake_run, fake_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.results import (
    CELLS,
    SAMPLES,
    ModelRecord,
    ResultsError,
    empty_table,
    make_table,
    read_run,
    read_table,
    validate,
    write_atomic,
    write_model,
    write_tables,
)

KEY = {
    "dataset": "mnist",
    "defense": "madry",
    "attack": "pgd",
    "library": "inhouse",
    "norm": "linf",
    "eps": 0.1,
    "seed": 0,
}
CELL = {
    **KEY,
    "eot": 1,
    "bpda": False,
    "status": "ok",
    "reason": "",
    "n": 10,
    "clean_accuracy": 0.9,
    "robust_accuracy": 0.5,
    "ci_low": 0.24,
    "ci_high": 0.76,
    "median_distance": 0.05,
    "seconds": 1.0,
    "device": "cpu",
    "preset": "quick",
    "versions": "",
    "git_sha": "",
}
SAMPLE = {
    **KEY,
    "run_id": "mnist-quick-0",
    "sample_id": 0,
    "label": 3,
    "pred_clean": 3,
    "pred_adv": 5,
    "success": True,
    "distance": 0.1,
    "n_forward": 40,
    "n_backward": 40,
}
NAN = math.nan
NO_NUMBERS = dict.fromkeys(("clean_accuracy", "robust_accuracy", "ci_low", "ci_high"), NAN)


def cells(*changes):
    return make_table([{**CELL, **change} for change in changes], CELLS)


def samples(*changes):
    return make_table([{**SAMPLE, **change} for change in changes], SAMPLES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{"status": "great"}], "unknown status 'great'"),
        ([{}, {}], "a cell appears twice"),
        ([{"robust_accuracy": 1.2, "ci_high": 1.3}], r"outside \[0, 1\]"),
        ([{"clean_accuracy": NAN}], r"outside \[0, 1\]"),
        ([{"ci_low": -0.1}], r"outside \[0, 1\]"),
        ([{"status": "failed", "reason": "why"}], "not ok carries an accuracy"),
        ([{**NO_NUMBERS, "status": "skipped"}], "has no reason"),
        ([{"ci_low": 0.6}], "outside its own interval"),
        ([{"eps": -0.1}], "eps is negative"),
        ([{"eps": NAN}], "eps is negative or not a number"),
    ],
)
def test_every_breach_of_the_cells_table_is_named(changes, message):
    with pytest.raises(ResultsError, match=f"^here: .*{message}"):
        validate(cells(*changes), CELLS, "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{}, {}], "an image appears twice"),
        ([{"distance": -1.0}], "a distance is negative"),
        ([{"distance": NAN}], "a distance is negative or not a number"),
        ([{"n_forward": -1}], "a query count is negative"),
        ([{"n_backward": -1}], "a query count is negative"),
        ([{"pred_adv": 3}], "a success whose pred_adv is the label"),
    ],
)
def test_every_breach_of_the_samples_table_is_named(changes, message):
    with pytest.raises(ResultsError, match=f"^here: .*{message}"):
        validate(samples(*changes), SAMPLES, "here")


@pytest.mark.parametrize(("frame", "schema"), [(cells({}), CELLS), (samples({}), SAMPLES)])
def test_columns_are_those_of_the_schema(frame, schema):
    for name in schema.names:
        with pytest.raises(ResultsError, match=f"column '{name}' is missing"):
            validate(frame.drop(columns=name), schema, "here")
    with pytest.raises(ResultsError, match="column 'mood' is not part"):
        validate(frame.assign(mood=1), schema, "here")
    shuffled = validate(frame[frame.columns[::-1]], schema, "here")
    assert list(shuffled.columns) == schema.names


@pytest.mark.parametrize(("column", "value"), [("eps", "big"), ("n", 1.5), ("attack", None)])
def test_wrong_types_and_nulls_are_one_line(column, value):
    frame = cells({}).drop(columns=column).assign(**{column: [value]})
    with pytest.raises(ResultsError) as caught:
        validate(frame, CELLS, "here")
    assert "\n" not in str(caught.value)


def test_an_image_fooled_from_outside_the_ball_is_no_success():
    # A minimal-distortion attack is judged at every eps by one and the same image.
    frame = samples({"success": False, "distance": 0.3})
    pd.testing.assert_frame_equal(validate(frame, SAMPLES, "here"), frame)


def test_empty_tables_are_valid():
    for schema in (CELLS, SAMPLES):
        assert len(validate(empty_table(schema), schema, "here")) == 0


def test_a_cell_that_is_not_ok_keeps_its_row_with_nan(tmp_path):
    failed = {**NO_NUMBERS, "status": "failed", "reason": "CUDA out of memory"}
    write_tables(tmp_path, cells(failed), empty_table(SAMPLES))
    (row,) = read_table(tmp_path / "cells.parquet", CELLS).to_dict("records")
    assert row["reason"] == "CUDA out of memory"
    assert all(math.isnan(row[name]) for name in NO_NUMBERS)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(0, 2**31), st.text(max_size=8), st.floats(0, 1)),
        unique_by=lambda row: row[:2],
        max_size=5,
    )
)
def test_round_trip_keeps_every_value(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("run")
    names = ("eps", "seed", "reason", "robust_accuracy")
    wide = {"ci_low": 0.0, "ci_high": 1.0}
    frame = cells(*({**wide, **dict(zip(names, row, strict=True))} for row in rows))
    write_tables(folder, frame, empty_table(SAMPLES))
    pd.testing.assert_frame_equal(read_table(folder / "cells.parquet", CELLS), frame)


def test_an_invalid_table_is_not_written(tmp_path):
    write_tables(tmp_path, cells({}), samples({}))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ResultsError):
        write_tables(tmp_path, cells({"eps": -1.0}), samples({}))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, broken):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(*((os, "fsync") if broken == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b""])
def test_a_damaged_table_is_one_line_that_names_the_file(tmp_path, damage):
    write_tables(tmp_path, cells({}), samples({}))
    path = tmp_path / "cells.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ResultsError, match=r"cells\.parquet: not a readable Parquet") as caught:
        read_table(path, CELLS)
    assert "\n" not in str(caught.value)


def test_a_foreign_table_is_refused(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(ResultsError, match="column 'dataset' is missing"):
        read_table(tmp_path / "cells.parquet", CELLS)


def test_a_run_is_read_back_whole(tmp_path):
    spec = fake_spec(("undefended", "madry"), seeds=(0,))
    run = read_run(fake_run(tmp_path, spec))
    assert run.spec == spec
    assert run.run_id == run.path.name
    assert len(run.cells) == 2 * (5 + 3)
    assert len(run.samples) == 40 * len(run.cells)
    assert [model.defense for model in run.models] == ["madry", "undefended"]
    assert run.provenance["device"]["type"] == "cpu"


def test_a_run_without_tables_reads_as_empty(tmp_path):
    (tmp_path / "spec.json").write_text(fake_spec().to_json(), "utf-8")
    run = read_run(tmp_path)
    assert (len(run.cells), len(run.samples), run.models, run.provenance) == (0, 0, [], {})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spec.json", "{"),
        ("spec.json", "{}"),
        ("spec.json", "[]"),
        ("models/madry-seed0.json", "{"),
        ("models/madry-seed0.json", '{"defense": "madry"}'),
        ("run.json", "{"),
    ],
)
def test_a_damaged_run_folder_is_one_line_that_names_the_file(tmp_path, name, text):
    run_dir = fake_run(tmp_path, fake_spec(("madry",), seeds=(0,)))
    (run_dir / name).write_text(text, "utf-8")
    with pytest.raises(ResultsError, match=Path(name).name) as caught:
        read_run(run_dir)
    assert "\n" not in str(caught.value)


def test_a_folder_without_spec_is_no_run(tmp_path):
    with pytest.raises(ResultsError, match="not a run folder"):
        read_run(tmp_path)


def test_a_model_record_is_valid_json_whatever_was_logged(tmp_path):
    log = [{"epoch": 1, "loss": NAN, "lr": math.inf}]
    write_model(tmp_path, ModelRecord("../a b", 0, "k", {}, 1, 1.0, log, {"x": {"y": -math.inf}}))
    (path,) = (tmp_path / "models").iterdir()
    raw = json.loads(path.read_text("utf-8"), parse_constant=lambda word: pytest.fail(word))
    assert raw["log"] == [{"epoch": 1, "loss": None, "lr": None}]
    assert raw["measures"] == {"x": {"y": None}}
