"""What ``dimension`` measures: its settings, and the paper's Table 3 to compare with."""

from dataclasses import asdict, dataclass

from benchmark.dimension.estimator import SMALLEST_K, Average, Scaling
from benchmark.errors import UsageError, unknown_name
from benchmark.hashing import digest
from benchmark.io.paths import safe_name

IMAGES = 1000
MOST_IMAGES = 20_000


@dataclass(frozen=True)
class Published:
    """A dimension of the paper's Table 3, and the row of ours that comes by it."""

    value: int
    average: Average
    scaling: Scaling


USUAL: tuple[Average, Scaling] = ("mackay", "var")
PUBLISHED = {
    # Of the toolbox's settings, only this one comes near: under the others some of MNIST's pixels,
    # constant or nearly so, outweigh the rest.
    "mnist": Published(13, "levina", "none"),
    "cifar10": Published(17, *USUAL),
    "stl10": Published(20, *USUAL),
    "tiny_imagenet": Published(19, *USUAL),
}


@dataclass(frozen=True)
class DimensionSettings:
    """What decides the numbers. ``n`` of None: 1,000 images, or all if there are fewer."""

    dataset: str
    n: int | None = None
    split: str = "test"
    k1: int = 6
    k2: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in ("train", "test"):
            raise unknown_name("split", self.split, ("train", "test"))
        if self.k1 < SMALLEST_K:
            raise UsageError(f"--k1 must be at least {SMALLEST_K}, got {self.k1}")
        if self.k2 < self.k1:
            raise UsageError(f"--k2 must be at least --k1 = {self.k1}, got {self.k2}")
        if self.n is not None and not self.fewest <= self.n <= MOST_IMAGES:
            raise UsageError(
                f"--n must lie between 2 x --k2 + 2 = {self.fewest} and {MOST_IMAGES} (the"
                f" distances of all pairs are held at once), got {self.n}"
            )

    @property
    def fewest(self) -> int:
        """The fewest images allowed: each half of them must have k2 neighbours."""
        return 2 * self.k2 + 2

    @property
    def folder_name(self) -> str:
        """Name of the folder for the results: dataset and a hash of every setting."""
        return f"dimension-{safe_name(self.dataset)}-{digest(*asdict(self).items())[:10]}"
