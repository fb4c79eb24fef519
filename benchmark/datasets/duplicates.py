"""Images that appear twice: in training and in testing, or twice in one of them.

A model may know a test image that it was trained on by heart, and one that is counted twice
narrows the interval without telling more. How often that matters in practice: Barz and Denzler,
"Do we train on test data?" (2020, https://arxiv.org/abs/1902.00423). Only images that are equal
in every pixel are found, not those that are nearly so. Nothing here needs torch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.hashing import digest_bytes

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

EXPLAINED = "https://arxiv.org/abs/1902.00423"


def count_repeats(train: Pixels, test: Pixels) -> dict[str, int]:
    """Count the images (N, C, H, W) of equal pixels in the two parts, uint8 or float32 in [0, 1].

    ``test_in_train``: test images that are training images too; ``within_test`` and
    ``within_train``: images that repeat an earlier one of their part.
    """
    if train.dtype != test.dtype:
        train, test = _floats(train), _floats(test)
    # SHA-256 of each image costs less than the sorting of a vectorised comparison, and two images
    # of equal digests are equal.
    learnt, asked = _digests(train), _digests(test)
    known = set(learnt)
    return {
        "test_in_train": sum(digest in known for digest in asked),
        "within_test": len(asked) - len(set(asked)),
        "within_train": len(learnt) - len(known),
    }


def _floats(images: Pixels) -> Pixels:
    """Return images as float32 in [0, 1], as a dataset hands them out."""
    return images if images.dtype == np.float32 else images.astype(np.float32) / np.float32(255)


def _digests(images: Pixels) -> list[str]:
    return [digest_bytes([image.data]) for image in np.ascontiguousarray(images)]


def repeats_sentence(counts: Any, n_train: int, n_test: int) -> str:
    """Say what :func:`count_repeats` found; nothing if there are none or it was not counted."""
    if not isinstance(counts, Mapping):
        return ""
    shared, twice, learnt = (
        counts.get(name) for name in ("test_in_train", "within_test", "within_train")
    )
    parts = []
    if _some(shared):
        parts.append(
            f"{shared} of {n_test} test images are training images too, pixel by pixel:"
            " on these a model may answer by heart"
        )
    if _some(twice):
        parts.append(f"{twice} of {n_test} test images repeat an earlier one and count twice")
    if _some(learnt):
        parts.append(f"{learnt} of {n_train} training images repeat an earlier one")
    return "; ".join(parts)


def _some(count: Any) -> bool:
    return isinstance(count, int) and not isinstance(count, bool) and count > 0
