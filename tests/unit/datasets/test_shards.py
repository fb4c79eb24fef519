"""Parquet shards that count themselves: all of them, once, of one set."""

import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark.datasets import DatasetInfo, DatasetSource
from benchmark.datasets.info import SplitName
from benchmark.datasets.shards import check_shards
from benchmark.errors import UsageError

TOY = DatasetSource(DatasetInfo("toy", (1, 4, 6), 3, ("a", "b", "c"), augment=False))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, *names: str) -> None:
    """Write a file of three images, one of each class, under each name."""
    (folder / "toy").mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 6), dtype=np.uint8)
        table = pa.table({"image": [encode(p) for p in pixels], "label": [0, 1, 2]})
        pq.write_table(table, folder / "toy" / f"{name}.parquet")


def refused(folder: Path, split: SplitName = "train") -> str:
    with pytest.raises(UsageError) as caught:
        TOY.load(split, data_dir=folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("there", "said"),
    [
        (["00000-of-00003", "00002-of-00003"], "1 of 3 files are missing: {0}-00001-of-00003."),
        (["00000-of-00003"], "2 of 3 files are missing: {0}-00001-of-00003.parquet, {0}-00002-of"),
        (["00001-of-00003"], "2 of 3 files are missing: {0}-00000-of-00003.parquet, {0}-00002-of"),
        (["1-of-2"], "1 of 2 files are missing: {0}-0-of-2.parquet"),
        (["2-of-2"], "1 of 2 files are missing: {0}-1-of-2.parquet"),
        (["0000-of-0200"], "199 of 200 files are missing: .*0005-of-0200.parquet and 194 more"),
        (["00000-of-00002-0a1b2c"], "{0}-00001-of-00002.parquet, as {0}-00000-of-00002-0a1b2c"),
        (["00000_of_00002"], "{0}-00001_of_00002.parquet"),
        (["00000-OF-00002"], "{0}-00001-OF-00002.parquet"),
    ],
)
def test_a_missing_shard_is_named(
    tmp_path: Path, split: SplitName, there: list[str], said: str
) -> None:
    write(tmp_path, *(f"{split}-{name}" for name in there))
    assert re.search(said.format(split), refused(tmp_path, split))


def test_a_missing_shard_of_a_validation_split(tmp_path: Path) -> None:
    write(tmp_path, "validation-00001-of-00002")
    assert "validation-00000-of-00002.parquet" in refused(tmp_path, "test")


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"], "one of 1;"),
        (["train-00000-of-00003", "train-00000-of-00005"], "one of 5 files beside"),
        (["train-00000-of-00001-aa", "train-00000-of-00001-bb"], "number 0 of 1 is there twice"),
        (["train-0-of-1", "train-00000-of-00001"], "number 0 of 1 is there twice"),
        (["train", "train-00000-of-00001"], "lies beside train-00000-of-00001.parquet"),
        (["train-00000-of-00002", "train-00007-of-00002"], "number 7 of 2 cannot be"),
    ],
)
def test_images_that_would_count_twice(tmp_path: Path, there: list[str], said: str) -> None:
    write(tmp_path, *there)
    assert said in refused(tmp_path)


@pytest.mark.parametrize(
    "there",
    [
        ["train-00000-of-00001"],
        ["train-00000-of-00002", "train-00001-of-00002"],
        ["train-1-of-2", "train-2-of-2"],
        ["train-00000-of-00002-aa", "train-00001-of-00002-bb"],
        ["train-0-of-2", "train-00001-of-00002"],
        ["train-00000-of-00001", "train_extra-00000-of-00001"],
        ["train", "train-extra"],
        ["train-0", "train-7"],
    ],
)
def test_whole_sets_are_read(tmp_path: Path, there: list[str]) -> None:
    write(tmp_path, *there)
    assert len(TOY.load("train", data_dir=tmp_path)) == 3 * len(there)


def test_the_other_split_may_be_incomplete(tmp_path: Path) -> None:
    # The command that needs the training images says so; dimension reads test images alone.
    write(tmp_path, "train-00000-of-00002", "test")
    assert len(TOY.load("test", data_dir=tmp_path)) == 3
    assert "train-00001-of-00002" in refused(tmp_path)


def test_a_total_beyond_all_reason_costs_no_time(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"are missing: .* more"):
        check_shards([tmp_path / f"train-0-of-{10**60}.parquet"])
