"""Where a run's numbers come from, for images that a user handed over."""

import json

import numpy as np
import torch
from fake_runs import fake_spec

from benchmark.datasets import DatasetInfo, ImageDataset
from benchmark.datasets.duplicates import count_repeats
from benchmark.results.provenance import provenance

INFO = DatasetInfo("images", (1, 4, 6), 2, ("a", "b"), augment=False)


def test_no_training_images_and_float_test_images():
    images, rows = torch.rand(5, 1, 4, 6), torch.arange(5)
    images[3] = images[1]
    test = ImageDataset.from_tensors(INFO, images, rows % 2, rows, source="arrays", n_available=9)
    about = provenance(fake_spec(("undefended",)), ImageDataset.empty(INFO), test, "evaluate")
    found = json.loads(json.dumps(about))["dataset"]
    assert found["repeats"] == {"test_in_train": 0, "within_test": 1, "within_train": 0}
    assert (found["n_train_available"], found["n_test_available"]) == (0, 9)


def test_repeats_are_seen_between_eight_bits_and_floats():
    eight = np.random.default_rng(0).integers(0, 256, (4, 1, 3, 3), dtype=np.uint8)
    floats = eight.astype(np.float32) / np.float32(255)
    assert count_repeats(eight, floats[:3])["test_in_train"] == 3
    assert count_repeats(floats[:3], eight)["test_in_train"] == 3
