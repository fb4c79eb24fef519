"""The intrinsic dimension of a dataset's images: the paper's Table 3, measured and kept.

``OUT/dimension-<dataset>-<hash>/dimension.json`` holds the object that ``--json`` prints, and
beside it ``settings``, ``published``, ``notes`` and ``provenance``.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmark.datasets.info import SplitName
from benchmark.datasets.load import open_source
from benchmark.dimension.estimator import (
    SCALINGS,
    Estimate,
    Scaling,
    distinct,
    estimate_dimension,
    scale,
)
from benchmark.dimension.library import NAME, LibraryEstimates, library_estimates
from benchmark.dimension.plan import IMAGES, PUBLISHED, USUAL, DimensionSettings, Published
from benchmark.errors import UsageError, options_named
from benchmark.hashing import derive_seed
from benchmark.io.json_files import write_json
from benchmark.machine_errors import open_folder, rescued
from benchmark.progress import Progress
from benchmark.results.model_records import finite
from benchmark.results.provenance import git_sha, versions

FILE = "dimension.json"
RARE = 0.01
"""Share of the images below which a pixel that takes another value than usual does so rarely."""


@dataclass(frozen=True)
class Dimension:
    """What was measured on ``n`` images. ``library`` is empty where it is not installed."""

    settings: DimensionSettings
    n: int
    estimates: tuple[Estimate, ...]
    library: Mapping[Scaling, LibraryEstimates]
    notes: tuple[str, ...]
    provenance: Mapping[str, Any]

    @property
    def published(self) -> Published | None:
        """The paper's number for this dataset, if it has one."""
        return PUBLISHED.get(self.settings.dataset)

    def result(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints.

        ``library_estimate`` is the library's number for the row of ``estimates`` that ``library``
        names, the one that compares with the paper.
        """
        value, about = None, None
        if self.library:
            ours = self.published
            average, scaling = (ours.average, ours.scaling) if ours else USUAL
            value = self.library[scaling].values[average]
            release = self.library[scaling].version
            about = {"name": NAME, "version": release, "average": average, "scaling": scaling}
        found = {
            "dataset": self.settings.dataset,
            "n": self.n,
            "estimates": [asdict(estimate) for estimate in self.estimates],
            "library_estimate": value,
            "library": about,
        }
        return dict(finite(found))


def measure_dimension(
    settings: DimensionSettings,
    *,
    out: Path,
    data_dir: Path | None,
    command: str,
    progress: Progress,
) -> tuple[Dimension, Path]:
    """Estimate the dimension of a dataset's images; return it and the file that keeps it.

    The images are the first n of the fixed, class-balanced order of the split; the seed draws the
    intervals' subsamples. UsageError says what is wrong with the request, the data or the folder.
    """
    begun = time.perf_counter()
    source = open_source(settings.dataset)
    split = cast(SplitName, settings.split)
    with options_named({f"--n-{split}": "--n"}):
        n = settings.n
        if n is None:
            n = min(IMAGES, source.load(split, n=1, data_dir=data_dir).n_available)
        images = source.load(split, n=n, data_dir=data_dir)
    pixels = images.images.numpy().reshape(len(images), -1)
    kept = pixels[distinct(pixels)]
    if len(kept) < settings.fewest:
        raise UsageError(
            f"{settings.dataset} {split}: {len(kept)} distinct images are too few for --k2"
            f" {settings.k2}; it needs {settings.fewest}"
        )
    file = out / settings.folder_name / FILE
    open_folder(file.parent)
    estimates: list[Estimate] = []
    library: dict[Scaling, LibraryEstimates] = {}
    with progress.task("dimension", len(SCALINGS)) as advance:
        for scaling in SCALINGS:
            rng = np.random.default_rng(derive_seed(settings.seed, "dimension", scaling))
            estimates += estimate_dimension(kept, scaling, settings.k1, settings.k2, rng)
            checked = library_estimates(scale(kept, scaling), settings.k1, settings.k2)
            if checked is not None:
                library[scaling] = checked
            advance()
    about = {
        "command": command,
        "source": images.source,
        "checksum": images.checksum,
        "n_available": images.n_available,
        "seconds": round(time.perf_counter() - begun, 2),
        "versions": versions(),
        "git_sha": git_sha(),
    }
    notes = _notes(pixels, kept)
    found = Dimension(settings, len(kept), tuple(estimates), library, notes, about)
    with rescued(found.result(), file.parent):
        _write(file, found)
    return found, file


def _notes(pixels: Any, kept: Any) -> tuple[str, ...]:
    """Return sentences on what in the images affects the numbers."""
    notes = []
    if copies := len(pixels) - len(kept):
        notes.append(f"{copies} images repeat an earlier one and were left out.")
    n, width = kept.shape
    constant = int((np.ptp(kept, axis=0) == 0).sum())
    if constant:
        notes.append(
            f"{constant} of {width} pixel values are the same in all images and were left out."
        )
    usual = np.median(kept, axis=0)
    rare = int(((kept != usual).sum(axis=0) < RARE * n).sum()) - constant
    if rare:
        notes.append(
            f"{rare} more differ from their usual value in fewer than {RARE:.0%} of the images:"
            " divided by their spread (std, var) they outweigh the others."
        )
    return tuple(notes)


def _write(file: Path, found: Dimension) -> None:
    published = found.published
    kept = {
        **found.result(),
        "library_values": {scaling: dict(c.values) for scaling, c in found.library.items()},
        "settings": asdict(found.settings),
        "published": None if published is None else asdict(published),
        "notes": list(found.notes),
        "provenance": dict(found.provenance),
    }
    write_json(file, finite(kept))
