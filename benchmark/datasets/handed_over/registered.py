"""Images of a registered dataset, by its name."""

from pathlib import Path
from typing import Any

from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.handed_over.given_images import GivenImages, check_n
from benchmark.datasets.load import open_source
from benchmark.errors import options_named, unknown_name


def read_registered(name: str, *, n: int | None, split: str, data_dir: Any) -> GivenImages:
    """Load ``n`` images of the dataset ``name``, in the order that a run takes them."""
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    check_n(n)
    source = open_source(name)
    folder = None if data_dir is None else Path(data_dir)
    words = {"--n-train": "n", "--n-test": "n", "--data-dir": "data_dir"}
    with options_named(words):
        found: ImageDataset = source.load(split, n=n, data_dir=folder)  # type: ignore[arg-type]
    return GivenImages(
        images=found.images,
        labels=found.labels,
        sample_ids=found.sample_ids,
        name=found.info.name,
        source=found.source,
        n_available=found.n_available,
        class_names=found.info.class_names,
    )
