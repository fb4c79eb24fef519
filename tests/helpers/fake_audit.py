"""An audit made up for tests of whatever reads one: no check, no attack."""

import math

from benchmark.results import SAMPLES, make_table, read_run
from benchmark.results.audit_tables import (
    FINDINGS,
    TRANSFER,
    VERDICTS,
    put_findings,
    put_samples,
    put_transfer,
    put_verdicts,
)


def finding(defense, check="zero-gradient", answer="pass", **other):
    row = {
        "dataset": "mnist",
        "defense": defense,
        "seed": 0,
        "attack": "",
        "library": "",
        "level": "basic",
        "check": check,
        "answer": answer,
        "value": 0.9 if answer == "alarm" else 0.0,
        "threshold": 0.5,
        "reason": "no gradient" if answer == "alarm" else "",
        "evidence": f"measured on 40 images of {defense}",
        "question": "Tell how many images' gradients are zero.",
        "seconds": 0.5,
    }
    return row | other


def verdict(defense, word="undecided", **other):
    fair = word == "attacked fairly"
    row = {
        "dataset": "mnist",
        "defense": defense,
        "seed": 0,
        "norm": "linf",
        "level": "basic" if word == "undecided" else "full",
        "verdict": word,
        "reasons": "" if fair else "no gradient & <none>",
        "remarks": "",
        "stochastic": False,
        "eps": 0.1,
        "n": 40,
        "clean_accuracy": 0.95,
        "plain_accuracy": 0.8,
        "stronger_accuracy": math.nan if word == "undecided" else 0.1,
        "transfer_accuracy": math.nan if word == "undecided" else 0.2,
        "headline_accuracy": 0.8 if word == "undecided" else 0.1,
        "headline_low": 0.05,
        "headline_high": 0.9,
        "p_value": math.nan,
        "attacks": "" if word == "undecided" else "apgd",
        "beaten_by": "" if word in ("undecided", "attacked fairly") else "audit-apgd",
        "rerun": "",
        "seconds": 1.0,
    }
    return row | other


def transfer(defenses, **other):
    rows = []
    for i, source in enumerate(defenses):
        for j, target in enumerate(defenses):
            pair = {"source": source, "target": target, "accuracy": (1 + i + j) / 20, "n": 40}
            rows.append({"dataset": "mnist", "seed": 0, "norm": "linf", "eps": 0.1} | pair | other)
    return rows


def audit_sample(defense, sample_id, *, falls, eps=0.1, distance=None, **other):
    row = {
        "run_id": "r",
        "sample_id": sample_id,
        "dataset": "mnist",
        "defense": defense,
        "attack": "apgd",
        "library": "audit",
        "norm": "linf",
        "eps": eps,
        "seed": 0,
        "label": 3,
        "pred_clean": 3,
        "pred_adv": 5 if falls else 3,
        "success": falls,
        "distance": eps if distance is None else distance,
        "n_forward": 40,
        "n_backward": 40,
    }
    return row | other


def put_audit(run_dir, *, findings=(), verdicts=(), pairs=(), samples=()):
    """Write the tables of an audit into a run's folder."""
    put_findings(run_dir, make_table(list(findings), FINDINGS))
    put_verdicts(run_dir, make_table(list(verdicts), VERDICTS))
    put_transfer(run_dir, make_table(list(pairs), TRANSFER))
    put_samples(run_dir, make_table(list(samples), SAMPLES))


def fake_audit(run_dir):
    """Audit a run in full: its first defense masks its gradient, the others are fair."""
    names = [defense.name for defense in read_run(run_dir).spec.defenses]
    put_audit(
        run_dir,
        findings=[
            *(finding(name, answer="alarm" if name == names[0] else "pass") for name in names),
            *(finding(name, "random-forward", "note", reason="random") for name in names[1:2]),
        ],
        verdicts=[
            verdict(name, "gradient masking" if name == names[0] else "attacked fairly", norm=norm)
            for name in names
            for norm in ("linf", "l2")
        ],
        pairs=transfer(names),
        samples=[audit_sample(names[0], i, falls=i < 30) for i in range(40)],
    )
