"""From whatever a model returns to scores (N, K)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.datasets.info import DatasetInfo
from benchmark.errors import UsageError
from benchmark.models.contract import kind

LOGITS = "logits"
"""The name under which a mapping or an object is expected to hold them."""


@dataclass(frozen=True)
class Expected:
    """What is known of a model's answers before it is asked, and who is told what was noticed.

    ``info`` gives the dataset's description for a number of classes, ``n_classes`` that number
    where it is known, ``n_labels`` how many the labels of the data show, and ``outputs`` is one of
    :data:`OUTPUTS`.
    """

    info: Callable[[int], DatasetInfo]
    n_classes: int | None = None
    n_labels: int | None = None
    outputs: str = "auto"
    say: Callable[[str], None] = lambda _: None


OUTPUTS = ("auto", "logits", "probabilities", "scores", "labels")


def tensor_in(answer: Any) -> Tensor:
    """Return the tensor of scores or labels in ``answer``; UsageError if none can be told.

    A mapping, or an object such as a Hugging Face ModelOutput, holds it under :data:`LOGITS`; of a
    tuple or list, as of models with auxiliary heads, it is the first item.
    """
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, Mapping):
        if isinstance(answer.get(LOGITS), Tensor):
            return answer[LOGITS]  # type: ignore[no-any-return]
        names = ", ".join(map(str, list(answer)[:6])) or "nothing"
        raise UsageError(
            f"the model returned a mapping with {names}; wrap it so that it returns the logits, or"
            f" names them {LOGITS!r}"
        )
    if isinstance(getattr(answer, LOGITS, None), Tensor):
        return answer.logits  # type: ignore[no-any-return]
    if isinstance(answer, tuple | list) and answer and isinstance(answer[0], Tensor):
        return answer[0]
    raise UsageError(
        f"the model returned {kind(answer)}; it must return a tensor of logits (N, K), or hold one"
        f" as {LOGITS!r}, or as the first item of a tuple"
    )


def scores_in(answer: Any, n: int) -> Tensor:
    """Return scores (n, K), or whole-number labels (n,), of ``n`` images; UsageError if neither.

    Axes of size one behind K are dropped. One score per image, (n,) or (n, 1), is a binary model's:
    its classes score (0, s).
    """
    found = tensor_in(answer)
    while found.dim() > 2 and found.shape[-1] == 1:
        found = found.squeeze(-1)
    if found.dim() not in (1, 2) or len(found) != n:
        raise UsageError(
            f"the model returned {kind(found)} for {n} images; it must return logits of shape"
            f" ({n}, K)"
        )
    if found.dim() == 1 and not is_whole(found):
        found = found[:, None]
    if found.dim() == 2 and found.shape[1] == 1:
        found = torch.cat([torch.zeros_like(found), found], 1)
    return found


def is_whole(answer: Tensor) -> bool:
    """Tell whether a tensor holds whole numbers by its type, as labels do."""
    return not (answer.is_floating_point() or answer.is_complex())


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Return labels (n,) as scores (n, n_classes), float32; UsageError if one is out of range."""
    labels = labels.long()
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise UsageError(
            f"the model answered labels from {int(labels.min())} to {int(labels.max())}; with"
            f" {n_classes} classes they are 0 to {n_classes - 1}: give n_classes"
        )
    return torch.nn.functional.one_hot(labels, n_classes).float()
