"""A folder with a subfolder of image files for each class, as torchvision's ImageFolder has it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmark.datasets.handed_over.given_images import Opened
from benchmark.datasets.handed_over.names import SPLITS, name_of
from benchmark.datasets.handed_over.pictures import Fit, as_pixels
from benchmark.datasets.handed_over.pixels import Say
from benchmark.datasets.info import Rows
from benchmark.errors import UsageError, cause

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def open_folder_of_classes(folder: Path, fit: Fit, say: Say) -> Opened:
    """Open the images below ``folder``; a class is a subfolder, numbered by its sorted name."""
    try:
        classes = sorted(
            path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._"
        )
        names = tuple(path.name for path in classes)
        _check_classes(folder, names)
        files = [sorted(_images(path)) for path in classes]
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({cause(error)})") from None
    empty = [path.name for path, found in zip(classes, files, strict=True) if not found]
    if len(empty) == len(classes):
        raise UsageError(f"{folder}: no image files in its subfolders ({', '.join(ENDINGS)})")
    if empty:
        say(f"{folder}: no images of {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}")
    paths = [path for found in files for path in found]
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in files]).astype(np.int64)

    def read(rows: Rows) -> Tensor:
        def pictures() -> Iterator[tuple[int, bytes, str]]:
            for place, row in enumerate(rows):
                path = paths[row]
                try:
                    yield place, path.read_bytes(), str(path)
                except OSError as error:
                    raise UsageError(f"{path}: cannot be read ({cause(error)})") from None

        return as_pixels(pictures(), len(rows), fit, say)

    return Opened(labels, read, name_of(folder), "folder", names)


def _images(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file():
            yield path


def _check_classes(folder: Path, names: tuple[str, ...]) -> None:
    if not names:
        raise UsageError(
            f"{folder}: it has no subfolders; images are read from a subfolder for each class, such"
            f" as {folder / 'cat' / '1.png'}"
        )
    if all(name.lower() in SPLITS for name in names):
        raise UsageError(
            f"{folder}: its subfolders are splits ({', '.join(names)}), not classes: name one of"
            f" them, such as {folder / names[-1]}"
        )
