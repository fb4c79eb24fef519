"""What a model answers, and how an attack sees it: as float32 logits, whatever ``forward`` returns.

A loss on logits would apply softmax to probabilities a second time, which flattens them: the
gradient of a confident answer vanishes. So an attack is given their logarithm, the logits up to a
constant. One-hot labels have none: they are attacked through the gradient that they pass, if any.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SUM_TO_ONE = 1e-4
"""How near to 1 the rows of probabilities sum in float32 (docs/constants.md)."""

Kind = Literal["logits", "probabilities", "labels"]


@dataclass(frozen=True)
class AnswerForm:
    """In which form a model answers.

    ``kind`` is what its outputs are, one-hot "labels" included, ``dtype`` what they are computed
    in, and ``slope`` tells whether labels pass a gradient to the image.
    """

    kind: Kind = "logits"
    dtype: torch.dtype = torch.float32
    slope: bool = True

    def logits(self, answer: Tensor, x: Tensor) -> Tensor:
        """Return ``answer`` (N, K) to images ``x`` (N, C, H, W) as float32 logits.

        Labels that do not lead back to ``x`` get a gradient of zero, which any attack can follow.
        """
        if self.kind == "probabilities":
            answer = answer if answer.dtype == torch.float64 else answer.float()
            answer = answer.clamp_min(torch.finfo(answer.dtype).tiny).log()
        if answer.dtype != torch.float32:
            answer = answer.float()
        if self.kind == "labels" and x.requires_grad and not answer.requires_grad:
            answer = answer + 0 * x.flatten(1).sum(1, keepdim=True)
        return answer

    @property
    def note(self) -> str:
        """What a reader of the numbers should know, in one line; empty for float32 logits."""
        said = []
        if self.kind == "probabilities":
            said.append("forward returns probabilities: attacked through their logarithm")
        elif self.kind == "labels" and self.slope:
            said.append("forward returns one-hot labels: attacked through the gradient they pass")
        elif self.kind == "labels":
            said.append(
                "forward returns one-hot labels: there is no gradient to follow, and an attack that"
                " follows one tries its random starts alone"
            )
        if self.dtype != torch.float32:
            word = str(self.dtype).removeprefix("torch.")
            said.append(f"forward returns {word}: attacked in float32")
        return "; ".join(said)


LOGITS = AnswerForm()


def form_of(answers: Tensor, slope: bool) -> AnswerForm:
    """Return the form of ``answers`` (N, K) to clean images; ``slope`` as in AnswerForm."""
    return AnswerForm(_kind(answers), answers.dtype, slope)


def _kind(answers: Tensor) -> Kind:
    exact = answers.double()
    # A sum of rounded shares is off by no more than what rounds 1.
    rounding = torch.finfo(answers.dtype).eps if answers.is_floating_point() else 0.0
    outside = torch.maximum(-exact, exact - 1).flatten()
    off = (exact.sum(1) - 1).abs()
    if not len(answers) or (outside > rounding).any() or (off > max(SUM_TO_ONE, rounding)).any():
        return "logits"
    # Sharp probabilities have small entries that are not 0; labels have none.
    return "labels" if int((exact != 0).sum()) == len(answers) else "probabilities"
