"""A view that remembers what an attack tried, so that claims about it rest on a measurement.

What an attack returns does not say how it got there. A :class:`Recorder` keeps, for every image
of a batch, what the cross-check needs: whether an image that the attack queried already fooled the
model, where its first gradient was taken, how large the gradient at the clean image was, how far
each pixel was ever moved, and the last query.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmark.attacks.norms import distance
from benchmark.attacks.view import AttackView, attack_view
from benchmark.config.threat import reach
from benchmark.crosscheck.gradients import Gradients
from benchmark.models.defense import Defense

MATCHED = 0.7
"""A query of unknown rows belongs to the nearest clean image if that is at most this share as far
away as the second nearest."""


def blanked(images: Tensor, clean: Tensor) -> Tensor:
    """Return which images (N, C, H, W) are of one value only, where the clean ones are not (N,).

    Some libraries return such an image where they fail, and query it in the end.
    """
    images, clean = images.flatten(1), clean.flatten(1)
    return (images.amax(1) == images.amin(1)) & (clean.amax(1) > clean.amin(1))


class Recorder:
    """What was queried for each of ``x`` (N, C, H, W) in [0, 1] with labels ``y`` (N,).

    ``fooled`` (N,) bool: a query within the box and the ball, and not blank, was misclassified;
    ``nearest`` (N,) float64: the least distance of such a query (infinite: none); ``start`` (N,):
    the largest pixel change at which the first gradient was taken (NaN: none was);
    ``gradients``: the first one taken at the clean image; ``reach`` (N, C, H, W): the most that
    each pixel was ever moved; ``last`` (N, C, H, W): the last query; ``missed``: queries that
    could not be attributed to images; ``seconds``: what the recording itself took.
    """

    def __init__(self, x: Tensor, y: Tensor, *, eps: float, norm: str) -> None:
        self.x, self.y = x, y
        self.norm = norm
        self.limit = reach(eps)
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.nearest = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        self.start = torch.full((len(x),), torch.nan, device=x.device)
        self.gradients = Gradients.none(x)
        self.reach = torch.zeros_like(x)
        self.last = torch.full_like(x, torch.nan)
        self.missed = 0
        self.seconds = 0.0

    @torch.no_grad()
    def record(
        self,
        rows: Tensor | None,
        queried: Tensor,
        logits: Tensor,
        for_grad: bool,
        source: Tensor | None = None,
    ) -> None:
        """Note a query of images ``queried`` for ``rows`` (None: find out whose they are).

        ``source`` is the tensor in the graph whose gradient is this query's alone (None: there is
        no gradient to compare).
        """
        began = time.perf_counter()
        queried = queried.detach().to(self.x)
        if queried.shape[1:] == self.x.shape[1:] and len(queried):
            known = torch.ones(len(queried), dtype=torch.bool, device=self.x.device)
            if rows is None:
                rows, known = self._match(queried)
                self.missed += int((~known).sum())
                rows, queried, logits = rows[known], queried[known], logits[known]
            if source is not None:
                self._watch(rows, queried, known, source)
            self._note(rows, queried, logits, for_grad)
        self.seconds += time.perf_counter() - began

    def _watch(self, rows: Tensor, queried: Tensor, known: Tensor, source: Tensor) -> None:
        """Note the gradient, once it is there, of images queried as they are for the first time."""
        wanted = self.gradients.largest[rows].isnan()
        wanted &= (queried == self.x[rows]).flatten(1).all(1)
        if not wanted.any():
            return

        def note(gradient: Tensor) -> None:
            began = time.perf_counter()
            self.gradients.note(rows[wanted], gradient[known][wanted])
            self.seconds += time.perf_counter() - began

        source.register_hook(note)  # type: ignore[no-untyped-call]

    def _note(self, rows: Tensor, queried: Tensor, logits: Tensor, for_grad: bool) -> None:
        clean = self.x[rows]
        change = (queried - clean).abs()
        self.reach[rows] = torch.maximum(self.reach[rows], change)
        self.last[rows] = queried
        if for_grad:
            first = self.start[rows].isnan()
            most = change.flatten(1).amax(1)
            self.start[rows] = torch.where(first, most, self.start[rows])
        far = distance(queried, clean, self.norm)
        in_box = ((queried >= 0) & (queried <= 1)).flatten(1).all(1)
        fools = (logits.argmax(1) != self.y[rows]) & in_box & (far <= self.limit)
        fools &= ~blanked(queried, clean)
        self.fooled[rows] |= fools
        far = torch.where(fools, far, torch.inf)
        self.nearest[rows] = torch.minimum(self.nearest[rows], far)

    def _match(self, queried: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows whose clean images are nearest, and which of them are beyond doubt."""
        far = torch.cdist(queried.flatten(1), self.x.flatten(1))
        near, rows = far.topk(min(2, len(self.x)), dim=1, largest=False)
        if near.shape[1] < 2:
            return rows[:, 0], torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        return rows[:, 0], near[:, 0] <= MATCHED * near[:, 1]


class RecordingView(AttackView):
    """An AttackView whose queries, and those of its parts, are noted in a Recorder."""

    def __init__(
        self,
        defense: Defense,
        recorder: Recorder,
        index: Tensor | None = None,
        *,
        eot: int = 1,
        bpda: bool = False,
        inside: float = 0.0,
    ) -> None:
        index = torch.arange(len(recorder.x), device=recorder.x.device) if index is None else index
        super().__init__(defense, len(index), eot=eot, bpda=bpda, inside=inside)
        self.recorder = recorder
        self.index = index

    def select(self, index: Tensor) -> "RecordingView":
        """Return a recording view of the rows ``index`` whose queries count for those rows."""
        settings = {"eot": self.eot, "bpda": self.bpda, "inside": self.inside}
        view = RecordingView(self.defense, self.recorder, self.index[index], **settings)  # type: ignore[arg-type]
        self._selected.append((index, view))
        return view

    def _query(self, x: Tensor) -> Tensor:
        source = None
        queried = x
        # Gradients of single draws differ by chance, and by how an attack averages over draws.
        if x.requires_grad and torch.is_grad_enabled() and self.eot == 1 and not self.stochastic:
            # An alias: the same image may be queried again, or enter the loss on another way.
            queried = source = x.view_as(x)
        logits = super()._query(queried)
        rows = self.index if len(x) == len(self.index) else None
        self.recorder.record(rows, x, logits.detach(), x.requires_grad, source)
        return logits


@contextmanager
def recording_view(
    defense: Defense, recorder: Recorder, *, eot: int = 1, bpda: bool = False, inside: float = 0.0
) -> Iterator[RecordingView]:
    """Open a recording view for the recorder's batch, as :func:`attack_view` does."""
    with attack_view(defense, len(recorder.x)):
        yield RecordingView(defense, recorder, eot=eot, bpda=bpda, inside=inside)
