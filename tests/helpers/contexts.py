"""What the report's sections start from, of runs made up for tests."""

import math
from pathlib import Path

from pages import Page

from benchmark.config.spec import AttackSpec, DefenseSpec, RunSpec
from benchmark.config.threat import ThreatModel
from benchmark.results import CELL_KEY, CELLS, SAMPLES, Run, make_table, read_run, validate
from benchmark.results.audit_tables import read_audit
from benchmark.stats import wilson_interval
from reports.figures import curves
from reports.section import RunContext
from reports.tables import grid
from reports.templating import environment


def context(run, prefix=""):
    """The context of a run, or of a run's folder."""
    run = read_run(run) if isinstance(run, Path) else run
    cells = grid.grid(run)
    names = [*(defense.name for defense in run.spec.defenses), *cells["defense"]]
    pooled = grid.pool(cells, run.samples)
    styles = curves.line_styles(names)
    own = f"{prefix}{run.run_id}"
    return RunContext(run, cells, pooled, styles, prefix, own, audit=read_audit(run.path))


def page_of(section, within="id"):
    """The section's template as a page that a test can read."""
    template = environment().get_template(section.template)
    html = template.render(v=section.view, run_id_in_page=within)
    page = Page(html)
    for link in page.all("a"):
        assert link["href"].startswith("#") or link["href"] in section.files, link
    return page


def sample(defense, attack, sample_id, *, falls, eps=0.1, seed=0, library="inhouse", clean=True):
    """A row of the samples table: an image that ``falls`` to the attack or not."""
    wrong = falls or not clean
    return {
        "run_id": "r",
        "sample_id": sample_id,
        "dataset": "mnist",
        "defense": defense,
        "attack": attack,
        "library": library,
        "norm": "linf",
        "eps": eps,
        "seed": seed,
        "label": 3,
        "pred_clean": 3 if clean else 5,
        "pred_adv": 5 if wrong else 3,
        "success": wrong,
        "distance": (eps if clean else 0.0) if wrong else 0.0,
        "n_forward": 40,
        "n_backward": 20,
    }


def run_of(samples, n_train=100, seeds=None, checksum="a9" * 32):
    """A run that consists of ``samples``: its spec and its cells follow from them."""
    groups = {}
    for row in samples:
        groups.setdefault(tuple(row[name] for name in CELL_KEY), []).append(row)
    cells = []
    for key, own in groups.items():
        n, robust = len(own), sum(not row["success"] for row in own)
        low, high = wilson_interval(robust, n)
        cells.append(
            {
                **dict(zip(CELL_KEY, key, strict=True)),
                "eot": 1,
                "bpda": False,
                "status": "ok",
                "reason": "",
                "n": n,
                "clean_accuracy": sum(row["pred_clean"] == row["label"] for row in own) / n,
                "robust_accuracy": robust / n,
                "ci_low": low,
                "ci_high": high,
                "median_distance": math.nan,
                "seconds": 2.0,
                **dict.fromkeys(("device", "preset", "versions", "git_sha"), "x"),
            }
        )
    attacks = {(row["attack"], row["library"], row["norm"]) for row in samples}
    eps = tuple(sorted({row["eps"] for row in samples}))
    spec = RunSpec(
        dataset="mnist",
        preset="quick",
        n_train=n_train,
        n_test=100,
        seeds=tuple(seeds or sorted({row["seed"] for row in samples})),
        device="cpu",
        defenses=tuple(DefenseSpec(name) for name in dict.fromkeys(r["defense"] for r in samples)),
        attacks=tuple(
            AttackSpec(name, ThreatModel(norm, eps), 100, library=library)
            for name, library, norm in sorted(attacks)
        ),
    )
    tables_ = [
        validate(make_table(rows, schema), schema, "test")
        for rows, schema in ((cells, CELLS), (samples, SAMPLES))
    ]
    provenance = {"dataset": {"test_checksum": checksum}} if checksum else {}
    return Run(Path(spec.run_id), spec, *tables_, [], provenance)
