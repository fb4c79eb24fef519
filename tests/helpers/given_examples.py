"""What a reader of the pages has already: a trained model, its images, and files of both.

Names are those that a page writes in ``<!-- given: ... -->``; variables and files alike. The model
is a small network, trained in a second on the digits.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

FACTORY = '''"""The network that weights.safetensors belongs to."""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 10)
    )
'''


def give(names: Sequence[str], namespace: dict[str, Any], folder: Path) -> None:
    """Put what a page takes for granted into its namespace or its folder."""
    for name in names:
        if name in ("model", "images", "labels"):
            namespace[name] = _variables()[name]
        elif name == "my_model.py":
            (folder / name).write_text(FACTORY, "utf-8")
        elif name == "weights.safetensors":
            from safetensors.torch import save_file

            save_file(_variables()["model"].state_dict(), folder / name)
        else:
            raise AssertionError(f"nothing is given as {name}")


@lru_cache(maxsize=1)
def _variables() -> dict[str, Any]:
    """Return the trained model, and images uint8 (50, 1, 28, 28) with labels (50,)."""
    import torch
    from torch.nn.functional import cross_entropy

    from benchmark.datasets import DIGITS
    from benchmark.seeding import seeded

    train, test = DIGITS.load("train"), DIGITS.load("test", n=50)
    space: dict[str, Any] = {}
    exec(FACTORY, space)
    with seeded(0):
        model = space["build"]()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    x, y = train.x(), train.labels
    for _ in range(5):
        for rows in train.batches(100):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return {"model": model.eval(), "images": test.images, "labels": test.labels}
