"""Images from a Hugging Face Dataset: a stand-in that can do what is used of the library."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from benchmark.datasets.handed_over import read_images
from benchmark.errors import UsageError

N = 12
BYTES = np.random.default_rng(0).integers(0, 256, (N, 4, 6, 3), dtype=np.uint8)
LABELS = (np.arange(N) % 3).tolist()
NAMES = ("ant", "bee", "cat")


class Image:
    """The feature of a column of images."""


class Value:
    """The feature of any other column."""


class ClassLabel:
    def __init__(self, names: tuple[str, ...] = NAMES):
        self.names = list(names)


class Table:
    """Rows by number, columns by name."""

    def __init__(self, features: dict[str, Any], transform: Any = None, **columns: Any):
        self.features, self.columns, self.transform = features, columns, transform
        self.column_names = list(columns)
        self.format = {"type": "custom" if transform else None}
        self.info = SimpleNamespace(dataset_name="insects")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        row = {name: values[key] for name, values in self.columns.items()}
        return self.transform(row) if self.transform else row

    def select_columns(self, names: list[str]) -> "Table":
        return Table(self.features, **{name: self.columns[name] for name in names})


FEATURES = {"image": Image(), "label": ClassLabel()}
PICTURES = [Pillow.fromarray(pixels) for pixels in BYTES]


def encoded(picture: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def transform(row: dict[str, Any]) -> dict[str, Any]:
    pixels = np.asarray(row["image"]).transpose(2, 0, 1)
    return {"pixel_values": torch.from_numpy(pixels.copy()) / 255, "label": row["label"]}


class Streamed:
    """What ``load_dataset(..., streaming=True)`` gives."""

    def __init__(self, table: Table):
        self.table, self.features, self.info = table, table.features, table.info
        self.column_names = table.column_names

    def __iter__(self) -> Any:
        return (self.table[row] for row in range(N))


GOOD: dict[str, Any] = {
    "pictures": Table(FEATURES, image=PICTURES, label=LABELS),
    "not decoded": Table(FEATURES, image=list(map(encoded, PICTURES)), label=LABELS),
    "arrays": Table({"label": ClassLabel()}, image=BYTES.tolist(), label=LABELS),
    "odd names": Table({"a": Image(), "b": ClassLabel()}, a=PICTURES, b=LABELS),
    "streamed": Streamed(Table({"a": Image(), "b": ClassLabel()}, a=PICTURES, b=LABELS)),
    "transformed": Table(FEATURES, transform, image=PICTURES, label=LABELS),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_dataset(name: str) -> None:
    given = read_images(GOOD[name])
    assert (given.name, given.source, given.n_available) == ("insects", "dataset", N)
    assert given.class_names == NAMES
    assert np.array_equal(given.images, BYTES[given.sample_ids].transpose(0, 3, 1, 2))
    assert np.array_equal(given.labels, given.sample_ids % 3)
    assert read_images(GOOD[name], n=4).sample_ids.tolist() == given.sample_ids[:4].tolist()


def test_of_two_label_columns_the_usual_or_the_named_one() -> None:
    features = {"img": Image(), "coarse_label": ClassLabel(("x", "y")), "fine_label": ClassLabel()}
    coarse = [label % 2 for label in LABELS]
    data = Table(features, img=PICTURES, coarse_label=coarse, fine_label=LABELS)
    assert read_images(data).class_names == NAMES
    assert read_images(data, label_column="coarse_label").class_names == ("x", "y")


def test_pictures_are_resized_and_read_from_their_paths(tmp_path: Path) -> None:
    for row, picture in enumerate(PICTURES):
        picture.save(tmp_path / f"{row}.png")
    paths = [{"bytes": None, "path": str(tmp_path / f"{row}.png")} for row in range(N)]
    data = Table(FEATURES, image=paths, label=LABELS)
    assert read_images(data, resize=3, crop=2).images.shape == (N, 3, 2, 2)
    (tmp_path / "5.png").unlink()
    with pytest.raises(UsageError, match=r"row 5 of the dataset failed \(FileNotFoundError"):
        read_images(data)


GOOD_TABLE = GOOD["pictures"]
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "splits": ({"train": GOOD_TABLE, "test": GOOD_TABLE}, {}, r"train, test: .* data\['test'\]"),
    "labels": (GOOD_TABLE, {"labels": LABELS}, "leave labels= out"),
    "column": (GOOD_TABLE, {"image_column": "z"}, "'z' is missing; columns found: image, label"),
    "no column": (Table({}, a=PICTURES, label=LABELS), {}, "among a, label: name it, image_column"),
    "unlabelled": (Table(FEATURES, image=PICTURES, label=[-1] * N), {}, "image 0 has label -1"),
    "no image": (Table(FEATURES, image=[None] * N, label=LABELS), {}, r"row \d+ has no image"),
    "arrays resized": (GOOD["arrays"], {"resize": 3}, "stored as pictures"),
    "transformed, resized": (GOOD["transformed"], {"resize": 3}, "stored as pictures"),
    "empty": (Table(FEATURES, image=[], label=[]), {}, "holds no images"),
    "sizes": (
        Table(FEATURES, image=[Pillow.new("RGB", (9, 9)), *PICTURES[1:]], label=LABELS),
        {},
        "differ in size: row .* resize=",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_gets_one_line(name: str) -> None:
    data, options, line = WRONG[name]
    with pytest.raises(UsageError, match=line) as caught:
        read_images(data, **options)
    assert "\n" not in str(caught.value)
