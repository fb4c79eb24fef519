"""Random self-ensemble (Liu, Cheng, Zhang, Hsieh 2017, https://arxiv.org/abs/1712.00673)."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain, repeat

import torch
from torch import Tensor, nn

from baselines.undefended import DEFAULT, Undefended
from benchmark.datasets import DatasetInfo
from benchmark.errors import UsageError
from benchmark.models.architectures import Normalize
from benchmark.training import TrainingSettings


class Noise(nn.Module):
    """Adds Gaussian noise of standard deviation ``std``, in training and in evaluation mode.

    A fresh draw per element and pass, from torch's global generator, which the harness seeds.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (any shape, floating point) plus noise."""
        # Not randn_like: in channels-last memory it draws one by one, on a CPU eight times slower,
        # and the same seed would give other noise.
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device)
        return torch.add(x, noise, alpha=self.std)

    def extra_repr(self) -> str:
        """See :meth:`torch.nn.Module.extra_repr`."""
        return f"std={self.std:g}"


class RSE(Undefended):
    """The plain classifier with a noise layer before each convolution, voting over noisy passes.

    ``noise_init`` is the standard deviation before the first convolution, in [0, 1] pixel units as
    eps is: the authors' training script feeds images in [0, 1] as they are. Ours are mapped to
    [-1, 1] first, so the noise comes before the map (0.2 there is 0.4 behind it). ``noise_inner``
    is that before every other convolution, in the units of what the convolution receives.

    :meth:`forward` is one noisy pass; a prediction averages the softmax of ``passes`` of them. The
    noise has no state: the weights are those of :class:`Undefended`, under the same names, and
    training is its training, each batch under fresh noise.
    """

    stochastic = True

    def __init__(
        self,
        info: DatasetInfo,
        *,
        training: TrainingSettings = DEFAULT,
        width: float = 1.0,
        architecture: str | None = None,
        noise_init: float = 0.2,
        noise_inner: float = 0.1,
        passes: int = 10,
    ) -> None:
        if min(noise_init, noise_inner) < 0 or passes < 1:
            raise UsageError("rse: noise must not be negative, and passes must be at least 1")
        super().__init__(info, training=training, width=width, architecture=architecture)
        self.passes = passes
        # The first convolution's noise is the normalisation's, so it has none of its own.
        stds = chain([noise_init, 0.0], repeat(noise_inner))
        self.network = _with_noise(self.network, stds)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the labels (N,), int64, of the softmax averaged over fresh noisy passes."""
        # Pass by pass: all at once is no faster on a CPU and takes ``passes`` times the memory.
        votes = torch.stack([self(x).softmax(1) for _ in range(self.passes)])
        return votes.mean(0).argmax(1)


def _with_noise(network: nn.Sequential, stds: Iterator[float]) -> nn.Sequential:
    """Return the layers of ``network``, under their names, with noise layers between them.

    ``stds`` gives the standard deviation before the normalisation and before each convolution, in
    order; 0 adds no layer.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in network.named_children():
        if isinstance(layer, nn.Sequential):
            layers[name] = _with_noise(layer, stds)
            continue
        if isinstance(layer, Normalize | nn.Conv2d) and (std := next(stds)):
            layers[f"noise{name}"] = Noise(std)
        layers[name] = layer
    return nn.Sequential(layers)
