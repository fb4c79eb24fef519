"""What a sweep left, as plain values."""

from benchmark.config.spec import AttackSpec
from benchmark.config.threat import ThreatModel
from benchmark.evaluation.sweep import sweep
from benchmark.hashing import derive_seed
from benchmark.progress import Progress


def outcomes(defense, attack, data, eps, *, exact=False, **options):
    spec = AttackSpec("toy", ThreatModel(attack.norm, tuple(eps)), len(data), **options)
    return list(
        sweep(
            defense,
            attack,
            spec,
            data,
            seed_at=lambda eps: derive_seed("test", eps),
            progress=Progress(),
            exact=exact,
        )
    )
