"""Images from Parquet files, as the datasets library writes them, and what is refused."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark.datasets import balanced_order
from benchmark.datasets.handed_over import read_images
from benchmark.errors import UsageError
from benchmark.hashing import derive_seed

N = 12
BYTES = np.random.default_rng(0).integers(0, 256, (N, 4, 6, 3), dtype=np.uint8)
LABELS = (np.arange(N) % 3).tolist()


def encode(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


PNG = [encode(pixels) for pixels in BYTES]


def structs(images: list[Any]) -> Any:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": image, "path": "a.png"} for image in images], kind)


def write(path: Path, names: tuple[str, ...] = (), **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if names:
        label = {"names": list(names), "_type": "ClassLabel"}
        about = {"info": {"features": {"label": label, "image": {"_type": "Image"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(table, path, row_group_size=5)
    return path


@pytest.mark.parametrize("images", [PNG, structs(PNG)], ids=["bytes", "struct"])
@pytest.mark.parametrize("columns", [("image", "label"), ("img", "fine_label"), ("a", "b")])
def test_a_parquet_file(images: Any, columns: tuple[str, str], tmp_path: Path) -> None:
    path = write(tmp_path / "mine.parquet", **dict(zip(columns, (images, LABELS), strict=True)))
    named = dict(zip(("image_column", "label_column"), columns, strict=True))
    given = read_images(path, **(named if columns == ("a", "b") else {}))
    assert (given.name, given.source, given.n_available) == ("mine", "file", N)
    assert np.array_equal(given.images, BYTES[given.sample_ids].transpose(0, 3, 1, 2))
    assert np.array_equal(given.labels, given.sample_ids % 3)


def test_class_names_of_the_metadata_and_of_strings(tmp_path: Path) -> None:
    names = ("ant", "bee", "cat")
    path = write(tmp_path / "a.parquet", names, image=PNG, label=LABELS)
    assert read_images(path).class_names == names
    words = [("x", "y", "z")[label] for label in LABELS]
    assert read_images(write(path, image=PNG, label=words)).class_names == ("x", "y", "z")
    assert read_images(write(path, image=PNG, label=LABELS)).class_names is None


def test_a_folder_of_shards(tmp_path: Path) -> None:
    for part in range(2):
        rows = slice(part * 6, part * 6 + 6)
        path = tmp_path / "mine" / f"test-0000{part}-of-00002.parquet"
        write(path, image=PNG[rows], label=LABELS[rows])
    write(tmp_path / "mine" / "train.parquet", image=PNG[:4], label=LABELS[:4])
    given = read_images(tmp_path / "mine", n=7)
    order = balanced_order(np.array(LABELS), derive_seed("dataset order", "mine", "test"))
    assert given.sample_ids.tolist() == order[:7].tolist()
    assert np.array_equal(given.images, BYTES[order[:7]].transpose(0, 3, 1, 2))
    assert read_images(tmp_path / "mine", split="train").n_available == 4
    assert read_images(path).name == "mine"
    with pytest.raises(UsageError, match="no file of the split 'validation'"):
        read_images(tmp_path / "mine", split="validation")
    path.unlink()
    with pytest.raises(UsageError, match="of-00002"):
        read_images(tmp_path / "mine")


def test_sizes_and_greys(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, image=[encode(pixels[..., 0]) for pixels in BYTES], label=LABELS)
    assert read_images(path, resize=3, crop=2).images.shape == (N, 1, 2, 2)


MIXED = [encode(np.zeros((9, 9, 3), np.uint8)), *PNG[1:]]
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no image": ({"label": LABELS}, {}, "'image' or 'img' .*is missing; columns found: label"),
    "no label": ({"image": PNG}, {}, "'label' or .*is missing; columns found: image"),
    "other name": ({"image": PNG, "label": LABELS}, {"image_column": "z"}, "'z' is missing"),
    "other label": ({"image": PNG, "label": LABELS}, {"label_column": "z"}, "'z' is missing"),
    "paths": ({"image": ["a.png"] * N, "label": LABELS}, {}, "expected encoded images"),
    "no bytes": (
        {"image": structs([None] * N), "label": LABELS},
        {},
        "has no image bytes, only the path a.png",
    ),
    "no label there": ({"image": PNG, "label": [0, None, *LABELS[2:]]}, {}, "row 1 has no label"),
    "negative": ({"image": PNG, "label": [0, -1, *LABELS[2:]]}, {}, "image 1 has label -1"),
    "lists": ({"image": PNG, "label": [[1, 1]] * N}, {}, "not one-hot"),
    "damaged": ({"image": [b"no"] * N, "label": LABELS}, {}, r"row \d+: not a readable image"),
    "sizes": ({"image": MIXED, "label": LABELS}, {}, "differ in size: .* resize="),
    "empty": ({"image": pa.array([], pa.binary()), "label": []}, {}, "it holds no images"),
    "beyond": ({"image": PNG, "label": LABELS}, {"n": 13}, "n = 13 .* there are 12"),
    "labels": ({"image": PNG, "label": LABELS}, {"labels": LABELS}, "leave labels= out"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_gets_one_line(name: str, tmp_path: Path) -> None:
    columns, options, line = WRONG[name]
    path = write(tmp_path / "a.parquet", **columns)
    with pytest.raises(UsageError, match=line) as caught:
        read_images(path, **options)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(UsageError, match="not a readable Parquet file"):
        read_images(path)
