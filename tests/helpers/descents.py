"""The descent on small models whose answers are known in closed form."""

import pytest
import torch
from toys import Function, images

from benchmark.attacks.norms import distance
from benchmark.attacks.pgd import PGD, PGDL2
from benchmark.attacks.view import attack_view
from benchmark.config.threat import tolerance

NORMS = {"linf": PGD, "l2": PGDL2}


def descend(model, pgd, x, y, budgets, *, seeds=None, batch_size=256, view_options=None):
    """Run ``pgd`` for all ``budgets``; return its images and the forwards and backwards."""
    with attack_view(model, len(x), **(view_options or {})) as view:
        x_adv = pgd.descend(
            view,
            x,
            y,
            budgets=budgets,
            seeds=range(len(x)) if seeds is None else seeds,
            batch_size=batch_size,
            advance=lambda _: None,
        )
        return x_adv, *view.counts()


def levels(model, x_adv, x, y, budgets, norm):
    """The first level (N,) at which the harness counts the image as fallen; len(budgets): none."""
    reach = torch.tensor([eps + tolerance(eps) for eps in budgets], dtype=torch.float64)
    first = torch.searchsorted(reach, distance(x_adv, x, norm))
    return torch.where(model.predict(x_adv) != y, first, len(budgets))


def _per_sample_model(x):
    """Sums and products alone: the same bits in whatever batch (a sine's may differ at its end)."""
    a, b, c, d = x.flatten(1).unbind(1)
    curve = (a - b) * (2 * c - 1) * (d + 0.5) + 2 * (a - 0.5) * (c - d) + b * d - 0.3
    return torch.stack([torch.zeros_like(curve), curve], 1)


MODEL = Function(_per_sample_model)


X = images(40, (1, 2, 2), 5).double()


Y = MODEL.predict(X)


@pytest.fixture(params=[("linf", 1, None), ("linf", 2, 0.03), ("l2", 1, None)])
def pgd(request):
    norm, restarts, step_size = request.param
    return NORMS[norm](steps=9, restarts=restarts, step_size=step_size, loss="margin")
