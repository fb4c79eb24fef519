"""A defense's codes of test images, clean and attacked, brought to the plane by t-SNE.

The data of the paper's Figure 5 (section 4.4). The paper projects clean and attacked codes one
after the other; t-SNE places points, it does not map the space, so the coordinates of two fits
have nothing to do with each other. Here both are placed by one fit: where an attacked code lies
among the clean ones can be read off.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from benchmark.attacks.base import BudgetAttack
from benchmark.attacks.loader import load_attack
from benchmark.attacks.view import attack_view
from benchmark.batching import BATCH_SIZE
from benchmark.config.spec import AttackSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import UsageError
from benchmark.evaluation.scoring import enforce_threat_model, inside_for, predict
from benchmark.hashing import derive_seed
from benchmark.models.defense import Defense
from benchmark.results.embedding_points import CODES
from benchmark.seeding import generator, seeded

Array = npt.NDArray[np.float64]

PERPLEXITY = 30.0


def code_map(
    defense: Defense, attack: AttackSpec, data: ImageDataset, *, name: str, seed: int
) -> pd.DataFrame:
    """Return the rows of :data:`benchmark.results.embedding_points.CODES` of one trained defense.

    ``name`` is the defense's in the results and ``seed`` the run's; ``attack`` has one eps. Every
    image of ``data`` is there twice, clean and under the attack. As in the sweep, an image that the
    defense gets wrong without any attack is not attacked: the share of misclassified points is one
    minus the accuracy. UsageError if the defense has no codes or the attack is not of one budget.
    """
    searched = load_attack(attack)
    if not isinstance(searched, BudgetAttack) or len(attack.threat.eps) != 1:
        raise UsageError(f"code map: attack {attack.name} needs one budget; name one such as pgd")
    own_seed = derive_seed(seed, data.info.name, name, "code-map", attack.seed_name)
    labels = data.labels.cpu()
    with seeded(own_seed, data.device, defense):
        pred, clean = predict(defense, data), _codes(defense, data.x(), name)
        standing = (pred == labels).nonzero().flatten()
        images = _attacked(
            defense, searched, attack, data.select(standing.to(data.device)), own_seed
        )
        pred_adv, codes = pred.clone(), clean.clone()
        for rows, x in zip(_batches(standing), _batches(images), strict=True):
            if len(rows):
                pred_adv[rows], codes[rows] = defense.predict(x).cpu(), _codes(defense, x, name)
    places = place(torch.cat([clean, codes]).numpy(), own_seed)
    (eps,) = attack.threat.eps
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


def place(codes: Array, seed: int) -> Array:
    """Place codes (N, k) in the plane, (N, 2), by t-SNE; equal codes and seeds give equal places.

    t-SNE: van der Maaten and Hinton 2008, https://www.jmlr.org/papers/v9/vandermaaten08a.html. It
    starts at the first two principal components, which keeps the large distances (Kobak and Berens
    2019, https://doi.org/10.1038/s41467-019-13056-x), or at random where there are no two. Fewer
    than four points, which have no neighbourhoods, or codes that are all equal come back as zeros.
    """
    if not np.isfinite(codes).all():
        raise ValueError("some codes are not finite numbers")
    centred = codes - codes.mean(axis=0)
    rank = int(np.linalg.matrix_rank(centred))
    if rank == 0 or len(codes) < 4:
        return np.zeros((len(codes), 2))
    from sklearn.manifold import TSNE  # seconds of scipy: only who draws a map pays for it

    fit = TSNE(
        perplexity=min(PERPLEXITY, (len(codes) - 1) / 3),
        init="pca" if rank > 1 else "random",
        learning_rate="auto",
        random_state=seed,
    )
    return np.asarray(fit.fit_transform(centred), dtype=np.float64)


def _attacked(
    defense: Defense, attack: BudgetAttack, spec: AttackSpec, data: ImageDataset, seed: int
) -> Tensor:
    """Return the attack's images for ``data`` at the spec's eps, within the box and the ball."""
    (eps,) = spec.threat.eps
    if eps == 0 or len(data) == 0:  # as in the sweep: there is nothing to search
        return data.x()
    rng = generator(seed, data.device)
    inside = inside_for(defense, spec, data)
    parts = []
    for rows in data.batches(BATCH_SIZE):
        x, y = data.x(rows), data.labels[rows]
        with attack_view(defense, len(x), eot=spec.eot, bpda=spec.bpda, inside=inside) as view:
            found = attack.run(view, x, y, eps=eps, generator=rng)
        parts.append(enforce_threat_model(found, x, eps, spec.threat.norm)[0])
    return torch.cat(parts)


@torch.no_grad()
def _codes(defense: Defense, x: Tensor, name: str) -> Tensor:
    """Return the codes of images (N, C, H, W) as float64 (N, k) on the CPU."""
    parts = [defense.embed(batch) for batch in _batches(x)]
    known = [part.double().cpu() for part in parts if part is not None]
    if len(known) < len(parts):
        raise UsageError(f"code map: defense {name} has no codes (embed returns None)")
    return torch.cat(known)


def _batches(rows: Tensor) -> tuple[Tensor, ...]:
    """Cut a tensor (N, ...) into batches."""
    return torch.split(rows, BATCH_SIZE)
