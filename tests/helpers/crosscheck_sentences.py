"""The sentences with which a cross-check explains a disagreement."""

import torch
from toys import Linear, dataset

from benchmark.attacks.base import MinimalAttack
from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.crosscheck.compare import compare
from benchmark.crosscheck.results import (
    check_table,
)
from benchmark.progress import Progress

EPS = 0.3


MODEL = Linear(torch.ones(4), b=-2.0)  # label 1 where the mean of four pixels is above a half


def grey(*levels: float):
    """Images of four equal pixels with the model's own labels."""
    x = torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return dataset(x, (x.flatten(1).mean(1) > 0.5).long())


DATA = grey(0.35, 0.4, 0.45, 0.55, 0.9)


def spec(library: str, norm: str = "linf", eps: tuple[float, ...] = (0.0, EPS)) -> AttackSpec:
    return AttackSpec("toy", ThreatModel(norm, eps), n=5, library=library)


def check(attacks, data=DATA, model=MODEL, **options):
    norm = "l2" if any(isinstance(a, MinimalAttack) for a in attacks.values()) else "linf"
    specs = [spec(name, norm, **options) for name in attacks]
    found = compare(
        *(model, specs, data), seed_at=lambda eps: 0, progress=Progress(), attacks=attacks
    )
    for name, frame in found.tables.items():
        check_table(frame, name, name)
    return found


def sentences(attacks, library="it", **options) -> str:
    table = check(attacks, **options).tables["libraries"].set_index("library")
    assert table.loc[library, "status"] == "ok", table.loc[library, "reason"]
    return "\n".join(table.loc[library, "findings"])
