"""A check of the defense's noise: can its numbers be computed again?

The harness seeds the global generators, and those that a defense keeps as attributes
(:func:`benchmark.seeding.own_generators`), for every cell. Noise from anywhere else differs from
run to run.
"""

from benchmark.audit.case import Case, Finding
from benchmark.audit.measurements import FEW, SAME, repeatable
from benchmark.audit.registration import check
from benchmark.seeding import UNREPEATABLE


@check("repeatable-noise", level="basic", doubts_gradient=False)
def repeatable_noise(case: Case) -> Finding:
    """Tell whether a random defense draws the same noise again under the same seed."""
    name = "repeatable-noise"
    n = min(len(case.x), FEW)
    if case.once(repeatable):
        evidence = f"under one seed the same logits come twice for {n} images, up to {SAME:g}"
        return Finding(name, "pass", 0.0, 0.0, evidence)
    evidence = f"under one seed other logits come the second time (n={n})"
    return Finding(name, "note", 1.0, 0.0, evidence, UNREPEATABLE)
