"""The same estimate by a library, as a check on ours: scikit-dimension.

https://github.com/scikit-learn-contrib/scikit-dimension (BSD-3-Clause). It is an extra, because it
needs numba and with it an LLVM of some 200 MB; it is imported only when it is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from benchmark.dimension.estimator import Average, Floats

NAME = "scikit-dimension"
INSTALL = "pip install 'defensebench[dimension]'"


@dataclass(frozen=True)
class LibraryEstimates:
    """What the library found for one scaling, by average."""

    version: str
    values: Mapping[Average, float]


def library_estimates(points: Floats, k1: int, k2: int) -> LibraryEstimates | None:
    """Return the library's estimates for scaled ``points`` (N, F); None if it is not installed.

    Neighbours, local estimates and means over points are the library's; the mean over k is taken
    here, because it knows one k only.
    """
    if find_spec("skdim") is None:
        return None
    import skdim

    distance, index = skdim.get_nn(points, k=k2)
    found: dict[Average, list[float]] = {"mackay": [], "levina": []}
    for k in range(k1, k2 + 1):
        fitted = skdim.id.MLE(unbiased=True).fit(
            points, precomputed_knn_arrays=(distance[:, :k], index[:, :k]), n_neighbors=k
        )  # comb="mle", its default, is the inverse of the mean inverse
        found["mackay"].append(fitted.dimension_)
        found["levina"].append(fitted.dimension_pw_.mean())
    means = {average: float(np.mean(values)) for average, values in found.items()}
    return LibraryEstimates(version(NAME), means)
