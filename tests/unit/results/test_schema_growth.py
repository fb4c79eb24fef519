"""Files of other versions are read: what is absent is filled, what is unknown is left out."""

import json
import logging
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_pictures import fake_pictures
from fake_runs import fake_codes, fake_run, fake_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.crosscheck.results import SCHEMAS
from benchmark.execution.pending import pending_work
from benchmark.io import json_files, parquet_files
from benchmark.io.schema_version import NAME, SCHEMA_VERSION
from benchmark.results import (
    CELLS,
    SAMPLES,
    ResultsError,
    empty_table,
    make_table,
    read_models,
    read_run,
    read_samples,
    read_spec,
    read_table,
    validate,
    write_table,
)
from benchmark.results.audit_tables import FINDINGS, TRANSFER, VERDICTS
from benchmark.results.embedding_points import CODES, read_codes
from benchmark.results.pictures import PICTURES, read_pictures
from benchmark.results.recovery import contents
from benchmark.results.run_folder import RunFolder
from benchmark.results.schema import came_later
from benchmark.results.tables import load_table

TABLES = {
    "cells": CELLS,
    "samples": SAMPLES,
    "pictures": PICTURES,
    "codes": CODES,
    "findings": FINDINGS,
    "verdicts": VERDICTS,
    "transfer": TRANSFER,
    **{f"crosscheck {name}": schema for name, (schema, _) in SCHEMAS.items()},
}
OPTIONAL = {
    name: [field.name for field in schema if field.nullable or came_later(field)]
    for name, schema in TABLES.items()
}
VALUES = {
    pa.string(): "a word",
    pa.int64(): 3,
    pa.float64(): 0.5,
    pa.bool_(): True,
    pa.binary(): b"\x00\x01",
    pa.list_(pa.string()): ["a", "b"],
}
UNKNOWN = st.sampled_from(
    [pa.array([1, 2]), pa.array(["x", None]), pa.array([[1], []]), pa.array([{"a": 1}, None])]
)


def two_rows(schema):
    return make_table([{field.name: VALUES[field.type] for field in schema}] * 2, schema)


def write_arrow(path, table, version=SCHEMA_VERSION):
    """Write a table as a version of ours would, sealed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_files, "SCHEMA_VERSION", version)
        path.write_bytes(parquet_files.seal(table))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = fake_run(tmp_path_factory.mktemp("runs"), fake_spec(("madry",), seeds=(0,)))
    fake_codes(folder, ("madry",))
    fake_pictures(folder)
    return folder


# --- the version


@pytest.mark.parametrize("schema", TABLES.values(), ids=TABLES)
def test_every_table_says_its_version_in_the_files_metadata(tmp_path, schema):
    write_table(tmp_path / "table.parquet", two_rows(schema), schema)
    written = pq.read_schema(tmp_path / "table.parquet")
    assert written.metadata[b"defensebench.schema_version"] == str(SCHEMA_VERSION).encode()
    assert NAME not in written.names


def test_every_json_file_says_its_version_and_readers_do_not_see_it(run_dir, tmp_path):
    for path in (run_dir / "run.json", run_dir / "models" / "madry-seed0.json"):
        assert json.loads(path.read_text())[NAME] == SCHEMA_VERSION
        assert NAME not in json_files.read_json(path)
    spec = read_spec(run_dir)
    folder = RunFolder.open(tmp_path, spec)
    folder.begin({"dataset": {}})
    assert json.loads((folder.path / "spec.json").read_text())[NAME] == SCHEMA_VERSION
    assert read_spec(folder.path) == spec


@pytest.mark.parametrize(("version", "said"), [(SCHEMA_VERSION, False), (SCHEMA_VERSION + 1, True)])
def test_a_newer_table_is_read_and_a_line_says_so(tmp_path, caplog, version, said):
    frame = two_rows(TRANSFER)
    table = pa.Table.from_pandas(frame, schema=TRANSFER, preserve_index=False)
    write_arrow(tmp_path / "t.parquet", table.append_column("more", pa.array([1, 2])), version)
    with caplog.at_level(logging.WARNING):
        pd.testing.assert_frame_equal(load_table(tmp_path / "t.parquet", TRANSFER), frame)
    assert [r.getMessage().count("newer defensebench") for r in caplog.records] == [1] * said


def test_a_newer_json_file_is_read_and_a_line_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(json_files, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    json_files.write_json(tmp_path / "file.json", {"a": 1})
    with caplog.at_level(logging.WARNING):
        assert json_files.read_json(tmp_path / "file.json") == {"a": 1}
    assert "newer defensebench" in caplog.text


def test_a_newer_record_of_a_model_is_read_without_what_it_adds(run_dir, tmp_path):
    path = tmp_path / "models" / "madry-seed0.json"
    value = json_files.read_json(run_dir / "models" / path.name)
    json_files.write_json(path, {**value, "mood": "good"})
    assert read_models(tmp_path) == read_models(run_dir)


# --- columns that come and go


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data(), name=st.sampled_from(sorted(TABLES)))
def test_any_table_with_more_columns_and_fewer_nullable_ones_is_read(tmp_path, data, name):
    schema = TABLES[name]
    frame = two_rows(schema)
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    absent = data.draw(st.lists(st.sampled_from([*OPTIONAL[name], None]), unique=True))
    table = table.drop_columns([column for column in absent if column])
    for i, values in enumerate(data.draw(st.lists(UNKNOWN, max_size=3))):
        table = table.append_column(f"more {i}", values)
    table = table.select(data.draw(st.permutations(table.column_names)))
    write_arrow(tmp_path / "t.parquet", table)
    found = load_table(tmp_path / "t.parquet", schema)
    assert set(found.columns) == set(schema.names)
    for column in schema.names:
        if column not in absent:
            pd.testing.assert_series_equal(found[column], frame[column])
        elif schema.field(column).nullable:
            assert found[column].isna().all()
        else:
            assert set(found[column]) == {""}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_a_required_column_is_damaged(tmp_path, name):
    schema = TABLES[name]
    table = pa.Table.from_pandas(two_rows(schema), schema=schema, preserve_index=False)
    for column in sorted(set(schema.names) - set(OPTIONAL[name])):
        write_arrow(tmp_path / "t.parquet", table.drop_columns([column]))
        with pytest.raises(ResultsError, match=f"column '{column}' is missing"):
            validate(load_table(tmp_path / "t.parquet", schema), schema, "here")
        if schema is SAMPLES:
            with pytest.raises(ResultsError, match=f"column '{column}' is missing"):
                read_samples(tmp_path / "t.parquet")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(more=st.lists(UNKNOWN, max_size=2), absent=st.sets(st.sampled_from(["search_dtype"])))
def test_a_run_with_other_columns_is_neither_damaged_nor_computed_again(
    tmp_path, run_dir, more, absent
):
    spec = read_spec(run_dir)
    before = read_run(run_dir)
    folder = tmp_path / run_dir.name
    folder.mkdir(exist_ok=True)
    for path in run_dir.glob("*.*"):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path).drop_columns(
                [name for name in absent if path.name == "cells.parquet"]
            )
            for i, values in enumerate(more):
                # As many rows as the table has: the values again and again.
                rows = values.take(pa.array([row % 2 for row in range(len(table))]))
                table = table.append_column(f"more {i}", rows)
            data = parquet_files.seal(table)
        (folder / path.name).write_bytes(data)
    opened = RunFolder.open(tmp_path, spec)
    assert not opened.damaged
    assert pending_work(opened) == []
    after = read_run(folder)
    pd.testing.assert_frame_equal(after.samples, before.samples)
    pd.testing.assert_frame_equal(after.cells, before.cells)
    pd.testing.assert_frame_equal(read_pictures(folder), read_pictures(run_dir))
    pd.testing.assert_frame_equal(read_codes(folder), read_codes(run_dir))


def test_a_column_that_is_added_leaves_a_run_as_it_is(run_dir, monkeypatch):
    """Code that knows one more nullable column reads what was written without it."""
    more = CELLS.append(pa.field("mood", pa.string()))
    found = load_table(run_dir / "cells.parquet", more)
    assert found["mood"].isna().all()
    cells, samples, damaged = contents(run_dir, run_dir.name)
    assert damaged == {}
    assert len(cells) == len(found)
    assert len(samples)


def test_a_known_column_that_appears_twice_is_refused(tmp_path):
    table = pa.table([pa.array(["x"])] * 2, names=["defense", "defense"])
    write_arrow(tmp_path / "t.parquet", table)
    with pytest.raises(ResultsError, match="column 'defense' appears twice"):
        load_table(tmp_path / "t.parquet", CELLS)


def test_a_column_of_an_impossible_type_is_refused(tmp_path, run_dir):
    table = pq.read_table(run_dir / "cells.parquet")
    place = table.column_names.index("n")
    table = table.set_column(place, "n", pa.array([["a"]] * len(table)))
    write_arrow(tmp_path / "cells.parquet", table)
    with pytest.raises(ResultsError) as caught:
        read_table(tmp_path / "cells.parquet", CELLS)
    assert "\n" not in str(caught.value)


# --- what older runs said in prose


PROSE = [
    ("ok", "", None),
    ("ok", "memory ran out: batches of 8 images from there on", None),
    ("skipped", "BPDA stands in for a missing gradient", "skipped"),
    ("failed", "took longer than 0.01 s (--time-limit)", "time"),
    ("failed", "training failed: took longer than 60 s (--time-limit)", "time"),
    ("failed", "training failed: memory ran out (CUDA out of memory)", "memory"),
    ("failed", "ValueError: --time-limit is no option of mine", "error"),
]


@pytest.mark.parametrize("with_column", [True, False])
def test_the_kind_of_a_failure_is_told_of_older_runs_too(tmp_path, with_column):
    rows = [
        {
            **{field.name: VALUES[field.type] for field in CELLS},
            "seed": seed,
            "status": status,
            "reason": reason,
            "failure_kind": None,
            **dict.fromkeys(("clean_accuracy", "robust_accuracy", "ci_low", "ci_high"), numbers),
        }
        for seed, (status, reason, _) in enumerate(PROSE)
        for numbers in [0.5 if status == "ok" else math.nan]
    ]
    table = pa.Table.from_pylist(rows, schema=CELLS)
    if not with_column:
        table = table.drop_columns(["failure_kind", "attack_family"])
    write_arrow(tmp_path / "cells.parquet", table)
    cells = read_table(tmp_path / "cells.parquet", CELLS)
    kinds = [None if pd.isna(kind) else kind for kind in cells["failure_kind"]]
    assert kinds == [kind for *_, kind in PROSE]
    assert cells["attack_family"].isna().all() != with_column
    assert cells.dtypes.equals(empty_table(CELLS).dtypes)


def test_a_kind_that_the_table_has_counts_more_than_its_prose(tmp_path):
    row = {field.name: VALUES[field.type] for field in CELLS} | {"status": "failed"}
    row |= dict.fromkeys(("clean_accuracy", "robust_accuracy", "ci_low", "ci_high"), math.nan)
    row |= {"reason": "took longer than 1 s (--time-limit)", "failure_kind": "memory"}
    write_table(tmp_path / "cells.parquet", make_table([row], CELLS), CELLS)
    assert list(read_table(tmp_path / "cells.parquet", CELLS)["failure_kind"]) == ["memory"]
