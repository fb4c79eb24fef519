"""Images from a folder of classes: sizes, kinds and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.datasets.handed_over import read_images
from benchmark.datasets.handed_over.pictures import Fit
from benchmark.errors import UsageError

BYTES = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
CLASSES = ("ant", "bee", "cat")


def write(folder: Path, name: str, pixels: Any, **options: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of each class, the rows of BYTES in the order of their paths."""
    root = tmp_path / "mine"
    for row, pixels in enumerate(BYTES):
        write(root, f"{CLASSES[row // 2]}/{row}.png", pixels)
    return root


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_of_classes(folder: Path, kind: Callable[[Path], Any]) -> None:
    write(folder, ".hidden/1.png", BYTES[0])
    (folder / "ant" / "notes.txt").write_text("no image")
    (folder / "ant" / "._1.png").write_text("what a Mac leaves in an archive")
    given = read_images(kind(folder))
    assert given.class_names == CLASSES
    assert (given.name, given.source, given.n_available) == ("mine", "folder", 6)
    assert np.array_equal(given.images, BYTES[given.sample_ids].transpose(0, 3, 1, 2))
    assert np.array_equal(given.labels, given.sample_ids // 2)
    assert read_images(folder, n=3).labels.unique().tolist() == [0, 1, 2]


def test_deeper_folders_and_other_endings(folder: Path) -> None:
    write(folder, "dog/deep/6.BMP", BYTES[0])
    write(folder, "dog/deep/7.webp", BYTES[1], lossless=True)
    given = read_images(folder)
    assert (given.labels == 3).sum() == 2
    assert np.array_equal(given.images[given.sample_ids == 7][0], BYTES[1].transpose(2, 0, 1))


def test_greys_alone_are_grey_and_among_colours_colours(tmp_path: Path) -> None:
    for row in range(4):
        write(tmp_path, f"{row % 2}/{row}.png", BYTES[row, ..., 0])
    given = read_images(tmp_path)
    assert given.images.shape == (4, 1, 8, 10)
    write(tmp_path, "0/colour.png", BYTES[4])
    assert read_images(tmp_path).images.shape == (5, 3, 8, 10)


def test_what_was_turned_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    write(tmp_path, "a/1.png", BYTES[0], exif=exif)
    said: list[str] = []
    given = read_images(tmp_path, say=said.append)
    assert said == ["1 of 1 images are turned as their EXIF orientation says"]
    assert np.array_equal(given.images[0], BYTES[0, ::-1, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(37, 50), (50, 37), (40, 40), (97, 41)])
@pytest.mark.parametrize("resize", [None, 20, 33, 60])
@pytest.mark.parametrize("crop", [None, 16, (15, 18)])
def test_sizes_are_brought_about_as_torchvision_does(size: Any, resize: Any, crop: Any) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = image = Image.fromarray(pixels)
    if resize is not None:
        expected = transforms.Resize(resize)(expected)
    if crop is not None:
        expected = transforms.CenterCrop(crop)(expected)
    assert np.array_equal(np.asarray(Fit(resize, crop)(image, "here")), np.asarray(expected))


def test_different_sizes_with_resize_and_crop(folder: Path) -> None:
    write(folder, "cat/wide.png", np.zeros((8, 30, 3), np.uint8))
    given = read_images(folder, resize=6, crop=(6, 5))
    assert given.images.shape == (7, 3, 6, 5)


def spoil(name: str, **options: Any) -> Callable[[Path], Any]:
    return lambda folder: write(folder, name, **options)


def text(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(b"no image at all")


def other_size(folder: Path) -> None:
    write(folder, "cat/9.png", np.zeros((33, 40, 3), np.uint8))


def nothing(folder: Path) -> None:
    return None


def only_splits(folder: Path) -> None:
    for name, other in zip(CLASSES, ("train", "val", "test"), strict=True):
        (folder / name).rename(folder / other)


def no_images(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()


def flat(folder: Path) -> None:
    no_images(folder)
    for name in CLASSES:
        (folder / name).rmdir()


Spoilt = tuple[Callable[[Path], Any], dict[str, Any], str]
WRONG: dict[str, Spoilt] = {
    "sizes": (
        other_size,
        {},
        "differ in size: .*9.png has 40x33 pixels, .* 10x8 .*resize=8, crop=8",
    ),
    "sizes after resize": (other_size, {"resize": 8}, "differ in size"),
    "crop too large": (nothing, {"crop": 9}, "crop of 9x9 pixels does not fit into 10x8"),
    "resize word": (nothing, {"resize": "big"}, "resize='big'"),
    "resize pair": (nothing, {"resize": (8, 8)}, "the length of the shorter side"),
    "crop zero": (nothing, {"crop": 0}, "crop=0"),
    "crop triple": (nothing, {"crop": (1, 2, 3)}, r"crop=\(1, 2, 3\)"),
    "damaged": (text("ant/x.jpg"), {}, "x.jpg: not a readable image"),
    "alpha": (
        spoil("ant/x.png", pixels=Image.new("RGBA", (10, 8))),
        {},
        "x.png: 80 of 80 pixels are not opaque",
    ),
    "16 bits": (
        spoil("ant/x.png", pixels=Image.new("I;16", (10, 8), 999)),
        {},
        "more than 8 bits a channel",
    ),
    "splits": (only_splits, {}, r"are splits \(test, train, val\), not classes"),
    "no images": (no_images, {}, "no image files in its subfolders"),
    "no subfolder": (flat, {}, "it has no subfolders"),
    "n": (nothing, {"n": 7}, "n = 7 images were asked for, and there are 6"),
    "labels": (nothing, {"labels": [0] * 6}, "leave labels= out"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_gets_one_line(name: str, folder: Path) -> None:
    spoilt, options, line = WRONG[name]
    spoilt(folder)
    with pytest.raises(UsageError, match=line) as caught:
        read_images(folder, **options)
    assert "\n" not in str(caught.value)


def test_an_empty_class_keeps_its_number_and_is_said(folder: Path) -> None:
    (folder / "bat").mkdir()
    said: list[str] = []
    given = read_images(folder, say=said.append)
    assert given.class_names == ("ant", "bat", "bee", "cat")
    assert sorted(set(given.labels.tolist())) == [0, 2, 3]
    assert said[0].endswith("no images of bat")


@pytest.mark.parametrize("path", ["/no/such/cifar1", "~nobody/x", "x" * 5000, "a\0b", "mnits"])
def test_an_unknown_path_is_one_line(path: str) -> None:
    with pytest.raises(UsageError, match="unknown path or dataset"):
        read_images(path)


def test_sizes_are_no_matter_of_arrays() -> None:
    with pytest.raises(UsageError, match="resize and crop are for files"):
        read_images((BYTES, range(6)), resize=4)
