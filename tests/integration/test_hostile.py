"""Strangers' files and names: nothing in them runs, nothing is written where it was not asked."""

import ast
import hashlib
import io
import json
import os
import pickle
import stat
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_runs import fake_run, fake_spec
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from PIL import Image
from safetensors.torch import save
from toys import SmallCNN

from benchmark.config import presets
from benchmark.datasets import DatasetInfo, DatasetSource
from benchmark.datasets.image_files import decode_image
from benchmark.errors import UsageError
from benchmark.io import archives, json_files, parquet_files
from benchmark.io.json_files import write_json
from benchmark.io.paths import own_folder, plain_file, safe_name
from benchmark.io.schema_version import SCHEMA_VERSION
from benchmark.results import ModelRecord, ResultsError, read_run, read_spec, write_model
from benchmark.results.run_folder import RunFolder
from benchmark.training import TrainingLog
from benchmark.training.model_cache import Checkpoints
from reports.html import write_report
from reports.pages.crosscheck import _png
from reports.pages.page_files import clear_away

MODULES = [
    path
    for package in ("benchmark", "defenses", "baselines", "reports")
    for path in sorted((ROOT / package).rglob("*.py"))
]
NAMES = ("../../up", "/etc/passwd", "a\0b", "x" * 5000, "<img src=x onerror=alert(1)>", "CON", "..")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCHMARK_DATA_DIR", raising=False)


# --- models


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def keep(folder, weights, checksum=None):
    """Put an entry into the cache whose checksums are right, as whoever wrote it would."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "k.safetensors").write_bytes(weights)
    own = checksum or hashlib.sha256(weights).hexdigest()
    write_json(folder / "k.json", {"key": "k", "weights": own, "log": TrainingLog().to_dict()})
    return Checkpoints(folder)


def test_a_pickle_among_the_models_is_never_unpickled(tmp_path, caplog):
    trap = tmp_path / "touched"
    data = pickle.dumps(Touches(trap))
    assert keep(tmp_path / "models", data).load("k", SmallCNN()) is None
    (tmp_path / "models" / "k.json").write_bytes(data)
    assert Checkpoints(tmp_path / "models").load("k", SmallCNN()) is None
    assert not trap.exists()
    assert caplog.text.count("damaged") == 2
    pickle.loads(data)  # the trap works
    assert trap.exists()


def header(text, length=None, body=b""):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data) if length is None else length) + data + body


@pytest.mark.parametrize(
    "weights",
    [
        header("{}", 2**63),
        header("{}", 10**9),
        header('{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}'),
        header('{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,99999]}}', body=b"0000"),
        header('{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', body=b"0000"),
        header("[" * 60_000),
        header(b"\xff\xfe"),
        save(SmallCNN(2).state_dict())[:-4],
        b"",
    ],
    ids=["huge", "long", "product", "offset", "negative", "deep", "words", "cut", "empty"],
)  # fmt: skip
def test_weights_whose_header_lies_are_refused(tmp_path, caplog, weights):
    assert keep(tmp_path, weights).load("k", SmallCNN()) is None
    assert "trained again" in caplog.text


def test_weights_far_larger_than_the_model_are_not_read(tmp_path, caplog):
    cache = keep(tmp_path, b"", checksum="0" * 64)
    with (tmp_path / "k.safetensors").open("wb") as file:
        file.truncate(2**40)  # sparse
    assert cache.load("k", SmallCNN()) is None
    assert "are the most that is read" in caplog.text


def test_a_model_that_is_a_link_is_not_followed(tmp_path, caplog):
    cache = keep(tmp_path / "models", save(SmallCNN(2).state_dict()))
    file = tmp_path / "models" / "k.safetensors"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert cache.load("k", SmallCNN()) is None
    assert "links are not followed" in caplog.text


# --- archives


def test_a_zip_that_climbs_out_is_not_unpacked(tmp_path):
    for i, name in enumerate(("../out", "/out", "a/../../out", "a\\..\\out", "C:out")):
        archive = tmp_path / f"{i}.zip"
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr("good", "x")
            info = zipfile.ZipInfo("bad")
            info.filename = name
            made.writestr(info, "x")
        with pytest.raises(UsageError, match="not unpacked"):
            archives.unpack_zip(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()
    assert not (tmp_path / "out").exists()


def test_a_zip_of_links_or_of_too_much_is_not_unpacked(tmp_path, monkeypatch):
    archive = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr(link, "/etc/passwd")
    with pytest.raises(UsageError, match="is a link"):
        archives.unpack_zip(archive, tmp_path / "in")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("bomb", bytes(10**6))
    monkeypatch.setattr(archives, "MOST_BYTES", 10**5)
    with pytest.raises(UsageError, match="the most that is unpacked"):
        archives.unpack_zip(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()


# --- images

INFO = DatasetInfo("toy", (1, 4, 6), 3, ("a", "b", "c"), augment=False)


def png(width, height, *chunks):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = [chunk(b"IHDR", head), *(chunk(*c) for c in chunks), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def encoded(form):
    buffer = io.BytesIO()
    Image.new("L", (6, 4)).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png(2**31 - 1, 2**31 - 1, (b"IDAT", zlib.compress(b"0"))), "bomb"),
        (png(12_000, 12_000, (b"IDAT", zlib.compress(b"0"))), "12000x12000|bomb"),
        (png(6, 4, (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))), "not a readable image"),
        (png(6, 4, (b"IDAT", zlib.compress(bytes(4))[:-6])), "not a readable image"),
        (bytes(2**21), "are the most for 6x4 pixels"),
        *((encoded(form), "no PNG or JPEG") for form in ("GIF", "BMP", "TIFF", "WEBP")),
    ],
)
def test_images_that_are_bombs_or_of_other_kinds_are_refused(data, said):
    with pytest.raises(UsageError, match=said):
        decode_image(data, INFO, "here")


def test_images_of_the_two_kinds_are_taken():
    for form in ("PNG", "JPEG"):
        assert decode_image(encoded(form), INFO, "here").shape == (1, 4, 6)


def test_a_mirror_that_names_too_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "toy" / "train.parquet"
    path.parent.mkdir()
    load = DatasetSource(INFO).load
    pq.write_table(pa.table({"image": [bytes(2**22)], "label": [0]}), path)
    with pytest.raises(UsageError, match="row group 0 names"):
        load("train", data_dir=tmp_path)
    columns = {f"c{i}": [0] for i in range(100)}
    pq.write_table(pa.table({"image": [b""], "label": [0], **columns}), path)
    with pytest.raises(UsageError, match="names 102 columns"):
        load("train", data_dir=tmp_path)
    monkeypatch.setattr(parquet_files, "MOST_FOOTER", 100)
    with pytest.raises(UsageError, match="its footer has"):
        load("train", data_dir=tmp_path)


# --- JSON and TOML


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested too deep"),
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b'{"a": NaN}', "not finite"),
        (b'{"a": -Infinity}', "not finite"),
        (b'{"a": 1e999}', "not finite"),
        (b'{"a": 99999999999999999999}', "more than 64 bits"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "digits"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b" " * (2**24 + 1), "are the most that is read"),
        (b"", "Expecting value"),
    ],
)
def test_json_that_is_too_much_is_one_line(tmp_path, text, said):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "spec.json").write_bytes(text)
    with pytest.raises(ResultsError, match=said) as caught:
        read_spec(run_dir)
    assert "\n" not in str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
                    | st.floats(allow_nan=False, allow_infinity=False),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=3), inner, max_size=3)))  # fmt: skip
def test_what_is_sealed_is_read_back(value):
    if isinstance(value, dict):
        value.pop("sha256", None)
    data = json_files.seal(value)
    found = json_files.parse_json(data)
    if isinstance(found, dict):
        assert found.pop("sha256") == json_files._checksum(found)
        assert found.pop("schema_version") == SCHEMA_VERSION
    assert found == value


@pytest.mark.parametrize("damage", ["[[", "a = " + "[" * 10_000, "\0"])
def test_a_damaged_preset_is_one_line(tmp_path, monkeypatch, damage):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "mine.toml").write_text(damage)
    monkeypatch.setattr(presets, "files", lambda _: tmp_path)
    with pytest.raises(UsageError, match=r"preset mine: .*mine\.toml is damaged"):
        presets.read_preset("mine")


# --- tables


def test_tables_that_name_too_much_are_refused(tmp_path, monkeypatch):
    run_dir = fake_run(tmp_path, fake_spec(("madry",), seeds=(0,)))
    path = run_dir / "cells.parquet"
    pq.write_table(pa.table({f"c{i}": [0] for i in range(1000)}), path)
    with pytest.raises(ResultsError, match="names 1,000 columns"):
        read_run(run_dir)
    rows = pa.table({"a": pa.array(np.zeros(2_000_000, np.int8))})
    pq.write_table(rows, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(ResultsError, match="names 2,000,000 rows"):
        read_run(run_dir)


# --- names


def test_names_become_files_of_one_folder_and_stay_apart(tmp_path):
    names = [*NAMES, "a/b", "a_b", "Madry", "madry", "é", "e", "a.", "a", ".hidden", ""]
    made = [safe_name(name) for name in names]
    assert len({name.lower() for name in made}) == len(names)
    for name in made:
        (tmp_path / f"{name}-seed0.json").write_text("")
    assert len(list(tmp_path.iterdir())) == len(names)
    assert safe_name("ot-cla_adv.2") == "ot-cla_adv.2"


@given(st.text())
def test_a_safe_name_is_plain(text):
    name = safe_name(text)
    assert name == Path(name).name
    assert len(name) < 120
    assert name.isascii()
    assert safe_name(text) == name


@pytest.mark.parametrize("name", NAMES)
def test_records_and_tracebacks_stay_in_the_runs_folder(tmp_path, name):
    home = tmp_path / "out"
    given_spec = replace(fake_spec((name,), seeds=(0,)), dataset=name)
    assert given_spec.run_id == Path(given_spec.run_id).name
    folder = RunFolder.open(home, given_spec)
    folder.begin({"dataset": {}})
    write_model(folder.path, ModelRecord(name, 0, "k", {}, 1, 1.0, []))
    folder.keep_traceback(f"{name}-seed0-training", ValueError("boom"))
    there = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(folder.path) for path in there)
    assert {path.parent.name for path in there} == {folder.path.name, "models", "errors"}


# --- a stranger's run folder


@pytest.fixture
def strange(tmp_path):
    """A run's folder as it may come from anybody, and a folder that is none of its business."""
    run_dir = fake_run(tmp_path / "runs", fake_spec(("madry",), seeds=(0,)))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "report.html").write_text("mine")
    return run_dir, outside


def test_a_report_is_not_written_through_a_link(strange):
    run_dir, outside = strange
    (run_dir / "report").symlink_to(outside)
    with pytest.raises(UsageError, match=r"leads out of .* by a link"):
        write_report([run_dir])
    assert [path.name for path in outside.iterdir()] == ["report.html"]
    assert (outside / "report.html").read_text() == "mine"


@pytest.mark.parametrize("name", ["models", "errors"])
def test_a_run_does_not_write_through_a_link(strange, name):
    run_dir, outside = strange
    if (run_dir / name).exists():
        (run_dir / name).rename(run_dir / "was")
    (run_dir / name).symlink_to(outside)
    with pytest.raises(UsageError, match=r"leads out of .* by a link"):
        RunFolder.open(run_dir.parent, read_spec(run_dir))


def test_a_page_that_is_a_link_is_replaced_not_followed(tmp_path):
    page = tmp_path / "report" / "report.html"
    page.parent.mkdir()
    (tmp_path / "precious").write_text("mine")
    page.with_name("report-files.json").symlink_to(tmp_path / "precious")
    clear_away(page, ["a.svg"])
    assert (tmp_path / "precious").read_text() == "mine"
    assert not page.with_name("report-files.json").is_symlink()


@pytest.mark.parametrize("name", ["cells.parquet", "spec.json", "models/madry-seed0.json"])
def test_links_and_pipes_in_a_run_are_not_read(strange, name):
    run_dir, outside = strange
    path = run_dir / name
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)
    with pytest.raises(ResultsError, match="links are not followed"):
        read_run(run_dir)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ResultsError, match="not a plain file"):
        read_run(run_dir)


def test_a_cross_checks_images_are_its_own(tmp_path):
    secret, folder = tmp_path / "secret", tmp_path / "found"
    folder.mkdir()
    secret.write_bytes(png(1, 1))
    (folder / "link.png").symlink_to(secret)
    (folder / "words.png").write_bytes(b"<svg onload=alert(1)>")
    (folder / "good.png").write_bytes(png(1, 1))
    for name in ("../secret", str(secret), "link.png", "words.png", "absent.png", "a\0b"):
        with pytest.raises(UsageError, match="not readable"):
            _png(folder, name)
    assert _png(folder, "good.png").startswith("data:image/png;base64,")


def test_a_folder_may_itself_lie_behind_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    assert own_folder(tmp_path / "runs" / "report", tmp_path / "runs")


def test_a_plain_file_is_measured(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    assert plain_file(tmp_path / "a", 3) == 3
    with pytest.raises(ValueError, match="2 are the most"):
        plain_file(tmp_path / "a", 2)


# --- the code


FORBIDDEN = {
    *("torch.load", "torch.save", "torch.jit", "torch.hub", "np.load", "numpy.load"),
    *("pd.read_pickle", "yaml.load", "marshal.loads", "os.system", "os.popen", "runpy.run_path"),
}  # fmt: skip
SCRIPTED = ("ScriptModule", "RecursiveScriptModule")
MODULES_FORBIDDEN = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "yaml", "code"}


def faults(source):
    """Return the calls and imports by which a file of a stranger could run code."""
    found, tree = [], ast.parse(source)
    # To ask whether a module is a scripted one runs nothing.
    kinds = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in SCRIPTED
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in MODULES_FORBIDDEN]
        elif isinstance(node, ast.ImportFrom):
            top = (node.module or "").partition(".")[0]
            found += [top] if top in MODULES_FORBIDDEN and not node.level else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            word = f"{node.value.id}.{node.attr}"
            found += [word] if word in FORBIDDEN and id(node) not in kinds else []
        elif isinstance(node, ast.keyword):
            found += [node.arg] if node.arg in ("allow_pickle", "shell") else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            found += [name] if name in ("eval", "exec", "compile", "__import__") else []
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_loads_what_could_run(path):
    allowed = TENSORS if path.relative_to(ROOT).as_posix() == READS_TENSORS else []
    assert sorted(faults(path.read_text("utf-8"))) == allowed


# With weights_only=True and allow_pickle=False, as tests/integration/test_architecture.py checks.
READS_TENSORS = "benchmark/datasets/tensor_files.py"
TENSORS = ["allow_pickle", "np.load", "torch.load"]


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle", "from joblib import load", "torch.load('x')", "np.load('x')", "eval('1')",
        "exec('1')", "f(allow_pickle=True)", "run(shell=True)", "import yaml", "__import__('x')",
        "torch.jit.load('x')",
    ],
)  # fmt: skip
def test_the_search_for_such_code_finds_it(planted):
    assert faults(planted)


def test_html_in_any_name_or_reason_is_words(strange):
    run_dir, _ = strange
    record = json.loads((run_dir / "models" / "madry-seed0.json").read_text("utf-8"))
    evil = "</script><script>alert(1)</script>"
    write_json(run_dir / "models" / "madry-seed0.json", {**record, "options": {evil: evil}})
    about = {"command": evil, "git_sha": evil, "versions": {evil: evil}, "device": {"name": evil}}
    write_json(run_dir / "run.json", about)
    assert evil not in write_report([run_dir]).read_text("utf-8")
