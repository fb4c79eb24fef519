"""A run's images: both splits from one source, refused where they do not fit the request."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.config.eps import check_reach
from benchmark.config.spec import RunSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.duplicates import repeats_sentence
from benchmark.datasets.source import DatasetSource
from benchmark.errors import UsageError, cause
from benchmark.progress import Progress
from benchmark.registry import DATASETS


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
        raise UsageError(
            f"dataset {name!r}: {source!r} is not a benchmark.datasets.source.DatasetSource"
        )
    return source


def load_images(spec: RunSpec, data_dir: Path | None) -> tuple[ImageDataset, ImageDataset]:
    """Load the training and the test images of ``spec`` on its device.

    UsageError before any image is read if an eps is beyond every image, and where the data will
    not do.
    """
    source = open_source(spec.dataset)
    if source.info.n_classes < 2:
        raise UsageError(
            f"{spec.dataset} has {source.info.n_classes} class: an attack needs two classes or"
            " more, since without another one no image can be misclassified"
        )
    for attack in spec.attacks:
        check_reach(attack.threat.eps, attack.threat.norm, source.info.shape)
    train_set = source.load("train", n=spec.n_train, data_dir=data_dir, device=spec.device)
    test_set = source.load("test", n=spec.n_test, data_dir=data_dir, device=spec.device)
    return train_set, test_set


def load_present(spec: RunSpec, data_dir: Path | None) -> tuple[ImageDataset, ImageDataset]:
    """Load as :func:`load_images` does, but UsageError rather than downloading anything."""
    source = open_source(spec.dataset)
    given = data_dir is not None or os.environ.get("BENCHMARK_DATA_DIR")
    if not (given or source.embedded or source.is_downloaded):
        raise UsageError(f"{spec.dataset}: no images here; name their folder with --data-dir")
    return load_images(spec, data_dir)


def say_classes(test_set: ImageDataset, spec: RunSpec, progress: Progress) -> None:
    """Tell the user of test images of a single class: a model that knows no other is right."""
    for n in sorted({attack.n for attack in spec.attacks} | {spec.n_test}):
        labels = sorted(set(test_set.labels[:n].tolist()))
        if len(labels) == 1:
            name = test_set.info.class_names[labels[0]]
            are = "image attacked is" if n == 1 else "images attacked are all"
            progress.say(
                f"{spec.dataset}: the {n} test {are} of one class ({name}): a model that always"
                " answers so has accuracy 1 under any attack"
            )
            return


def say_repeats(about: Mapping[str, Any], spec: RunSpec, progress: Progress) -> None:
    """Tell the user of images that appear twice, from what a run's provenance says of them."""
    counts = about["dataset"]["repeats"]
    if said := repeats_sentence(counts, spec.n_train, spec.n_test):
        progress.say(f"{spec.dataset}: {said}")
