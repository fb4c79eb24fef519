"""Images from a Dataset of Hugging Face's datasets library, known by what it can do.

The library itself is not needed here: what the user hands over has been loaded by it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.datasets.handed_over.given_images import Opened
from benchmark.datasets.handed_over.items import (
    IMAGE_NAMES,
    LABEL_NAMES,
    column,
    is_picture,
    stacked,
)
from benchmark.datasets.handed_over.labels import as_labels, check_counts
from benchmark.datasets.handed_over.pictures import Fit, as_pixels
from benchmark.datasets.handed_over.pixels import Say, checked, laid_out
from benchmark.datasets.handed_over.torch_data import open_dataset
from benchmark.datasets.info import Rows
from benchmark.errors import UsageError, cause


def is_hugging_face(data: Any) -> bool:
    """Tell whether ``data`` is a Dataset of the library; UsageError if it is a dict of them."""
    if isinstance(data, Mapping) and data and all(map(_is_dataset, data.values())):
        names = [str(name) for name in data]
        one = "test" if "test" in names else names[-1]
        raise UsageError(
            f"a DatasetDict of the splits {', '.join(names)}: give one of them, data[{one!r}]"
        )
    return _is_dataset(data)


def _is_dataset(data: Any) -> bool:
    return hasattr(data, "features") and hasattr(data, "column_names")


def open_hugging_face(
    data: Any, columns: tuple[str | None, str | None], fit: Fit, say: Say
) -> Opened:
    """Open the rows of a Dataset; a transform that the user has set is kept."""
    features = data.features or {}
    there = data.column_names or list(features)
    if not there:  # streamed, and nothing is known of it before
        _check_no_fit(fit)
        return open_dataset(data, say, *columns)
    image = _column(features, there, columns[0], IMAGE_NAMES, "Image", "image")
    label = _column(features, there, columns[1], LABEL_NAMES, "ClassLabel", "label")
    names = getattr(features.get(label), "names", None)
    about = getattr(data, "info", None)
    name = getattr(about, "dataset_name", None) or getattr(about, "builder_name", None) or "images"
    if (getattr(data, "format", None) or {}).get("type") == "custom":
        _check_no_fit(fit)
        found = open_dataset(data, say, *columns)
    elif not hasattr(data, "__len__"):  # streamed
        _check_no_fit(fit)
        found = open_dataset(data, say, image, label)
    else:
        found = _open_table(data, image, label, fit, say)
    return replace(found, name=str(name), class_names=tuple(names) if names else found.class_names)


def _open_table(data: Any, image: str, label: str, fit: Fit, say: Say) -> Opened:
    table = data.with_format(None) if hasattr(data, "with_format") else data
    labels, names = as_labels(list(table[label]))
    check_counts(len(data), len(labels))
    if not len(labels):
        raise UsageError("the dataset holds no images: there is nothing to evaluate")
    pictures = table.select_columns([image]) if hasattr(table, "select_columns") else table

    def value(row: int) -> Any:
        try:
            return _decoded(pictures[row][image], row)
        except (UsageError, MemoryError):
            raise
        except Exception as error:  # whatever the library and its readers raise
            raise UsageError(
                f"row {row} of the dataset failed ({type(error).__name__}: {cause(error)})"
            ) from error

    def read(rows: Rows) -> Tensor:
        first = value(int(rows[0]))
        if isinstance(first, bytes) or is_picture(first):

            def found() -> Iterator[tuple[int, Any, str]]:
                for place, row in enumerate(rows.tolist()):
                    yield place, value(row), f"row {row}"

            return as_pixels(found(), len(rows), fit, say)
        _check_no_fit(fit)
        asked = rows.tolist()
        tensor = stacked([value(row) for row in asked], asked)
        return checked(laid_out(tensor, len(rows), say), rows).contiguous()

    return Opened(labels, read, "images", "dataset", names)


def _decoded(value: Any, row: int) -> Any:
    """Return an image as it is, or its bytes where it is stored encoded."""
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        value = Path(path).read_bytes() if data is None and path else data
    if value is None:
        raise UsageError(f"row {row} has no image")
    return value


def _column(
    features: Any, there: Any, given: str | None, usual: tuple[str, ...], kind: str, what: str
) -> str:
    """Return the column that is named, has a usual name, or is the only one of its kind."""
    own = [name for name in there if type(features.get(name)).__name__ == kind]
    if given is None and len(own) == 1:
        return str(own[0])
    return column(given, usual, there, what)


def _check_no_fit(fit: Fit) -> None:
    if fit:
        raise UsageError(
            "resize and crop are for images that are stored as pictures: bring these to the size"
            " that the model takes before"
        )
