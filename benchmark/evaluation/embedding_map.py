"""A defense's embeddings of test images, clean and attacked, projected to the plane by t-SNE.

The data of the paper's Figure 5 (section 4.4). The paper projects clean and attacked embeddings
one after the other, but t-SNE maps no space: the coordinates of two fits are unrelated. Here one
fit places both, so that attacked embeddings can be compared with clean ones.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.loader import load_attack
from benchmark.batching import BATCH_SIZE
from benchmark.config.spec import AttackSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import UsageError
from benchmark.evaluation.scoring import (
    CleanPredictions,
    Judged,
    ViewSettings,
    attack_batch,
    searching,
)
from benchmark.hashing import derive_seed
from benchmark.models.defense import Defense
from benchmark.results.embedding_points import CODES
from benchmark.seeding import generator, seeded

Array = npt.NDArray[np.float64]

PERPLEXITY = 30.0
"""t-SNE's: about how many neighbours each point has."""


def embedding_map(
    defense: Defense,
    attack: AttackSpec,
    data: ImageDataset,
    *,
    name: str,
    seed: int,
    clean: CleanPredictions | None = None,
) -> pd.DataFrame:
    """Return the rows of :data:`benchmark.results.embedding_points.CODES` of one trained defense.

    ``name`` is the defense's in the results and ``seed`` the run's; ``attack`` has one eps;
    ``clean`` keeps the defense's clean predictions. Every image of ``data`` is there twice, clean
    and under the attack. As in the sweep, an image that the defense gets wrong without any attack
    is not attacked: the share of misclassified points is one minus the accuracy. UsageError if the
    defense has no embeddings or the attack takes no single budget.
    """
    searched = load_attack(attack)
    if not isinstance(searched, BudgetAttack) or len(attack.threat.eps) != 1:
        raise UsageError(f"code map: attack {attack.name} needs one budget; name one such as pgd")
    own_seed = derive_seed(seed, data.info.name, name, "code-map", attack.seed_name)
    (eps,) = attack.threat.eps
    labels = data.labels.cpu()
    with seeded(own_seed, data.device, defense):
        pred = (clean or CleanPredictions(defense)).of(data)
        before = _embeddings(defense, data.x(), name)
        pred_adv, after = pred.clone(), before.clone()
        correct = (pred == labels).nonzero().flatten()
        for rows, judged in _attacked(defense, searched, attack, data, correct, own_seed):
            pred_adv[rows] = judged.pred
            after[rows] = _embeddings(defense, judged.x_adv, name)
    places = place(torch.cat([before, after]).numpy(), own_seed)
    return pd.concat(
        [
            _points(data, name, seed, places[: len(data)], pred, "clean", "", 0.0),
            _points(data, name, seed, places[len(data) :], pred_adv, "attacked", attack.name, eps),
        ],
        ignore_index=True,
    )


def _points(
    data: ImageDataset,
    name: str,
    seed: int,
    places: Array,
    pred: Tensor,
    condition: str,
    attack: str,
    eps: float,
) -> pd.DataFrame:
    """Return one condition's rows of the table."""
    columns = {
        "dataset": data.info.name,
        "defense": name,
        "seed": seed,
        "condition": condition,
        "attack": attack,
        "eps": eps,
        "sample_id": data.sample_ids.cpu().numpy(),
        "label": data.labels.cpu().numpy(),
        "pred": pred.numpy(),
        "x": places[:, 0],
        "y": places[:, 1],
    }
    return pd.DataFrame(columns, columns=CODES.names)


def place(embeddings: Array, seed: int) -> Array:
    """Place embeddings (N, k) in the plane, (N, 2), by t-SNE; the seed decides all randomness.

    t-SNE: van der Maaten and Hinton 2008, https://www.jmlr.org/papers/v9/vandermaaten08a.html. It
    starts at the first two principal components, which keeps the large distances (Kobak and Berens
    2019, https://doi.org/10.1038/s41467-019-13056-x), or at random where there are no two. Fewer
    than four points, which have no neighbourhoods, or all equal ones come back as zeros.
    """
    if not np.isfinite(embeddings).all():
        raise ValueError("some embeddings are not finite numbers")
    centred = embeddings - embeddings.mean(axis=0)
    rank = int(np.linalg.matrix_rank(centred))
    if rank == 0 or len(embeddings) < 4:
        return np.zeros((len(embeddings), 2))
    from sklearn.manifold import TSNE  # takes seconds to import

    fit = TSNE(
        perplexity=min(PERPLEXITY, (len(embeddings) - 1) / 3),
        init="pca" if rank > 1 else "random",
        learning_rate="auto",
        random_state=seed,
    )
    return np.asarray(fit.fit_transform(centred), dtype=np.float64)


def _attacked(
    defense: Defense,
    attack: BudgetAttack,
    spec: AttackSpec,
    data: ImageDataset,
    correct: Tensor,
    seed: int,
) -> Iterator[tuple[Tensor, Judged]]:
    """Yield the rows ``correct`` (n,) of ``data`` batch by batch, attacked at the spec's eps."""
    (eps,) = spec.threat.eps
    if eps == 0 or len(correct) == 0:  # as in the sweep: there is nothing to search
        return
    rng = generator(seed, data.device)
    settings = ViewSettings.of(defense, spec, data.select(correct.to(data.device)))
    for rows in torch.split(correct, BATCH_SIZE):
        on_device = rows.to(data.device)
        yield (
            rows,
            attack_batch(
                defense,
                searching(attack, eps, rng),
                data.x(on_device),
                data.labels[on_device],
                eps=eps,
                norm=spec.threat.norm,
                n_classes=data.info.n_classes,
                settings=settings,
            ),
        )


@torch.no_grad()
def _embeddings(defense: Defense, x: Tensor, name: str) -> Tensor:
    """Return the embeddings of images (N, C, H, W) as float64 (N, k) on the CPU."""
    parts = [defense.embed(batch) for batch in torch.split(x, BATCH_SIZE)]
    known = [part.double().cpu() for part in parts if part is not None]
    if len(known) < len(parts):
        raise UsageError(f"code map: defense {name} has no embeddings (embed returns None)")
    return torch.cat(known)
