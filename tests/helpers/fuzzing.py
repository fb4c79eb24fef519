"""How many examples a fuzz test takes, and ways to damage a file that was right."""

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SOAKING = settings.default.max_examples > 100
"""Whether the profile ``soak`` (conftest.py) was asked for; Hypothesis's own has 100."""


def examples(n: int) -> settings:
    """Settings for ``n`` examples, the same in every run; a soak takes many more, and new ones."""
    return settings(
        max_examples=n * settings.default.max_examples // 100 if SOAKING else n,
        derandomize=not SOAKING,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def quiet(draw: st.DrawFn, most: int) -> int:
    """An index below ``most``: evenly, where Hypothesis would rather be near 0."""
    return draw(st.randoms(use_true_random=False)).randrange(most)


# --- bytes


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A file that was cut off, overwritten in places, grown, or never was one."""
    kind = draw(st.sampled_from(["cut", "flip", "overwrite", "insert", "double", "other", "zeros"]))
    place = quiet(draw, len(good) + 1)
    if kind == "cut":
        return good[:place]
    if kind == "flip":
        data = bytearray(good)
        for _ in range(draw(st.integers(1, 8))):
            data[quiet(draw, len(data))] ^= 1 << draw(st.integers(0, 7))
        return bytes(data)
    if kind == "double":
        return good + good
    if kind == "other":
        return draw(st.binary(max_size=200))
    if kind == "zeros":
        return good[:place] + bytes(len(good) - place)
    noise = draw(st.binary(min_size=1, max_size=30))
    return good[:place] + noise + good[place + len(noise) * (kind == "overwrite") :]


# --- JSON

VALUES = [
    *(None, True, False, 0, -1, 1, 3, 0.5, -0.5, 1.5, math.nan, math.inf, -math.inf, 1e308, 10**30),
    *("", " ", "x", "nan", "ok", "x" * 5000, "../../x", "/etc/passwd", "<script>", "\0", "\ud800"),
    *("\x1b[31m", "a\nb", [], {}, [[]], [None], ["x"], {"": {}}, {"x": 1}, [1, "x"], [0.5, -1]),
]
DEEP = 100_000


@st.composite
def mistaken(draw: st.DrawFn, good: Any) -> str:
    """JSON in which some values have another type or size, or keys are gone, wrong or too many."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    text = json.dumps(value)
    if draw(st.integers(0, 19)) == 0:
        return draw(st.sampled_from(["[" * DEEP, '{"a":' * DEEP, "9" * 5000, "\ufeff" + text]))
    return text


def _changed(draw: st.DrawFn, value: Any) -> Any:
    places = list(_places(value))
    if not places:
        return copy.deepcopy(draw(st.sampled_from(VALUES)))
    holder, key = places[quiet(draw, len(places))]
    kind = draw(st.sampled_from(["value"] * 6 + ["drop", "add", "rename", "wrap", "copy", "root"]))
    other = copy.deepcopy(draw(st.sampled_from(VALUES)))
    if kind == "root":
        return other
    if kind == "value":
        holder[key] = other
    elif kind == "wrap":
        holder[key] = [holder[key]] if draw(st.booleans()) else {"x": holder[key]}
    elif kind == "copy":
        source, name = places[quiet(draw, len(places))]
        holder[key] = copy.deepcopy(source[name])
    elif isinstance(holder, list):
        holder.insert(key, other) if kind == "add" else holder.pop(key)
    elif kind == "add":
        holder[draw(st.sampled_from(["x", "", "__class__", "path", "eps", "\0"]))] = other
    else:
        old = holder.pop(key)
        if kind == "rename":
            holder[f"{key}x"] = old
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of everything within ``value``."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


# --- Parquet

KINDS = [
    *(pa.string(), pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_()),
    *(
        pa.binary(),
        pa.list_(pa.string()),
        pa.timestamp("ns"),
        pa.dictionary(pa.int8(), pa.string()),
    ),
    *(pa.null(), pa.decimal128(5, 2), pa.struct([("bytes", pa.binary())]), pa.large_string()),
]
CELLS = [
    *(None, math.nan, math.inf, -math.inf, -1, 0, 1, 2**31, 2**62, -(2**63), 1e308, 0.5, -0.5),
    *("", "x", "ok", "failed", "<b>", "\0", "x" * 5000, b"", b"\x89PNG", b"\xff" * 40, True, False),
]
METADATA = [
    *(b"", b"{", b"null", b"[]", b"5", b'"x"', b'{"index_columns": ["x"], "columns": []}'),
    b'{"index_columns": 5, "columns": 5}',
    b'{"index_columns": [{"kind": "range", "name": null, "start": 0, "stop": "x", "step": 0}],'
    b' "column_indexes": [], "columns": [], "pandas_version": "9"}',
    b'{"index_columns": ["label"], "column_indexes": [], "columns": [{"name": "label",'
    b' "field_name": "label", "pandas_type": "datetimetz", "numpy_type": "object",'
    b' "metadata": {"timezone": "Nowhere/Land"}}], "pandas_version": "1.0"}',
    b"[" * DEEP,
]


@st.composite
def misshapen(draw: st.DrawFn, good: pa.Table) -> bytes:
    """A readable Parquet file whose table is not what it should be."""
    table = good
    for _ in range(draw(st.integers(1, 2))):
        table = _misshapen(draw, table)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=draw(st.sampled_from([1, 7, 10_000])))
    return sink.getvalue().to_pybytes()


def _misshapen(draw: st.DrawFn, table: pa.Table) -> pa.Table:
    ways = ["value"] * 6 + ["type"] * 4
    ways += ["drop", "rename", "twice", "extra", "none", "rows", "order", "pandas", "no columns"]
    way = draw(st.sampled_from(ways))
    names = table.column_names
    if not names or way == "no columns":
        return table.select([])
    at = quiet(draw, len(names))
    if way == "value" and len(table):
        return _with_value(draw, table, at)
    if way == "type":
        kind = draw(st.sampled_from(KINDS))
        try:
            column = table.column(at).cast(kind)
        except (pa.ArrowException, ValueError):
            column = pa.nulls(len(table), kind)
        return table.set_column(at, names[at], column)
    if way == "drop":
        return table.remove_column(at)
    if way == "rename":
        return table.rename_columns(
            [*names[:at], draw(st.sampled_from(["x", "", "\0"])), *names[at + 1 :]]
        )
    if way == "twice":
        return table.append_column(names[at], table.column(at))
    if way == "extra":
        return table.append_column("more", pa.nulls(len(table), draw(st.sampled_from(KINDS))))
    if way == "none":
        return table.slice(0, 0)
    if way == "rows":
        return pa.concat_tables([table, table.slice(0, 1)])
    if way == "order":
        return table.select(list(range(len(names)))[::-1])
    return table.replace_schema_metadata({"pandas": draw(st.sampled_from(METADATA))})


def _with_value(draw: st.DrawFn, table: pa.Table, at: int) -> pa.Table:
    """Put one odd value into a column, which keeps its type where that can hold it."""
    column = table.column(at)
    values = column.to_pylist()
    for _ in range(draw(st.integers(1, 3))):
        values[quiet(draw, len(values))] = draw(st.sampled_from(CELLS))
    for kind in (column.type, pa.string(), pa.binary()):
        try:
            changed = pa.array(values, kind)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            continue
        return table.set_column(at, table.column_names[at], changed)
    return table
