"""Images that a user hands over in memory: every form that is taken, and every one that is not."""

from typing import Any

import numpy as np
import pytest
import torch

from benchmark.datasets import DIGITS, ImageDataset, balanced_order
from benchmark.datasets.handed_over import read_images
from benchmark.errors import UsageError
from benchmark.hashing import derive_seed

N, H, W = 12, 4, 5
BYTES = np.random.default_rng(0).integers(0, 256, (N, 3, H, W), dtype=np.uint8)
FLOATS = np.random.default_rng(1).random((N, 3, H, W), np.float32)
LABELS = np.arange(N) % 3


def in_order(given: Any) -> Any:
    """The images in the order of the data, as float64 in [0, 255]."""
    images = given.images[torch.argsort(given.sample_ids)].double().numpy()
    return images if given.images.dtype == torch.uint8 else images * 255


IMAGES = {
    "uint8": (BYTES, torch.uint8, BYTES),
    "tensor": (torch.from_numpy(BYTES), torch.uint8, BYTES),
    "int64": (BYTES.astype(np.int64), torch.uint8, BYTES),
    "uint16": (BYTES.astype(np.uint16), torch.uint8, BYTES),
    "other byte order": (BYTES.astype(">i4"), torch.uint8, BYTES),
    "multiples of 1/255": (BYTES / np.float32(255), torch.uint8, BYTES),
    "float64 multiples": (BYTES / 255, torch.uint8, BYTES),
    "float": (FLOATS, torch.float32, FLOATS * 255.0),
    "float64": (FLOATS.astype(np.float64), torch.float32, FLOATS * 255.0),
    "bfloat16": (
        torch.from_numpy(FLOATS).bfloat16(),
        torch.float32,
        torch.from_numpy(FLOATS).bfloat16().double().numpy() * 255,
    ),
    "needs a gradient": (torch.from_numpy(FLOATS).requires_grad_(), torch.float32, FLOATS * 255.0),
    "a hair outside": (np.where(FLOATS > 0.9, 1 + 5e-7, FLOATS), torch.float32, None),
    "grey": (BYTES[:, 0], torch.uint8, BYTES[:, :1]),
    "channels last": (BYTES.transpose(0, 2, 3, 1), torch.uint8, BYTES),
    "grey, last": (BYTES[:, 0, :, :, None], torch.uint8, BYTES[:, :1]),
    "backwards": (BYTES[::-1], torch.uint8, BYTES[::-1]),
    "list of arrays": (list(BYTES), torch.uint8, BYTES),
    "list of tensors": (list(torch.from_numpy(BYTES)), torch.uint8, BYTES),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_in_memory(name: str) -> None:
    images, dtype, expected = IMAGES[name]
    given = read_images((images, LABELS))
    assert given.images.dtype == dtype
    assert given.images.is_contiguous()
    if expected is not None:
        assert in_order(given) == pytest.approx(expected.astype(np.float64), abs=1e-4)
    few = given.few()
    assert few.dtype == torch.float32
    assert len(few) == 8
    assert few.min() >= 0
    assert few.max() <= 1
    assert len(given.few(100)) == N


def test_three_grey_images_are_no_single_image() -> None:
    given = read_images((BYTES[:3, 0], [0, 1, 2]))
    assert given.images.shape == (3, 1, H, W)


def test_turned_channels_are_said() -> None:
    said: list[str] = []
    read_images((BYTES.transpose(0, 2, 3, 1), LABELS), say=said.append)
    assert len(said) == 1
    assert "channels last" in said[0]
    read_images((BYTES, LABELS), say=said.append)
    assert len(said) == 1


WHOLE = LABELS.tolist()
GOOD_LABELS: dict[str, tuple[Any, tuple[str, ...] | None]] = {
    "list": (WHOLE, None),
    "tensor": (torch.tensor(WHOLE), None),
    "uint8": (LABELS.astype(np.uint8), None),
    "whole floats": (LABELS.astype(np.float32), None),
    "objects": (np.array(WHOLE, object), None),
    "column": (LABELS[:, None], None),
    "one-hot": (np.eye(3)[LABELS], None),
    "one-hot, whole": (np.eye(5, dtype=np.int64)[LABELS], None),
    "names": ([("ant", "bee", "cat")[i] for i in WHOLE], ("ant", "bee", "cat")),
    "names, objects": (np.array([("x", "y", "z")[i] for i in WHOLE], object), ("x", "y", "z")),
}


@pytest.mark.parametrize("name", GOOD_LABELS)
@pytest.mark.parametrize("apart", [False, True])
def test_labels_in_memory(name: str, apart: bool) -> None:
    labels, class_names = GOOD_LABELS[name]
    given = read_images(BYTES, labels=labels) if apart else read_images((BYTES, labels))
    assert given.labels.dtype == given.sample_ids.dtype == torch.int64
    assert np.array_equal(given.labels, LABELS[given.sample_ids])
    assert given.class_names == class_names


def test_n_images_are_the_first_of_the_balanced_order() -> None:
    order = balanced_order(LABELS, derive_seed("dataset order", "images", "test"))
    given = read_images((BYTES, LABELS), n=np.int64(7))
    assert given.sample_ids.tolist() == order[:7].tolist()
    assert given.n_available == N
    assert np.array_equal(given.images, BYTES[order[:7]])
    assert read_images((BYTES, LABELS + 10**6), n=7).sample_ids.tolist() == order[:7].tolist()


def test_the_harness_takes_them() -> None:
    given = read_images((FLOATS, LABELS), n=5)
    data = given.dataset(given.info(4), "cpu")
    assert isinstance(data, ImageDataset)
    assert torch.equal(data.x(), given.images)
    assert data.info.class_names == ("class 0", "class 1", "class 2", "class 3")
    named = read_images((FLOATS, [("b", "a", "c")[i] for i in WHOLE]))
    assert named.info(4).class_names == ("a", "b", "c", "class 3")


def test_a_registered_name_is_what_a_run_loads() -> None:
    given, loaded = read_images("digits", n=30), DIGITS.load("test", n=30)
    assert given.dataset(given.info(10), "cpu").checksum == loaded.checksum
    assert given.n_available == 500
    assert given.class_names == DIGITS.info.class_names
    assert read_images("digits", split="train").n_available == 1297


def test_labels_beyond_the_model() -> None:
    given = read_images((BYTES, LABELS + 1))
    with pytest.raises(
        UsageError, match=r"answers 3 classes, and image \d+ has label 3: .* 1 to 3"
    ):
        given.info(3)
    with pytest.raises(UsageError, match="answers 2 classes, and image"):
        given.info(2)


def pair(images: Any, labels: Any = LABELS) -> dict[str, Any]:
    return {"data": (images, labels)}


SPOILT = FLOATS.copy()
SPOILT[3, 0, 0, 0] = np.nan
ENDLESS = FLOATS.copy()
ENDLESS[3, 0, 0, 0] = np.inf
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "up to 255": (pair(BYTES.astype(np.float32)), "divide by 255"),
    "normalised": (pair((FLOATS - 0.5) / 0.2), "mean and std"),
    "a little above": (pair(FLOATS * 1.5), r"float in \[0, 1\]"),
    "far above": (pair(FLOATS * 1000), r"float in \[0, 1\]"),
    "nan": (pair(SPOILT), "image 3 holds NaN"),
    "infinite": (pair(ENDLESS), "image 3 holds infinite"),
    "bool": (pair(BYTES > 9), "true or false"),
    "16 bits": (pair(BYTES.astype(np.int64) * 256), "whole numbers from 0 to"),
    "signed": (pair(BYTES.astype(np.int64) - 128), "whole numbers from -128"),
    "ones": (pair((BYTES > 9).astype(np.uint8)), "0 or 1 of 255"),
    "complex": (pair(FLOATS * 1j), "complex"),
    "strings": (pair(["a.png"] * N), "of type <U5"),
    "ragged": (pair([np.zeros((3, 4, 4)), np.zeros((3, 5, 4))]), "one size"),
    "ragged tensors": (pair([torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)]), "one size"),
    "single": (pair(BYTES[0], [1]), r"images\[None\]"),
    "single, last": (pair(BYTES[0].transpose(1, 2, 0), [1]), r"images\[None\]"),
    "flat": (pair(np.zeros((N, 3072), np.float32)), "-1, 3, 32, 32"),
    "flat grey": (pair(np.zeros((N, 784), np.float32)), "-1, 1, 28, 28"),
    "flat, no square": (pair(np.zeros((N, 7), np.float32)), "-1, channels, height, width"),
    "five axes": (pair(BYTES[None]), "5 axes"),
    "one axis": (pair(BYTES[0, 0, 0]), "1 axes"),
    "ambiguous": (pair(np.zeros((N, 1, 4, 3), np.uint8)), "axis 1 or axis 3"),
    "ambiguous, both 3": (pair(np.zeros((N, 3, 4, 3), np.uint8)), "axis 1 or axis 3"),
    "divided twice": (pair(BYTES / 255**2), "divided by 255 twice"),
    "four channels": (pair(np.zeros((N, 4, 8, 8), np.uint8)), "have 4 channels"),
    "none": (pair(BYTES[:0], []), "hold no pixel"),
    "counts": (pair(BYTES, LABELS[:-1]), "12 images and 11 labels"),
    "no labels": ({"data": BYTES}, "there are no labels"),
    "negative": (pair(BYTES, LABELS - 1), "image 0 has label -1"),
    "not whole": (pair(BYTES, LABELS + 0.5), "image 0 has label 0.5"),
    "missing": (pair(BYTES, np.where(LABELS, LABELS, np.nan)), "image 0 has no label"),
    "none among": (pair(BYTES, [None, *WHOLE[1:]]), "image 0 has no label"),
    "none among names": (pair(BYTES, ["a", None] * 6), "image 1 has no label"),
    "mixed": (pair(BYTES, ["a", 1] * 6), "names and numbers mixed"),
    "soft": (pair(BYTES, np.full((N, 3), 1 / 3)), "not one-hot"),
    "several": (pair(BYTES, np.ones((N, 3), int)), "not one-hot"),
    "bool labels": (pair(BYTES, LABELS > 0), "of type bool"),
    "deep labels": (pair(BYTES, np.zeros((N, 3, 1))), "one for each image"),
    "ragged labels": (pair(BYTES, [[0], [1, 2]]), "labels cannot be read|mixed"),
    "three": ({"data": (BYTES, LABELS, LABELS)}, "a tuple of 3"),
    "pair and labels": ({"data": (BYTES, LABELS), "labels": LABELS}, "labels= as well"),
    "n 0": ({**pair(BYTES), "n": 0}, "at least 1, got 0; there are 12"),
    "n float": ({**pair(BYTES), "n": 1.5}, "whole number"),
    "n beyond": ({**pair(BYTES), "n": 13}, "n = 13 images were asked for, and there are 12"),
    "n of a name": ({"data": "digits", "n": 501}, "500 images, 501 were asked for: n must"),
    "n 0 of a name": ({"data": "digits", "n": 0}, "at least 1"),
    "name": ({"data": "cifar100"}, "did you mean 'cifar10'"),
    "split": ({"data": "digits", "split": "tset"}, "did you mean 'test'"),
    "name and labels": ({"data": "digits", "labels": LABELS}, "leave labels= out"),
    "name and resize": ({"data": "digits", "resize": 8}, "leave resize= out"),
    "name and column": ({"data": "digits", "label_column": "y"}, "leave label_column= out"),
    "folder of nothing": ({**pair(BYTES), "data_dir": "here"}, "data_dir is for registered"),
    "nothing": ({"data": None, "labels": LABELS}, "images"),
    "an object": ({"data": object(), "labels": LABELS}, "images"),
    "dates": (pair(np.zeros((N, 3, 4, 4), "datetime64[s]")), "of type datetime"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_gets_one_line(name: str) -> None:
    options, line = WRONG[name]
    with pytest.raises(UsageError, match=line) as caught:
        read_images(**options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
