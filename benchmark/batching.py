"""How many images are computed at a time: what the device holds, and less when it holds less."""

import random
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from benchmark.machine_errors import out_of_memory

Result = TypeVar("Result")


BATCH_SIZE = 256
"""Images at a time on the CPU, and on every device where the random numbers depend on it
(docs/constants.md)."""

LARGEST = 4096
"""Images at a time on a GPU, at most: it is full long before."""

SHARE = 0.5
"""The share of the free memory that a batch may take, since blocks differ in size."""

PROBED = 32
"""Images from which the memory per image is measured."""


class Batches:
    """Runs work in batches of at most ``size`` images, which halves whenever memory runs out."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.halved = False

    def each(
        self,
        rows: Tensor,
        work: Callable[[Tensor], Result],
        *,
        rng: torch.Generator | None = None,
    ) -> list[Result]:
        """Return what ``work`` makes of each batch of ``rows`` (N, ...), in order.

        ``work`` may be called again with a part of what it failed on, so it must change nothing
        before it succeeds. ``rng`` and the global random state are then as they were before.
        Raises torch.OutOfMemoryError where a single image does not fit.
        """
        results = []
        while len(rows):
            part = rows[: self.size]
            rewind = _draws(rng, rows.device if rng is None else rng.device)
            try:
                results.append(work(part))
            except (RuntimeError, MemoryError) as error:
                self.size = halved(len(part), error)
                self.halved = True
            else:
                rows = rows[len(part) :]
                continue
            # After the handler, whose exception kept what the batch had allocated.
            release()
            rewind()
        return results


def halved(n: int, error: Exception) -> int:
    """Return the batch size to go on with after a batch of ``n`` images raised ``error``.

    Raises the error again unless memory ran out, and torch.OutOfMemoryError where n is 1.
    """
    if not out_of_memory(error):
        raise error
    if n <= 1:
        first = str(error).partition("\n")[0]
        raise torch.OutOfMemoryError(
            f"a single image does not fit into the device's memory: {first}"
        ) from error
    return n // 2


def release() -> None:
    """Give cached blocks back, so that smaller ones find room."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gpu_batch_size(device: torch.device, n: int, probe: Callable[[int], object]) -> int:
    """Return how many of a search's ``n`` images the free memory of a GPU holds at a time.

    ``probe`` computes a given number of images as the search will; its allocations are measured.
    """
    few = min(n, PROBED)
    probe(few)  # the first pass also allocates what does not grow with the batch
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    probe(few)
    used = torch.cuda.max_memory_allocated(device) - before
    release()
    free, _ = torch.cuda.mem_get_info(device)
    return fitting(free, used / few)


def fitting(free: float, per_image: float) -> int:
    """Return the largest power of two of images whose memory is within :data:`SHARE` of ``free``.

    At least 1 and at most :data:`LARGEST`; both arguments in bytes.
    """
    most = min(LARGEST, max(1, int(SHARE * free / max(1.0, per_image))))
    return 1 << (most.bit_length() - 1)


def _draws(rng: torch.Generator | None, device: torch.device) -> Callable[[], None]:
    """Return what sets every random state to what it is now."""
    own = None if rng is None else rng.get_state()
    everywhere = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def rewind() -> None:
        if rng is not None and own is not None:
            rng.set_state(own)
        torch.set_rng_state(everywhere[0])
        np.random.set_state(everywhere[1])
        random.setstate(everywhere[2])
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, device)

    return rewind
