"""The two tables: every violation is named, files are written whole, and damage is one line."""

import json
import logging
import math
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_runs import fake_run, fake_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.io.atomic import write_atomic
from benchmark.io.json_files import write_json
from benchmark.results import (
    CELLS,
    SAMPLES,
    ModelRecord,
    ResultsError,
    empty_table,
    make_table,
    read_model,
    read_origin,
    read_run,
    read_samples,
    read_table,
    validate,
    write_model,
    write_table,
    write_tables,
)
from benchmark.results.tables import superseded

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
        ([{}, {"n": 20}], "a cell appears twice"),
        ([{"n": 0}], "a result over no images"),
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
    for name in (field.name for field in schema if not field.metadata):
        with pytest.raises(ResultsError, match=f"column '{name}' is missing"):
            validate(frame.drop(columns=name), schema, "here")
    with pytest.raises(ResultsError, match="column 'mood' is not part"):
        validate(frame.assign(mood=1), schema, "here")
    with pytest.raises(ResultsError, match=r"^here: column 'eps' appears twice"):
        validate(pd.concat([frame, frame[["eps"]]], axis=1), schema, "here")
    shuffled = validate(frame[frame.columns[::-1]], schema, "here")
    assert list(shuffled.columns) == schema.names


@pytest.mark.parametrize(("column", "value"), [("eps", "big"), ("n", 1.5), ("attack", None)])
def test_wrong_types_and_nulls_are_one_line(column, value):
    frame = cells({}).drop(columns=column).assign(**{column: [value]})
    with pytest.raises(ResultsError, match=r"^here: (?!None)") as caught:
        validate(frame, CELLS, "here")
    assert "\n" not in str(caught.value)


def test_an_image_fooled_from_outside_the_ball_is_no_success():
    # A minimal-distortion attack is judged at every eps by one and the same image.
    frame = samples({"success": False, "distance": 0.3})
    pd.testing.assert_frame_equal(validate(frame, SAMPLES, "here"), frame)


def test_one_image_and_no_query_are_enough():
    one = cells({"n": 1})
    pd.testing.assert_frame_equal(validate(one, CELLS, "here"), one)
    free = samples({"n_forward": 0, "n_backward": 0})  # a clean error costs nothing
    pd.testing.assert_frame_equal(validate(free, SAMPLES, "here"), free)


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
    with pytest.raises(ResultsError, match=r"^cells\.parquet: an eps"):
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


@pytest.mark.parametrize("broken", [True, False])
def test_a_file_is_written_beside_its_place_and_an_error_names_it(tmp_path, monkeypatch, broken):
    seen, replace = [], Path.replace

    def spy(self, target):
        seen.append((self.parent, self.name.startswith(".file-")))
        if broken:
            raise OSError(28, "no space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spy)
    if broken:
        with pytest.raises(OSError, match="no space") as caught:
            write_atomic(tmp_path / "file", b"x")
        assert caught.value.filename == str(tmp_path / "file")
    else:
        write_atomic(tmp_path / "file", b"x")
    assert seen == [(tmp_path, True)]  # elsewhere it might be on another disk


@pytest.mark.parametrize(("umask", "mode"), [(0o027, 0o640), (0, 0o666)])
def test_written_files_follow_the_umask(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        write_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b""])
def test_a_damaged_table_is_one_line_that_names_the_file(tmp_path, damage):
    write_tables(tmp_path, cells({}), samples({}))
    path = tmp_path / "cells.parquet"
    path.write_bytes(damage(path.read_bytes()))
    unreadable = r"cells\.parquet: not a readable Parquet table \((?!None)"
    with pytest.raises(ResultsError, match=unreadable) as caught:
        read_table(path, CELLS)
    assert "\n" not in str(caught.value)


def test_a_foreign_table_is_refused(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "cells.parquet")
    with pytest.raises(ResultsError, match=r"cells\.parquet: column 'dataset' is missing"):
        read_table(tmp_path / "cells.parquet", CELLS)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"a": [1]}), "column 'run_id' is missing"),
        (pa.Table.from_pylist([{**SAMPLE, "label": [3]}]), "column 'label' is list<"),
        (pa.Table.from_pylist([{**SAMPLE, "distance": -1.0}], schema=SAMPLES), "a distance is"),
        (None, r"not a readable Parquet table \((?!None)"),
    ],
)
def test_wrong_samples_are_one_line_that_names_the_file(tmp_path, table, message):
    path = tmp_path / "samples.parquet"
    path.write_bytes(b"PAR1")
    if table is not None:
        pq.write_table(table, path)
    with pytest.raises(ResultsError, match=rf"samples\.parquet: {message}") as caught:
        read_samples(path)
    assert "\n" not in str(caught.value)


def test_samples_take_little_memory_and_keep_their_values(tmp_path):
    write_tables(tmp_path, cells({}), samples({}, {"sample_id": 1, "defense": "an earlier one"}))
    found = read_samples(tmp_path / "samples.parquet")
    assert list(found["defense"].cat.categories) == ["an earlier one", "madry"]
    kinds = {name: str(kind) for name, kind in found.dtypes.items()}
    assert kinds["label"] == kinds["pred_adv"] == "int16"
    assert kinds["sample_id"] == kinds["n_forward"] == "int32"
    wide = read_table(tmp_path / "samples.parquet", SAMPLES)
    assert found.astype(wide.dtypes.to_dict()).to_dict("list") == wide.to_dict("list")


@pytest.mark.parametrize(("frame", "schema"), [(cells({}), CELLS), (cells(), CELLS)])
def test_a_written_table_has_the_schemas_types_and_no_index(tmp_path, frame, schema):
    write_table(tmp_path / "new" / "folder" / "table.parquet", frame, schema)
    written = pq.read_schema(tmp_path / "new" / "folder" / "table.parquet")
    assert written.remove_metadata() == schema


def test_only_numbers_with_a_fraction_may_be_absent():
    for schema in (CELLS, SAMPLES):
        for column in schema:
            assert column.nullable == (column.type == pa.float64() or bool(column.metadata))


def test_an_older_table_is_read_with_null_in_the_columns_that_came_later(tmp_path):
    frame = cells({"search_dtype": "bfloat16"}, {"eps": 0.2, "search_dtype": None})
    write_table(tmp_path / "new.parquet", frame, CELLS)
    new = read_table(tmp_path / "new.parquet", CELLS)
    assert new["search_dtype"][0] == "bfloat16"
    assert pd.isna(new["search_dtype"][1])
    for rows in (frame, frame[:0]):
        older = pa.schema([field for field in CELLS if not field.metadata])
        write_table(tmp_path / "old.parquet", rows.drop(columns="search_dtype"), older)
        old = read_table(tmp_path / "old.parquet", CELLS)
        assert list(old.columns) == CELLS.names
        assert old["search_dtype"].isna().all()
        assert len(validate(superseded(old, new, ["eps"]), CELLS, "here")) == 2


def test_what_came_anew_supersedes_the_old_rows():
    names = ["defense", "seed"]
    old = cells({"defense": "a"}, {"defense": "b"}, {"defense": "c"})
    new = cells({"defense": "b", "n": 20}, {"defense": "d", "n": 20})
    found = superseded(old, new, names)
    assert list(zip(found["defense"], found["n"], strict=True)) == [
        *(("a", 10), ("c", 10)),
        *(("b", 20), ("d", 20)),
    ]
    assert list(found.index) == [0, 1, 2, 3]
    for one, other in ((old[1:], cells()), (cells(), old[1:])):
        found = superseded(one, other, names)
        assert list(found["defense"]) == ["b", "c"]
        assert list(found.index) == [0, 1]


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


def test_an_origin_that_is_no_object_tells_nothing(tmp_path):
    (tmp_path / "run.json").write_text("[]", "utf-8")
    assert read_origin(tmp_path, fake_spec()) == {}


def test_an_origin_of_another_run_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"run_id": "other"}', "utf-8")
    said = rf"spec\.json was changed: .* of {fake_spec().run_id}, and run\.json is of 'other';"
    with pytest.raises(ResultsError, match=said):
        read_origin(tmp_path, fake_spec())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": "x"}, r"\(record\.seed is 'x'"),
        ({"log": [3]}, r"\(a row of the log is 3\)"),
    ],
)
def test_a_wrong_value_of_a_model_record_is_named(tmp_path, change, said):
    path = fake_run(tmp_path, fake_spec(("madry",), seeds=(0,))) / "models" / "madry-seed0.json"
    value = json.loads(path.read_text("utf-8")) | change
    value.pop("sha256", None)
    path.write_text(json.dumps(value), "utf-8")
    with pytest.raises(ResultsError, match=r"madry-seed0\.json: not a model record " + said):
        read_model(path)


def test_every_file_without_a_checksum_is_said(tmp_path, caplog):
    run_dir = fake_run(tmp_path, fake_spec(("madry",), seeds=(0,)))
    texts = [run_dir / "run.json", run_dir / "models" / "madry-seed0.json"]
    for path in texts:
        value = json.loads(path.read_text("utf-8"))
        value.pop("sha256", None)
        path.write_text(json.dumps(value), "utf-8")
    for name in ("samples.parquet", "cells.parquet"):
        table = pq.read_table(run_dir / name)
        pq.write_table(table.replace_schema_metadata(), run_dir / name)
    with caplog.at_level(logging.WARNING, "benchmark.results"):
        read_run(run_dir)
    (line,) = caplog.messages
    files = "samples.parquet, cells.parquet, run.json, models/madry-seed0.json"
    assert line.startswith(f"{run_dir}: no checksum in {files}, which")


def test_a_sealed_run_is_read_without_a_word(tmp_path, caplog):
    run_dir = fake_run(tmp_path, fake_spec(("madry",), seeds=(0,)))
    origin = json.loads((run_dir / "run.json").read_text("utf-8"))
    origin.pop("sha256", None)
    write_json(run_dir / "run.json", origin)
    read_run(run_dir)
    assert caplog.messages == []


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
