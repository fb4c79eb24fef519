"""Datasets: the balanced selection, every source, and every kind of bad data."""

import hashlib
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmark.datasets import (
    CIFAR10,
    DIGITS,
    FASHION_MNIST,
    MNIST,
    STL10,
    TINY_IMAGENET,
    DatasetInfo,
    DatasetSource,
    ImageDataset,
    balanced_order,
    catalogue,
    downloads,
)
from benchmark.errors import UsageError

TINY = DatasetInfo("toy", (1, 4, 6), 3, ("a", "b", "c"), augment=False)
TOY = DatasetSource(TINY)


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the tests off the caller's data folder, cache and network."""
    monkeypatch.delenv("BENCHMARK_DATA_DIR", raising=False)
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def toy_pixels(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 6), dtype=np.uint8)


def write_toy(
    folder: Path,
    labels: Any,
    *,
    name: str = "train.parquet",
    images: list[Any] | pa.Array | None = None,
    column: str = "image",
    label_column: str = "label",
    label_type: pa.DataType | None = None,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Write a Parquet file of 4x6 grey images under ``folder``/toy."""
    if images is None:
        pixels = toy_pixels(len(labels), seed)
        images = [{"bytes": encode(p), "path": f"{i}.png"} for i, p in enumerate(pixels)]
    path = folder / "toy" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    values = pa.array(labels, type=label_type)
    pq.write_table(pa.table({column: images, label_column: values}), path, **options)
    return path


def failure(call: Callable[[], object]) -> str:
    """Return the message of the UsageError that ``call`` must raise: always one line."""
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- the balanced order ----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_prefix_is_as_balanced_as_it_can_be(labels: list[int], seed: int) -> None:
    y = np.array(labels, np.int64)
    order = balanced_order(y, seed)
    assert sorted(order.tolist()) == list(range(len(y)))
    totals = np.bincount(y, minlength=6)
    for n in range(len(y) + 1):
        counts = np.bincount(y[order[:n]], minlength=6)
        left = counts < totals
        # A class that still has images lags behind no other by more than one.
        assert (counts[left] >= counts.max() - 1).all()


def test_the_order_depends_on_the_seed_and_on_nothing_else() -> None:
    y = np.repeat(np.arange(4), 25)
    assert (balanced_order(y, 1) == balanced_order(y, 1)).all()
    assert (balanced_order(y, 1) != balanced_order(y, 2)).any()
    state = np.random.get_state()[1].copy()
    balanced_order(y, 1)
    assert (np.random.get_state()[1] == state).all()


def test_the_order_never_changes_with_a_release() -> None:
    # Trained models are kept under the checksum of their selection: pin the stream.
    assert balanced_order(np.arange(12) % 3, 0).tolist() == [6, 11, 4, 10, 2, 9, 8, 1, 3, 7, 0, 5]


def test_a_few_images_of_many_classes_are_not_the_first_classes() -> None:
    y = np.repeat(np.arange(200), 5)
    chosen = y[balanced_order(y, 0)[:20]]
    assert len(set(chosen)) == 20
    assert chosen.max() > 100


# --- digits ----------------------------------------------------------------------------------


def test_digits_come_with_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    train, test = DIGITS.load("train"), DIGITS.load("test")
    assert (len(train), len(test)) == (1297, 500)
    assert train.source == "embedded"
    assert train.images.shape == (1297, 1, 28, 28)
    assert torch.equal(test.labels.bincount(), torch.full((10,), 50))
    both = torch.cat([train.labels, test.labels]).bincount()
    assert both.tolist() == np.bincount(load_digits().target).tolist()
    assert len({tuple(row.flatten().tolist()) for row in test.images}) == 500
    apart = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in apart for image in test.images)


def test_digits_are_enlarged_bilinearly() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images)[:, None] * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear")
    by_bytes = {image.numpy().tobytes(): i for i, image in enumerate(large.round().byte())}
    test = DIGITS.load("test")
    exact = [by_bytes.get(image.numpy().tobytes()) for image in test.images]
    assert sum(row is not None for row in exact) > 300  # ties round half to even there, up here
    for row, image, label in zip(exact, test.images, test.labels, strict=True):
        if row is not None:
            assert digits.target[row] == label
        else:
            assert (large - image).abs().amax((1, 2, 3)).min() <= 0.5 + 1e-9


def test_digits_ignore_the_data_folder(tmp_path: Path) -> None:
    here = DIGITS.load("test", n=10, data_dir=tmp_path / "absent")
    assert here.checksum == DIGITS.load("test", n=10).checksum


# --- selection and the dataset itself --------------------------------------------------------


def test_selections_are_nested_balanced_and_described() -> None:
    full = DIGITS.load("test")
    part = DIGITS.load("test", n=130)
    assert torch.equal(full.images[:130], part.images)
    assert torch.equal(full.sample_ids[:130], part.sample_ids)
    assert part.checksum == full.head(130).checksum
    assert part.checksum != full.checksum
    assert part.labels.bincount().tolist() == [13] * 10
    assert (part.n_available, full.n_available) == (500, 500)
    assert sorted(full.sample_ids.tolist()) == list(range(500))


def test_the_checksum_covers_images_labels_and_ids() -> None:
    d = DIGITS.load("test", n=20)
    parts = (d.images, d.labels, d.sample_ids)
    plain = b"".join(part.numpy().tobytes() for part in parts)
    assert d.checksum == hashlib.sha256(plain).hexdigest()
    for changed in range(3):
        other = [part + 1 if i == changed else part for i, part in enumerate(parts)]
        again = ImageDataset.from_tensors(d.info, *other, source=d.source, n_available=500)
        assert again.checksum != d.checksum


def test_x_is_float_in_the_unit_interval() -> None:
    d = DIGITS.load("test", n=30)
    x = d.x()
    assert x.dtype == torch.float32
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)
    assert torch.equal((x * 255).round().byte(), d.images)
    assert torch.equal(d.x(slice(3, 7)), x[3:7])
    index = torch.tensor([5, 2, 2])
    assert torch.equal(d.x(index), x[index])
    d.x().zero_()
    assert d.images.any()


def test_select_head_holdout_and_to() -> None:
    d = DIGITS.load("train", n=100)
    train, held = d.holdout(0.1)
    assert (len(train), len(held)) == (90, 10)
    assert torch.equal(torch.cat([train.sample_ids, held.sample_ids]), d.sample_ids)
    assert held.labels.bincount().tolist() == [1] * 10
    assert len(d.head(0)) == 0
    assert d.head(100) is d
    assert d.select(torch.tensor([7])).sample_ids.tolist() == [d.sample_ids[7].item()]
    assert d.to("cpu").checksum == d.checksum
    assert d.device == torch.device("cpu")
    assert [len(part) for part in d.head(2).holdout(0.01)] == [1, 1]
    assert [len(part) for part in d.head(2).holdout(0.99)] == [1, 1]
    with pytest.raises(ValueError, match="101"):
        d.head(101)
    with pytest.raises(ValueError, match="fraction"):
        d.holdout(1.0)
    assert "--n-train" in failure(lambda: d.head(1).holdout(0.1))


def test_a_dataset_of_the_wrong_kind_is_refused() -> None:
    n = torch.arange(2)
    with pytest.raises(ValueError, match="uint8"):
        ImageDataset(TINY, torch.rand(2, 1, 4, 6).double(), n, n, "mirror", "", 2)
    images = torch.zeros(2, 1, 4, 6, dtype=torch.uint8)
    with pytest.raises(ValueError, match="labels"):
        ImageDataset(TINY, images, torch.arange(3), n, "mirror", "", 2)
    with pytest.raises(ValueError, match="class names"):
        DatasetInfo("toy", (1, 4, 6), 3, ("a",), augment=False)


def test_float_images_are_kept_as_they_are() -> None:
    images, n = torch.rand(3, 1, 4, 6), torch.arange(3)
    d = ImageDataset.from_tensors(TINY, images, n, n, source="arrays", n_available=3)
    x = d.x()
    assert x.dtype == torch.float32
    assert torch.equal(x, images)
    x.zero_()
    d.x(slice(2)).zero_()  # a batch is the attack's own
    assert d.images.any()
    assert torch.equal(d.x(torch.tensor([2, 0])), images[[2, 0]])
    eight = ImageDataset.from_tensors(
        TINY, (images * 255).byte(), n, n, source="arrays", n_available=3
    )
    assert d.checksum != eight.checksum
    assert d.select(slice(2)).images.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loads_to_cuda_with_the_same_checksum() -> None:
    d = DIGITS.load("test", n=50, device="cuda")
    assert d.x().is_cuda
    assert d.checksum == DIGITS.load("test", n=50).checksum
    assert d.head(20).checksum == DIGITS.load("test", n=20).checksum


# --- the mirror, real data -------------------------------------------------------------------


def _id(value: object) -> str:
    return value.info.name if isinstance(value, DatasetSource) else str(value)


REAL = [
    (MNIST, 60_000, 10_000),
    (CIFAR10, 50_000, 10_000),
    (STL10, 5_000, 8_000),
    (TINY_IMAGENET, 70_000, 10_000),
]


@pytest.mark.parametrize(("source", "n_train", "n_test"), REAL, ids=_id)
def test_real_data(source: DatasetSource, n_train: int, n_test: int, data_dir: Path) -> None:
    info = source.info
    if not (data_dir / info.name).is_dir():
        pytest.skip(f"this data folder has no {info.name}")
    n = 2 * info.n_classes
    train = source.load("train", n=n, data_dir=data_dir)
    test = source.load("test", n=n, data_dir=data_dir)
    assert (train.n_available, test.n_available) == (n_train, n_test)
    assert train.source == "mirror"
    for d in (train, test):
        assert d.images.shape == (n, *info.shape)
        assert (d.images.dtype, d.labels.dtype) == (torch.uint8, torch.int64)
        assert d.labels.bincount().tolist() == [2] * info.n_classes
        assert d.sample_ids.unique().numel() == n
    again = source.load("test", n=n // 2, data_dir=data_dir)
    assert again.checksum == test.head(n // 2).checksum
    # One image, decoded here: the row of the split counts through the sorted shards.
    shards = sorted((data_dir / info.name).glob("test*.parquet"))
    table = pa.concat_tables([pq.read_table(shard) for shard in shards])
    row = table.slice(int(test.sample_ids[-1]), 1).to_pylist()[0]
    pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
    assert row["label"] == test.labels[-1]
    assert np.array_equal(test.images[-1].permute(1, 2, 0).squeeze(-1).numpy(), pixels)


def test_only_the_selected_images_are_decoded(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (data_dir / "tiny_imagenet").is_dir():
        pytest.skip("this data folder has no tiny_imagenet")
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **b: opened.append(1) or original(*a, **b))
    TINY_IMAGENET.load("train", n=30, data_dir=data_dir)
    assert len(opened) == 30


# --- the mirror, its layouts -----------------------------------------------------------------


def check_toy(d: ImageDataset, labels: list[int], pixels: np.ndarray) -> None:
    assert d.labels.tolist() == [labels[i] for i in d.sample_ids.tolist()]
    assert np.array_equal(d.images[:, 0].numpy(), pixels[d.sample_ids.numpy()])


def test_shards_and_row_groups_count_on(tmp_path: Path) -> None:
    labels = [i % 3 for i in range(30)]
    write_toy(tmp_path, labels[:17], name="train-00000-of-00002.parquet", row_group_size=5)
    write_toy(tmp_path, labels[17:], name="train-00001-of-00002.parquet", row_group_size=4, seed=1)
    pixels = np.concatenate([toy_pixels(17), toy_pixels(13, seed=1)])
    d = TOY.load("train", data_dir=tmp_path)
    assert len(d) == 30
    check_toy(d, labels, pixels)
    check_toy(TOY.load("train", n=7, data_dir=tmp_path), labels, pixels)


@pytest.mark.parametrize("label_type", [pa.int64(), pa.int32(), pa.uint8()])
def test_plain_bytes_the_other_column_name_and_label_widths(
    tmp_path: Path, label_type: pa.DataType
) -> None:
    images = [encode(p) for p in toy_pixels(3)]
    write_toy(tmp_path, [0, 1, 2], images=images, column="img", label_type=label_type)
    check_toy(TOY.load("train", data_dir=tmp_path), [0, 1, 2], toy_pixels(3))


def test_a_validation_file_stands_in_where_there_is_no_test_file(tmp_path: Path) -> None:
    write_toy(tmp_path, [0, 1, 2], name="validation-00000-of-00001.parquet")
    assert len(TOY.load("test", data_dir=tmp_path)) == 3
    write_toy(tmp_path, [0, 1], name="test.parquet")
    assert len(TOY.load("test", data_dir=tmp_path)) == 2
    assert "toy/train*.parquet" in failure(lambda: TOY.load("train", data_dir=tmp_path))


def test_the_environment_names_the_folder_and_the_argument_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(tmp_path, [0, 1, 2])
    monkeypatch.setenv("BENCHMARK_DATA_DIR", str(tmp_path))
    assert len(TOY.load("train")) == 3
    assert "elsewhere" in failure(lambda: TOY.load("train", data_dir=tmp_path / "elsewhere"))


def test_grey_and_colour_are_converted_to_what_the_dataset_holds(tmp_path: Path) -> None:
    colour = np.repeat(toy_pixels(1)[0, :, :, None], 3, axis=2)
    write_toy(tmp_path, [1], images=[encode(colour)])
    check_toy(TOY.load("train", data_dir=tmp_path), [1], toy_pixels(1))
    wide = DatasetSource(DatasetInfo("toy", (3, 4, 6), 3, ("a", "b", "c"), augment=True))
    write_toy(tmp_path, [1])
    x = wide.load("train", data_dir=tmp_path).images[0]
    assert all(np.array_equal(channel.numpy(), toy_pixels(1)[0]) for channel in x)


# --- the mirror, bad data --------------------------------------------------------------------


def load_toy(folder: Path) -> str:
    return failure(lambda: TOY.load("train", data_dir=folder))


def test_missing_columns_are_named(tmp_path: Path) -> None:
    write_toy(tmp_path, [0], column="picture")
    assert "train.parquet: column 'image' or 'img' is missing" in load_toy(tmp_path)
    assert "columns found: picture, label" in load_toy(tmp_path)
    write_toy(tmp_path, [0], label_column="fine_label")
    assert "column 'label' is missing; columns found: image, fine_label" in load_toy(tmp_path)


@pytest.mark.parametrize("images", [[3], [[1, 2]], [{"path": "0.png"}]])
def test_an_image_column_of_another_kind(tmp_path: Path, images: list[Any]) -> None:
    write_toy(tmp_path, [0], images=images)
    assert "train.parquet: column 'image' is" in load_toy(tmp_path)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 3], "row 2 has label 3; toy labels are 0 to 2"),
        ([0, -1, 1], "row 1 has label -1"),
        ([0.0, 1.0, 2.0], "column 'label' is double, not integer"),
        (["0", "1", "2"], "column 'label' is string, not integer"),
        ([True, False, True], "column 'label' is bool, not integer"),
        ([0, None, 2], "row 1 has no label"),
    ],
)
def test_bad_labels(tmp_path: Path, labels: list[Any], said: str) -> None:
    write_toy(tmp_path, labels)
    assert said in load_toy(tmp_path)


def test_files_without_a_row(tmp_path: Path) -> None:
    write_toy(tmp_path, [], images=pa.array([], pa.binary()), label_type=pa.int64())
    assert load_toy(tmp_path) == "toy train: the files hold no images"


def test_bad_images_name_file_and_row(tmp_path: Path) -> None:
    good = encode(toy_pixels(1)[0])
    cases = {
        b"not an image": "row 3: not a readable image",
        b"": "row 3: not a readable image",
        good[:-30]: "row 3: not a readable image",
        None: "row 3 has no image bytes",
        encode(np.zeros((6, 4), np.uint8)): "row 3: the image is 4x6 pixels; toy needs 6x4",
        encode(np.zeros((28, 28, 3), np.uint8), "JPEG"): "the image is 28x28 pixels",
    }
    for data, said in cases.items():
        write_toy(tmp_path, [0, 1, 2, 0], images=[good, good, good, data], row_group_size=2)
        message = load_toy(tmp_path)
        assert said in message
        assert "object at 0x" not in message
        assert str(tmp_path / "toy" / "train.parquet") in message
        structs = [{"bytes": value, "path": None} for value in (good, good, good, data)]
        write_toy(tmp_path, [0, 1, 2, 0], images=structs, row_group_size=2)
        assert said in load_toy(tmp_path)


def test_a_file_that_is_no_parquet_or_is_cut_short(tmp_path: Path) -> None:
    path = write_toy(tmp_path, [0, 1, 2])
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2], b"PAR1" + whole[-200:]):
        path.write_bytes(damaged)
        assert f"{path}: not a readable Parquet file" in load_toy(tmp_path)
    images = whole[:40] + bytes(len(whole[40:-600])) + whole[-600:]
    path.write_bytes(images)
    assert str(path) in load_toy(tmp_path)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_toy(tmp_path, [0])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # chmod would not stop root
        patch.setattr(pq, "ParquetFile", refuse)
        assert load_toy(tmp_path) == f"{path}: no permission to read this file"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        assert "Permission denied" in load_toy(tmp_path)


@pytest.mark.parametrize("n", [0, -5])
def test_n_must_be_positive(n: int) -> None:
    assert f"--n-train must be at least 1, got {n}" in failure(lambda: DIGITS.load("train", n=n))


def test_n_must_not_exceed_the_split() -> None:
    message = failure(lambda: DIGITS.load("train", n=70_000))
    assert message == (
        "digits train has 1,297 images, 70,000 were asked for: --n-train must be at most 1297"
    )
    assert "--n-test must be at most 500" in failure(lambda: DIGITS.load("test", n=501))


def test_an_unknown_split_is_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="valid"):
        DIGITS.load("valid")  # type: ignore[arg-type]


def test_a_folder_without_the_dataset_starts_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a download was started")

    source = DatasetSource(MNIST.info, download=forbidden)  # type: ignore[arg-type]
    message = failure(lambda: source.load("test", data_dir=tmp_path))
    assert f"{tmp_path}/mnist/test*.parquet and {tmp_path}/mnist/val*.parquet" in message
    assert "leave the folder out to download" in message
    absent = failure(lambda: source.load("train", data_dir=tmp_path / "absent"))
    assert "is not a folder" in absent


# --- downloads -------------------------------------------------------------------------------


def test_a_failed_download_says_why_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("Name or service not known\nsecond line")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", offline)
    for source in (MNIST, FASHION_MNIST, CIFAR10, STL10, TINY_IMAGENET):
        name = source.info.name
        message = failure(lambda source=source: source.load("train", n=10))
        assert f"{name}: the download into {tmp_path / 'cache' / 'datasets'} failed" in message
        assert "Name or service not known" in message
        assert f"--data-dir DIR (or BENCHMARK_DATA_DIR) with DIR/{name}/train*.parquet" in message
    assert "toy: there is no download" in failure(lambda: TOY.load("train"))


def test_the_download_folder_is_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert downloads.download_folder() == tmp_path / "cache" / "datasets"
    monkeypatch.delenv("BENCHMARK_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if downloads.platformdirs.user_cache_path("x").is_relative_to(tmp_path):  # not on Windows
        assert downloads.download_folder() == tmp_path / "xdg" / "defensebench" / "datasets"


@pytest.mark.parametrize(("source", "folder"), [(MNIST, "MNIST"), (FASHION_MNIST, "FashionMNIST")])
def test_the_official_files_of_mnist(source: DatasetSource, folder: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    raw = tmp_path / "cache" / "datasets" / folder / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        head = struct.pack(">iiii", 2051, 20, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">ii", 2049, 20) + labels.tobytes()
        )
    d = source.load("test", n=15)
    assert d.source == "download"
    assert np.array_equal(d.images[:, 0].numpy(), pixels[d.sample_ids.numpy()])
    assert d.labels.tolist() == (d.sample_ids % 10).tolist()
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"cut")
    assert "t10k-images-idx3-ubyte: damaged; delete" in failure(lambda: source.load("test"))
    (raw / "SHA256SUMS").unlink()
    assert "failed" in failure(lambda: source.load("test"))


def test_the_official_files_of_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10 as OFFICIAL

    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / "cache" / "datasets" / OFFICIAL.base_folder
    folder.mkdir(parents=True)
    batch = {"data": pixels.reshape(10, -1), "labels": list(range(10))}
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    monkeypatch.setattr(OFFICIAL, "_check_integrity", lambda _: True)
    monkeypatch.setattr(OFFICIAL, "_load_meta", lambda _: None)
    d = CIFAR10.load("test")
    assert d.labels.tolist() == d.sample_ids.tolist()
    assert np.array_equal(d.images.numpy(), pixels[d.sample_ids.numpy()])


def test_the_official_files_of_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10 as OFFICIAL

    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 96, 96), dtype=np.uint8)
    folder = tmp_path / "cache" / "datasets" / OFFICIAL.base_folder
    folder.mkdir(parents=True)
    (folder / "train_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
    (folder / "train_y.bin").write_bytes(bytes(range(1, 11)))  # the official labels start at 1
    monkeypatch.setattr(OFFICIAL, "_check_integrity", lambda _: True)
    d = STL10.load("train")
    assert d.labels.tolist() == d.sample_ids.tolist()
    assert np.array_equal(d.images.numpy(), pixels[d.sample_ids.numpy()])


def tiny_zip(path: Path) -> dict[str, np.ndarray]:
    """Write a Tiny ImageNet of three classes; return its images by file name."""
    images = {}
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:

        def add(name: str) -> None:
            images[Path(name).name] = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            # PNG bytes under a JPEG's name: lossless, and readers look at the bytes.
            archive.writestr(f"tiny-imagenet-200/{name}", encode(images[Path(name).name]))

        archive.writestr("tiny-imagenet-200/wnids.txt", "n03\nn01\nn02\n")  # not sorted there
        for wnid in ("n01", "n02", "n03"):
            for i in range(2):
                add(f"train/{wnid}/images/{wnid}_{i}.JPEG")
        lines = []
        for i, wnid in enumerate(("n02", "n03", "n01", "n03")):
            add(f"val/images/val_{i}.JPEG")
            lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62\n")
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "".join(lines))
    return images


def test_tiny_imagenet_from_its_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = tmp_path / "remote.zip"
    images = tiny_zip(remote)
    fetched = []

    def fetch(url: str, target: str | Path, *_: object, **__: object) -> None:
        fetched.append(url)
        Path(target).write_bytes(remote.read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fetch)
    message = failure(lambda: TINY_IMAGENET.load("train"))
    assert "tiny_imagenet: the download" in message  # the checksum is not the official one's
    assert not (tmp_path / "cache/datasets/tiny-imagenet-200").exists()

    md5 = hashlib.md5(remote.read_bytes()).hexdigest()
    root = tmp_path / "tiny"
    train = downloads.open_tiny_imagenet(TINY_IMAGENET.info, "train", root, md5=md5)
    test = downloads.open_tiny_imagenet(TINY_IMAGENET.info, "test", root, md5=md5)
    assert fetched == [downloads.TINY_IMAGENET_URL] * 2
    assert [path.name for path in root.iterdir()] == ["tiny-imagenet-200"]
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.labels.tolist() == [1, 2, 0, 2]
    both = train.read(np.array([3, 0]))
    assert np.array_equal(both[0].transpose(1, 2, 0), images["n02_1.JPEG"])
    assert np.array_equal(both[1].transpose(1, 2, 0), images["n01_0.JPEG"])
    assert np.array_equal(test.read(np.array([2]))[0].transpose(1, 2, 0), images["val_2.JPEG"])

    folder = root / "tiny-imagenet-200"
    (folder / "val/images/val_2.JPEG").write_bytes(b"cut")
    assert f"val_2.JPEG: damaged; delete {folder}" in failure(lambda: test.read(np.array([2])))
    (folder / "train/n02/images/n02_0.JPEG").unlink()
    assert "1 of 6 train images are missing" in failure(
        lambda: downloads.read_tiny_imagenet(TINY_IMAGENET.info, "train", folder)
    )
    (folder / "SHA256SUMS").unlink()  # as a version without checksums left it
    unchecked = downloads.read_tiny_imagenet(TINY_IMAGENET.info, "test", folder)
    assert "val_2.JPEG: not a readable image" in failure(lambda: unchecked.read(np.array([2])))
    (folder / "wnids.txt").write_text("")
    assert "no train images" in failure(
        lambda: downloads.read_tiny_imagenet(TINY_IMAGENET.info, "train", folder)
    )


def test_every_registered_dataset_is_described() -> None:
    for source in (DIGITS, MNIST, FASHION_MNIST, CIFAR10, STL10, TINY_IMAGENET):
        info = source.info
        assert len(set(info.class_names)) == info.n_classes
        assert info.augment == (info.shape[0] == 3)
        assert getattr(catalogue, info.name.upper()) is source
