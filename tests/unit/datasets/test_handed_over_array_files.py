"""Images from files of named arrays and from mappings, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import TensorDataset

from benchmark.datasets.handed_over import read_images
from benchmark.errors import UsageError

N = 6
BYTES = np.random.default_rng(0).integers(0, 256, (N, 3, 4, 5), dtype=np.uint8)
LABELS = np.arange(N) % 3
OTHER = np.zeros((2, 3, 4, 5), np.uint8)
TENSORS = {"images": torch.from_numpy(BYTES), "labels": torch.from_numpy(LABELS)}


def npz(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


def safetensors(path: Path) -> None:
    save_file(TENSORS, path)


GOOD: dict[str, tuple[str, Callable[[Path], Any], dict[str, Any]]] = {
    "npz": ("a.npz", lambda path: npz(path, images=BYTES, labels=LABELS), {}),
    "keras": (
        "a.npz",
        lambda path: npz(path, x_train=OTHER, y_train=[0, 1], x_test=BYTES, y_test=LABELS),
        {},
    ),
    "medmnist": (
        "a.npz",
        lambda path: npz(path, train_images=BYTES, train_labels=LABELS[:, None], test_images=OTHER),
        {"split": "train"},
    ),
    "named": (
        "a.npz",
        lambda path: npz(path, pics=BYTES, images=OTHER, what=LABELS),
        {"image_column": "pics", "label_column": "what"},
    ),
    "npz, labels apart": ("a.npz", lambda path: npz(path, images=BYTES), {"labels": LABELS}),
    "npy": ("a.npy", lambda path: np.save(path, BYTES), {"labels": LABELS}),
    "pt": ("a.pt", lambda path: torch.save(TENSORS, path), {}),
    "pth, a pair": ("a.pth", lambda path: torch.save(tuple(TENSORS.values()), path), {}),
    "pt, images": ("a.pt", lambda path: torch.save(TENSORS["images"], path), {"labels": LABELS}),
    "safetensors": ("a.safetensors", safetensors, {}),
}


@pytest.mark.parametrize("name", GOOD)
def test_files_of_arrays(name: str, tmp_path: Path) -> None:
    file, write, options = GOOD[name]
    write(tmp_path / file)
    given = read_images(str(tmp_path / file), **options)
    assert (given.name, given.source, given.n_available) == ("a", "file", N)
    assert np.array_equal(given.images, BYTES[given.sample_ids])
    assert np.array_equal(given.labels, LABELS[given.sample_ids])


def test_mappings_and_class_names() -> None:
    given = read_images({"X": BYTES, "y": LABELS, "class_names": ["ant", "bee", "cat"]})
    assert given.class_names == ("ant", "bee", "cat")
    assert np.array_equal(given.images, BYTES[given.sample_ids])
    assert np.array_equal(read_images({"x": BYTES}, labels=LABELS).labels, given.labels)


Write = Callable[[Path], Any]
WRONG: dict[str, tuple[str, Write, dict[str, Any], str]] = {
    "no zip": ("a.npz", lambda path: path.write_bytes(b"PK no"), {}, "cannot be read"),
    "empty": ("a.npz", lambda path: path.write_bytes(b""), {}, "cannot be read"),
    "objects": (
        "a.npz",
        lambda path: npz(path, images=np.array([None, "x"], object), labels=LABELS),
        {},
        "cannot be read .ValueError: Object arrays",
    ),
    "no images": ("a.npz", lambda path: npz(path, w=BYTES), {}, "image_column=.* it holds w"),
    "no labels": ("a.npz", lambda path: npz(path, x=BYTES), {}, "label_column=.* it holds x"),
    "other name": (
        "a.npz",
        lambda path: npz(path, x=BYTES, y=LABELS),
        {"image_column": "z"},
        "there is no 'z'; it holds x, y",
    ),
    "both": (
        "a.npz",
        lambda path: npz(path, x=BYTES, y=LABELS),
        {"labels": LABELS, "label_column": "y"},
        "leave one of them out",
    ),
    "npy alone": ("a.npy", lambda path: np.save(path, BYTES), {}, "images alone: give labels="),
    "pt objects": (
        "a.pt",
        lambda path: torch.save(TensorDataset(*TENSORS.values()), path),
        {},
        "holds more than tensors",
    ),
    "pt damaged": (
        "a.pt",
        lambda path: path.write_bytes(b"\x80\x02no"),
        {},
        "a.pt (holds more|cannot be read)",
    ),
    "pt empty": ("a.pt", lambda path: path.write_bytes(b""), {}, "a.pt cannot be read"),
    "weights": (
        "a.pt",
        lambda path: torch.save(torch.nn.Linear(2, 2).state_dict(), path),
        {},
        "it holds weight, bias",
    ),
    "safetensors": (
        "a.safetensors",
        lambda path: path.write_bytes(b"no"),
        {},
        "cannot be read",
    ),
    "resize": ("a.npz", lambda path: npz(path, x=BYTES), {"resize": 4}, "for files of images"),
    "ending": (
        "a.csv",
        lambda path: path.write_text("1"),
        {},
        "a file that ends in .parquet, .npz",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_gets_one_line(name: str, tmp_path: Path) -> None:
    file, write, options, line = WRONG[name]
    write(tmp_path / file)
    with pytest.raises(UsageError, match=line) as caught:
        read_images(tmp_path / file, **options)
    assert "\n" not in str(caught.value)
