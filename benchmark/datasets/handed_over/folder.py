"""A folder with a subfolder of images per class, as torchvision's ImageFolder reads them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from benchmark.datasets.handed_over.given import Found, Images
from benchmark.datasets.info import Rows
from benchmark.errors import UsageError, first_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp", ".tif", ".tiff")

MOST_PIXELS = 2**26
"""Of one image; a larger one is a mistake, or made to fill the memory (docs/constants.md)."""

Size = int | tuple[int, int] | None


def from_folder(folder: Path, resize: Size, crop: Size) -> Found:
    """Return the images of a folder, decoded when they are read.

    ``resize`` is the shorter side, or (height, width); ``crop`` cuts out the centre: a side, or
    (height, width). Both as torchvision's Resize and CenterCrop do it on Pillow's images.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    files = [
        (path, label)
        for label, own in enumerate(classes)
        for path in sorted(own.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise UsageError(
            f"{folder}: no images in subfolders; expected one folder per class, as in"
            f" {folder.name}/cat/1.png"
        )

    def read(rows: Rows) -> Images:
        return _same([_decoded(files[int(row)][0], resize, crop) for row in rows], folder)

    labels = np.array([label for _, label in files])
    return Found(
        folder.resolve().name, labels, read, "folder", tuple(path.name for path in classes)
    )


def shaped(image: Image.Image, resize: Size, crop: Size) -> Image.Image:
    """Return an image resized, then cropped in its centre."""
    from torchvision.transforms import functional  # here, since most data need neither

    if resize is not None:
        size = [resize] if isinstance(resize, int) else list(resize)
        image = functional.resize(image, size, antialias=True)
    if crop is not None:
        image = functional.center_crop(image, [crop, crop] if isinstance(crop, int) else list(crop))
    return image


def _decoded(path: Path, resize: Size, crop: Size) -> Images:
    """Decode a file into (C, H, W), uint8."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UsageError(f"{path} has {image.width} x {image.height} pixels, too many")
            upright = ImageOps.exif_transpose(image)
            plain = upright if upright.mode in ("L", "RGB") else upright.convert("RGB")
            array = np.asarray(shaped(plain, resize, crop))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise UsageError(f"{path} is no image that can be read: {first_line(error)}") from None
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _same(images: list[Images], folder: Path) -> Images:
    if len({image.shape[0] for image in images}) > 1:  # greys among colours
        images = [np.repeat(x, 3, 0) if x.shape[0] == 1 else x for x in images]
    shapes = sorted({image.shape[1:] for image in images})
    if len(shapes) > 1:
        raise UsageError(
            f"{folder}: images differ in size ({shapes[0]} and {shapes[-1]}, height and width);"
            " give resize and crop, for example resize=256, crop=224"
        )
    return np.stack(images)
