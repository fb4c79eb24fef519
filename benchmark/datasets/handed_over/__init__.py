"""Images that a user hands over for an evaluation, in whatever form they have them."""

from benchmark.datasets.handed_over.given_images import GivenImages
from benchmark.datasets.handed_over.read import read_images

__all__ = ["GivenImages", "read_images"]
