"""A run's images: both splits from one source, refused where they do not fit the request."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.budgets import check_reach
from benchmark.datasets import DatasetSource, ImageDataset
from benchmark.errors import UsageError
from benchmark.progress import Progress
from benchmark.registry import DATASETS
from benchmark.repeats import repeats_sentence
from benchmark.spec import RunSpec
from benchmark.splits import cause


def open_source(name: str) -> DatasetSource:
    """Return the dataset ``name``; UsageError if there is none or it cannot be imported."""
    try:
        source = DATASETS.load(name)
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # whatever the import of somebody's package raises
        raise UsageError(
            f"dataset {name!r} cannot be loaded ({type(error).__name__}: {cause(error)})"
        ) from None
    if not isinstance(source, DatasetSource):
        raise UsageError(f"dataset {name!r}: {source!r} is no benchmark.datasets.DatasetSource")
    return source


def load_images(spec: RunSpec, data_dir: Path | None) -> tuple[ImageDataset, ImageDataset]:
    """Load the training and the test images of ``spec`` on its device.

    UsageError before any image is read if an eps is beyond every image, and where the data will
    not do.
    """
    source = open_source(spec.dataset)
    for attack in spec.attacks:
        check_reach(attack.threat.eps, attack.threat.norm, source.info.shape)
    train_set = source.load("train", n=spec.n_train, data_dir=data_dir, device=spec.device)
    test_set = source.load("test", n=spec.n_test, data_dir=data_dir, device=spec.device)
    return train_set, test_set


def say_repeats(about: Mapping[str, Any], spec: RunSpec, progress: Progress) -> None:
    """Tell the user of images that stand twice, from what a run's provenance says of them."""
    counts = about["dataset"]["repeats"]
    if said := repeats_sentence(counts, spec.n_train, spec.n_test):
        progress.say(f"{spec.dataset}: {said}")
