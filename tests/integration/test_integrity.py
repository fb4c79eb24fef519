"""Damage: whatever byte of a result, a model or a mirror changes, it is noticed and said."""

import hashlib
import io
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fake_runs import fake_codes, fake_run, fake_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import SmallCNN, Tiny

from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.datasets import DatasetInfo, DatasetSource, checksums, downloads
from benchmark.errors import UsageError
from benchmark.execution import runner
from benchmark.io import json_files, parquet_files
from benchmark.io.json_files import write_json
from benchmark.io.schema_version import SCHEMA_VERSION
from benchmark.progress import Progress
from benchmark.results import (
    CELLS,
    ResultsError,
    read_model,
    read_origin,
    read_run,
    read_spec,
    read_table,
)
from benchmark.results.run_folder import RunFolder
from benchmark.training import TrainingLog
from benchmark.training.model_cache import Checkpoints

LOG = TrainingLog([{"epoch": 1, "loss": 0.5}], 1.5)


class Said(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCHMARK_DATA_DIR", raising=False)


def flip(path, place, change=1):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= change
    path.write_bytes(data)


# --- any byte of any file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run's folder with every file, and what is read of it."""
    run_dir = fake_run(tmp_path_factory.mktemp("whole"), fake_spec(("madry",), seeds=(0,)))
    fake_codes(run_dir, ("madry",))
    write_json(run_dir / "run.json", {"run_id": run_dir.name, "dataset": {}})
    return run_dir


READERS = {
    "cells.parquet": lambda folder: read_table(folder / "cells.parquet", CELLS),
    "samples.parquet": lambda folder: read_run(folder).samples,
    "run.json": lambda folder: read_origin(folder, read_spec(folder)),
    "models/madry-seed0.json": lambda folder: read_model(folder / "models/madry-seed0.json"),
}


def plain(value):
    return value.to_dict("list") if isinstance(value, pd.DataFrame) else value


@pytest.mark.parametrize("name", READERS)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(place=st.integers(0, 2**20), change=st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_changes_nothing(whole, tmp_path, name, place, change):
    read = READERS[name]
    folder = tmp_path / whole.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    flip(folder / name, place, change)
    wanted = plain(read(whole))
    try:
        found = plain(read(folder))
    except ResultsError as error:
        found = str(error)
        assert (name in found, "\n" in found) == (True, False)
        return
    if isinstance(found, dict):
        # The name of the checksum itself: that none is there is said, and all else is whole.
        found = {key: value for key, value in found.items() if key in wanted}
    assert str(found) == str(wanted)


def test_every_byte_of_a_table_is_under_its_checksum(whole, tmp_path):
    path = tmp_path / "cells.parquet"
    data = (whole / "cells.parquet").read_bytes()
    unseen = []
    for place in range(0, len(data), 29):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with path.open("rb") as file:
            found = parquet_files._checksums(file)
        if found is None:  # the mark of the checksum itself: the table's own bytes are whole
            unseen.append(place)
        else:
            with (
                pytest.raises(ValueError, match="does not match its own checksum"),
                parquet_files.opened(path, 10**6),
            ):
                pass
    assert len(unseen) <= len(parquet_files.KEY)  # footer length, magic and the mark


def test_equal_tables_are_equal_files_that_any_reader_takes(tmp_path):
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    data = parquet_files.seal(table)
    assert data == parquet_files.seal(table)
    assert pq.read_table(io.BytesIO(data)).to_pydict() == table.to_pydict()


def test_what_an_older_version_wrote_is_read_and_said(whole, tmp_path, caplog):
    folder = shutil.copytree(whole, tmp_path / whole.name)
    pq.write_table(pq.read_table(folder / "cells.parquet").replace_schema_metadata(), folder / "c")
    (folder / "c").rename(folder / "cells.parquet")
    with caplog.at_level(logging.WARNING):
        run = read_run(folder)
    assert len(run.cells) == len(read_run(whole).cells)
    assert "no checksum in cells.parquet" in caplog.text


def test_a_value_that_was_edited_is_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / whole.name)
    path = folder / "models" / "madry-seed0.json"
    path.write_text(path.read_text("utf-8").replace("123456", "123457"), "utf-8")
    with pytest.raises(ResultsError, match="does not match its own checksum"):
        read_run(folder)
    value = json.loads(path.read_text("utf-8"))
    value.pop("sha256")  # as an older version wrote it
    path.write_text(json.dumps(value), "utf-8")
    assert read_run(folder).models[0].n_parameters == 123457


def test_a_spec_that_was_edited_is_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / whole.name)
    text = (folder / "spec.json").read_text("utf-8")
    (folder / "spec.json").write_text(text.replace('"n_test": 200', '"n_test": 201'), "utf-8")
    with pytest.raises(ResultsError, match=r"spec\.json was changed"):
        read_run(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_test": "5"}, "spec.n_test is '5', not a whole number"),
        ({"n_train": True}, "spec.n_train is True, not a whole number"),
        ({"seeds": "01"}, "spec.seeds is '01', not a list"),
        ({"seeds": [0.5]}, r"spec.seeds\[0\] is 0.5, not a whole number"),
        ({"dataset": None}, "spec.dataset is None, not text"),
        ({"defenses": [{"name": 3}]}, r"spec.defenses\[0\].name is 3, not text"),
        ({"attacks": [{"name": "pgd"}]}, "missing"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"exact": 1}, "spec.exact is 1, not true or false"),
        ({"seeds": list(range(100_000))}, "cells; 1,000,000 are the most"),
    ],
)
def test_a_spec_of_other_types_is_one_line(tmp_path, change, said):
    value = json.loads(fake_spec().to_json()) | change
    (tmp_path / "spec.json").write_text(json.dumps(value), "utf-8")
    with pytest.raises(ResultsError, match=said) as caught:
        read_spec(tmp_path)
    assert "\n" not in str(caught.value)


# --- a run goes on in a damaged folder


@pytest.fixture
def opened(tmp_path):
    """A complete folder, and a function that opens it anew and mends it."""
    spec = fake_spec(("undefended", "madry"), seeds=(0,))
    path = fake_run(tmp_path, spec)

    def again():
        said = Said()
        folder = RunFolder.open(tmp_path, spec)
        folder.repair(said)
        return folder, said.lines

    return path, spec, again


def missing(folder, spec):
    keys = [(0, defense, attack) for defense in spec.defenses for attack in spec.attacks]
    return [(d.name, a.name) for s, d, a in keys if not folder.is_final(s, d, a)]


@pytest.mark.parametrize("damage", [lambda p: flip(p, 1000), lambda p: p.write_bytes(b"PAR1")])
def test_damaged_samples_cost_the_cells_that_cannot_be_had(opened, damage):
    path, spec, again = opened
    before = read_run(path)
    damage(path / "samples.parquet")
    folder, said = again()
    assert len(missing(folder, spec)) == 4  # no last version was there
    assert said == [
        f"{path / 'samples.parquet'} is damaged: kept as samples.parquet.damaged;"
        " the cells that it held are computed again"
    ]
    assert (path / "samples.parquet.damaged").exists()
    assert again()[1] == []
    assert len(read_run(path).models) == len(before.models)


def test_the_last_version_of_a_table_saves_the_rest(opened):
    path, spec, again = opened
    folder, _ = again()
    key = (0, spec.defenses[-1], spec.attacks[-1])
    cells, samples = folder.cells, folder.samples
    own = cells[RunFolder._of_sweep(cells, *key)], samples[RunFolder._of_sweep(samples, *key)]
    # The table before the last sweep, then the one with it.
    folder.cells = cells.drop(own[0].index)
    folder.samples = samples.drop(own[1].index)
    for _ in range(2):
        folder.put(*key, *own, pd.DataFrame())
    before = read_run(path)
    flip(path / "samples.parquet", 1000)
    folder, said = again()
    assert missing(folder, spec) == []
    assert "its last version is used" in said[0]
    pd.testing.assert_frame_equal(read_run(path).samples, before.samples)
    # Both versions damaged: the cells alone are no result.
    flip(path / "samples.parquet", 1000)
    flip(path / ".samples.parquet.last", 1000)
    folder, _ = again()
    assert len(missing(folder, spec)) == 4


def test_cells_without_samples_are_computed_again(opened):
    path, spec, again = opened
    (path / "samples.parquet").unlink()
    folder, _ = again()
    assert len(missing(folder, spec)) == 4


@pytest.mark.parametrize("name", ["codes.parquet", "pictures.parquet", "models/madry-seed0.json"])
def test_what_else_is_damaged_is_set_aside(opened, name):
    path, spec, again = opened
    (path / name).write_bytes(b"PAR1 but nothing more")
    folder, said = again()
    assert missing(folder, spec) == []
    (line,) = said
    assert line.startswith(f"{path / name} is damaged: kept as {Path(name).name}.damaged; ")
    assert not (path / name).exists()
    assert folder.codes().empty
    read_run(path)


def test_a_damaged_origin_is_refused_with_what_to_do(opened):
    path, _, again = opened
    flip(path / "run.json", 30)
    folder, _ = again()
    with pytest.raises(UsageError, match=r"run\.json is damaged .*delete it"):
        folder.begin({"dataset": {}})


def test_a_run_mends_its_folder_and_ends_with_the_same_numbers(tmp_path, capsys):
    attack = AttackSpec("pgd", ThreatModel("linf", (0.0, 0.1)), 20, params={"steps": 1})
    defense = (DefenseSpec("toys:Tiny"),)
    spec = RunSpec("digits", "smoke", 60, 20, (0,), "cpu", defense, (attack,))

    def go():
        said = Said()
        out = tmp_path / "runs"
        return runner.run(spec, out=out, command="", progress=said), said.lines

    before = read_run(go()[0].path)
    fits = Tiny.fits
    for name in ("samples.parquet", "cells.parquet", "spec.json"):
        (before.path / name).write_bytes(b"{")
        result, said = go()
        assert not result.was_complete
        assert any(f"{name} is damaged" in line for line in said) == (name != "spec.json")
        after = read_run(before.path)
        pd.testing.assert_frame_equal(after.samples, before.samples)
        cells, wanted = (run.cells.drop(columns="seconds") for run in (after, before))
        pd.testing.assert_frame_equal(cells, wanted)
    assert go()[0].was_complete
    assert Tiny.fits == fits  # the model came from the cache


# --- models


@pytest.fixture
def cache(tmp_path):
    found = Checkpoints(tmp_path / "models")
    found.save("k", SmallCNN(2), LOG)
    return found


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    name=st.sampled_from(["k.safetensors", "k.json"]),
    place=st.integers(0, 2**16),
    change=st.integers(1, 255),
)
def test_a_changed_byte_of_a_model_is_noticed_or_changes_nothing(cache, name, place, change):
    cache.save("k", SmallCNN(2), LOG)
    flip(cache.folder / name, place, change)
    model = SmallCNN(1)
    log = cache.load("k", model)
    wanted = SmallCNN(1 if log is None else 2).state_dict()
    assert log in (None, LOG)
    assert name == "k.json" or log is None
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


def test_a_damaged_model_is_said_and_another_models_too(cache, caplog):
    flip(cache.folder / "k.safetensors", -1)
    assert cache.load("k", SmallCNN(1)) is None
    assert "k.safetensors: damaged (it does not match its checksum), trained again" in caplog.text
    cache.save("k", SmallCNN(2), LOG)
    for suffix in (".safetensors", ".json"):
        (cache.folder / f"k{suffix}").rename(cache.folder / f"x{suffix}")
    assert cache.load("x", SmallCNN(1)) is None
    assert "it is another model's" in caplog.text


def test_an_absent_model_is_nothing_to_talk_about(cache, caplog):
    assert cache.load("absent", SmallCNN(1)) is None
    assert caplog.text == ""


# --- mirrors

TOY = DatasetSource(DatasetInfo("toy", (1, 4, 6), 3, ("a", "b", "c"), augment=False))


def write_shard(folder, seed=0, name="train.parquet"):
    images = []
    for pixels in np.random.default_rng(seed).integers(0, 256, (6, 4, 6), dtype=np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        images.append(buffer.getvalue())
    path = folder / "toy" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": [0, 1, 2] * 2}), path)
    return path


@pytest.mark.parametrize("where", ["toy", "."])
def test_a_mirror_is_held_against_its_list(tmp_path, where):
    path = write_shard(tmp_path)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    name = path.relative_to(tmp_path / where).as_posix()
    (tmp_path / where / "SHA256SUMS").write_text(f"{checksum} *{name}\n", "utf-8")
    assert len(TOY.load("train", data_dir=tmp_path)) == 6
    write_shard(tmp_path, seed=1)
    with pytest.raises(UsageError, match=r"train\.parquet: damaged .*SHA256SUMS"):
        TOY.load("train", data_dir=tmp_path)


def test_a_list_that_is_none_is_refused(tmp_path):
    write_shard(tmp_path)
    for text in ("hello\n", "ff  train.parquet\n"):
        (tmp_path / "toy" / "SHA256SUMS").write_text(text, "utf-8")
        with pytest.raises(UsageError, match="line 1 is not a checksum and a name"):
            TOY.load("train", data_dir=tmp_path)


def test_a_mirror_that_changed_is_said_once(tmp_path, caplog):
    write_shard(tmp_path)
    for _ in range(2):
        TOY.load("train", data_dir=tmp_path)
    assert caplog.text == ""
    write_shard(tmp_path, seed=1)
    TOY.load("train", data_dir=tmp_path)
    assert "train.parquet changed since it was last read" in caplog.text
    caplog.clear()
    TOY.load("train", data_dir=tmp_path)
    assert caplog.text == ""


def test_a_damaged_page_of_a_mirror_is_noticed(tmp_path):
    path = write_shard(tmp_path)
    table = pq.read_table(path)
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = path.read_bytes()
    place = [i for i in range(len(data)) if data[i : i + 4] == b"IHDR"]
    flip(path, place[4])  # statistics before and behind the images hold the least and the largest
    with pytest.raises(UsageError, match=r"(?i)train\.parquet: not a readable Parquet file.*crc"):
        TOY.load("train", data_dir=tmp_path)


# --- downloads


def test_unpacked_files_of_mnist_are_held_against_their_list(tmp_path, caplog, monkeypatch):
    import gzip

    data = b"the official bytes"
    archive = tmp_path / "images.gz"
    archive.write_bytes(gzip.compress(data))
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    file = tmp_path / "images"
    # As an older version left it: nothing is known of the file, but its archive is there.
    file.write_bytes(b"cut")
    downloads._unpack_damaged(tmp_path, {"images.gz": md5})
    assert file.read_bytes() == data
    checksums.write_list(tmp_path, [file])
    file.write_bytes(data[:-1])
    downloads._unpack_damaged(tmp_path, {"images.gz": md5})
    assert file.read_bytes() == data
    assert "images: damaged, unpacked again" in caplog.text
    file.write_bytes(data[:-1])
    archive.write_bytes(b"damaged too")
    with pytest.raises(UsageError, match="images: damaged; delete"):
        downloads._unpack_damaged(tmp_path, {"images.gz": md5})


def test_a_sealed_value_is_plain_json():
    assert json.loads(json_files.seal({"a": 1.5})) == {
        "a": 1.5,
        "schema_version": SCHEMA_VERSION,
        "sha256": hashlib.sha256(b'{"a":1.5,"schema_version":%d}' % SCHEMA_VERSION).hexdigest(),
    }
    assert json.loads(json_files.seal([1])) == [1]
