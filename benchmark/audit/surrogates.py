"""What an attack may look at in place of a defense whose own gradient leads nowhere.

Each is a defense around the defense: :meth:`predict` stays the defense's own, so that success is
judged as deployed, and only what an attack differentiates is another.
:mod:`benchmark.audit.auto_bpda` has the one for BPDA.
"""

import copy

import torch
from torch import Tensor

from benchmark.audit.hidden_state import State
from benchmark.models.answer_form import LOGITS
from benchmark.models.defense import Defense


class Around(Defense):
    """A defense around ``defense`` that decides as it does.

    ``stochastic`` tells whether two passes may differ and ``differentiable`` whether a gradient
    reaches the image, where the checks know better than the defense itself.
    """

    def __init__(
        self,
        defense: Defense,
        *,
        stochastic: bool | None = None,
        differentiable: bool | None = None,
    ) -> None:
        super().__init__(defense.info)
        self.defense = defense
        self.latent_dim = defense.latent_dim
        # Of the instance: a class declares it for all, and here it was found by asking one.
        vars(self).update(
            stochastic=defense.stochastic if stochastic is None else stochastic,
            differentiable=defense.differentiable if differentiable is None else differentiable,
            exact_surrogate=defense.exact_surrogate,
            answer_form=defense.answer_form,
        )
        self.train(defense.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the defense's logits (N, K)."""
        logits: Tensor = self.defense(x)
        return logits

    def predict(self, x: Tensor) -> Tensor:
        """Return the defense's labels (N,)."""
        return self.defense.predict(x)

    def surrogate(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) of the defense's own surrogate."""
        return self.defense.surrogate(x)

    def generate(self, z: Tensor) -> Tensor:
        """Return the images of the defense's generator."""
        return self.defense.generate(z)

    def classify_generated(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) behind the defense's generator."""
        return self.defense.classify_generated(x)


class Restored(Around):
    """A defense that forgets what it was asked: every question finds it as it was trained.

    For one whose weights, buffers or Python objects change as it answers
    (:mod:`benchmark.audit.hidden_state`). An attacker has a copy to start again from.
    """

    def __init__(self, defense: Defense, **known: bool | None) -> None:
        super().__init__(defense, **known)
        self._state = State(defense)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) of the defense as it was trained."""
        self._state.restore()
        return super().forward(x)

    def predict(self, x: Tensor) -> Tensor:
        """Return the labels (N,) of the defense as it was trained."""
        self._state.restore()
        return super().predict(x)

    def surrogate(self, x: Tensor) -> Tensor:
        """Return the surrogate's logits of the defense as it was trained."""
        self._state.restore()
        return super().surrogate(x)


class Unsquashed(Around):
    """Log-probabilities, in float64, of a defense that answers in probabilities.

    Where the defense is sure, a probability and its gradient are 0 in float32, and so is the
    cross-entropy's gradient; the logarithm's is not as long as float64 holds the probability.
    """

    def __init__(self, defense: Defense, **known: bool | None) -> None:
        super().__init__(defense, **known)
        self.answer_form = LOGITS
        self._exact: list[Defense] = []  # in a list: no module of this one

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities (N, K), float32."""
        if not self._exact:
            inner = self.defense.defense if isinstance(self.defense, Around) else self.defense
            self._exact.append(copy.deepcopy(inner).double())
        answers: Tensor = self._exact[0](x.double())
        return answers.clamp_min(torch.finfo(torch.float64).tiny).log().float()
