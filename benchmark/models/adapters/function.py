"""A function that only answers, as a defense: a service, or another framework's model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.info import DatasetInfo
from benchmark.errors import UsageError, first_line
from benchmark.models.adapters.outputs import Expected, is_whole, one_hot, scores_in, tensor_in
from benchmark.models.defense import Defense, Gives


class FunctionDefense(Defense):
    """Answers of a function of a NumPy array (n, C, H, W), float32, in [0, 1]; no gradient."""

    differentiable = False

    def __init__(
        self,
        info: DatasetInfo,
        ask: Callable[[Any], Any],
        *,
        gives: Gives,
        stochastic: bool,
    ) -> None:
        super().__init__(info)
        self.ask = ask
        self.gives = gives
        self.stochastic = stochastic  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (N, K), float32; of labels, one-hot ones."""
        answer = answered(self.ask, x)
        if answer.dim() == 1:
            return one_hot(answer, self.info.n_classes).to(x.device)
        if self.gives == "labels":
            answer = one_hot(answer.argmax(1), self.info.n_classes)
        return answer.float().to(x.device)


def answered(ask: Callable[[Any], Any], x: Tensor) -> Tensor:
    """Return what ``ask`` says of images ``x``, on the CPU: scores (N, K) or labels (N,)."""
    # A copy: an attack's images must not change under it.
    found = ask(x.detach().cpu().numpy().copy())
    if isinstance(found, list | tuple) and not any(isinstance(part, Tensor) for part in found):
        found = np.asarray(found)
    if isinstance(found, np.ndarray):
        if found.dtype.kind not in "fiub":
            raise UsageError(
                f"the function returned {found.dtype} of shape {found.shape}; it must return scores"
                " (n, K), or labels (n,) as whole numbers"
            )
        found = torch.from_numpy(np.ascontiguousarray(found))
    return scores_in(tensor_in(found).detach().cpu(), len(x))


def asker(model: Any, outputs: str) -> Callable[[Any], Any] | None:
    """Return the function that a model is asked by; None if it has none.

    Of an object without a call of its own, as scikit-learn's, ``predict_proba``,
    ``decision_function`` or ``predict``.
    """
    if isinstance(model, type):
        return None
    if callable(model):
        return model  # type: ignore[no-any-return]
    names = ["predict_proba", "decision_function", "predict"]
    for name in names[-1:] if outputs == "labels" else names:
        if callable(getattr(model, name, None)):
            return getattr(model, name)  # type: ignore[no-any-return]
    return None


def function_defense(
    ask: Callable[[Any], Any],
    few: Tensor,
    expected: Expected,
) -> Defense:
    """Bring a function into a defense's form (:func:`benchmark.models.adapters.as_defense`)."""
    say, n_classes = expected.say, expected.n_classes
    ask, answer = _first(ask, few, say)
    again = answered(ask, few)
    noisy = not torch.allclose(answer.double(), again.double(), rtol=1e-3, atol=1e-5)
    if noisy:
        say("the function answers the same images differently twice: attacked as a random one")
    labels = expected.outputs == "labels" or answer.dim() == 1
    if answer.dim() == 2:
        k = n_classes or answer.shape[1]
        if answer.shape[1] != k:
            raise UsageError(f"n_classes is {k}, and the function answers {answer.shape[1]} scores")
        if not answer.isfinite().all():
            raise UsageError("the function answers NaN or infinity to images in [0, 1]")
    else:
        assert is_whole(answer)
        seen = max(int(answer.max()) + 1, expected.n_labels or 2)
        k = n_classes or seen
        if n_classes is None:
            say(f"the function answers labels: {k} classes, as the data show; else give n_classes")
        one_hot(answer, k)
    gives: Gives = "labels" if labels else "scores"
    say(f"of this model only {gives} can be had: attacks that follow the gradient are skipped")
    return FunctionDefense(expected.info(k), ask, gives=gives, stochastic=noisy)


def _first(
    ask: Callable[[Any], Any], few: Tensor, say: Callable[[str], None]
) -> tuple[Callable[[Any], Any], Tensor]:
    """Return the function and its first answer; one that takes tensors only is given tensors."""
    try:
        return ask, answered(ask, few)
    except UsageError:
        raise
    except Exception as error:
        why = first_line(error)

    def with_tensors(images: Any) -> Any:
        with torch.no_grad():
            return ask(torch.from_numpy(images))

    try:
        answer = answered(with_tensors, few)
    except UsageError:
        raise
    except Exception:
        raise UsageError(
            f"the function failed on a NumPy array of shape {tuple(few.shape)}, float32, in [0, 1]"
            f" ({why}); it must return scores (n, K) or labels (n,)"
        ) from None
    say("the function takes no NumPy array: it is given tensors")
    return with_tensors, answer
