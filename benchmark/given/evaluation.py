"""What an evaluation found: tables, adversarial images, a verdict and a report."""

import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmark.config.threat import reach, same_eps
from benchmark.errors import UsageError
from benchmark.given.display import as_html, as_text
from benchmark.results.adversarial_images import decoded, read_adversarial
from benchmark.results.audit_tables import read_audit
from benchmark.results.run import Run, read_run
from benchmark.stats import wilson_interval

TABLE = ["attack", "library", "norm", "eps", "robust_accuracy", "ci_low", "ci_high", "n"]
WORST = "worst case"
"""How all attacks together are called."""


@dataclass(frozen=True)
class EvaluationVerdict:
    """What the audit says of the attacks, in the words of ``docs/audit.md``.

    ``word`` is "attacked fairly", "attack too weak", "gradient masking", "invalid" or "undecided",
    empty without an audit; ``reasons`` and ``remarks`` say why, and ``level`` is basic or full.
    """

    word: str
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    level: str = ""

    def __str__(self) -> str:
        if not self.word:
            return "not audited"
        return f"{self.word} ({self.level} audit)" + (f": {self.why}" if self.why else "")

    @property
    def why(self) -> str:
        """The reasons in one line; of an undecided verdict, what is missing."""
        listed = "; ".join(self.reasons or self.remarks)
        return f"what is missing is {listed}" if listed and self.word == "undecided" else listed


@dataclass(frozen=True, eq=False)
class AdversarialImages:
    """The images that fool a model within a budget, the nearest that any attack found of each.

    ``images`` (m, C, H, W) float32 in [0, 1]; ``sample_ids``, ``labels`` and ``predictions`` (m,)
    int64; ``distances`` (m,) float64 in the evaluation's norm. Images that the model gets wrong
    without an attack are not among them.
    """

    images: npt.NDArray[np.float32]
    sample_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """The result of :func:`benchmark.evaluate`; also of any run of one model, read by :meth:`load`.

    ``run`` holds the tables as they are in the folder ``run.path``. ``keeper`` deletes that folder
    with the evaluation where it is a temporary one.
    """

    run: Run
    keeper: Any = field(default=None, compare=False)

    @classmethod
    def load(cls, run_dir: str | Path) -> "Evaluation":
        """Read an evaluation that was kept; UsageError if the folder is none or is damaged."""
        run = read_run(Path(run_dir))
        if len(run.spec.defenses) != 1 or len(run.spec.seeds) != 1:
            raise UsageError(
                f"{run_dir} is a run of several models; read it with benchmark.results.read_run"
            )
        return cls(run)

    # --- numbers ---------------------------------------------------------------------------------

    @property
    def model(self) -> str:
        """The model's name."""
        return self.run.spec.defenses[0].name

    @property
    def norm(self) -> str:
        """The norm in which the images may move."""
        return self.run.spec.attacks[0].threat.norm

    @property
    def eps(self) -> tuple[float, ...]:
        """The budgets, ascending, 0 first."""
        return self.run.spec.attacks[0].threat.eps

    @property
    def n(self) -> int:
        """The number of images."""
        return self.run.spec.n_test

    @property
    def table(self) -> pd.DataFrame:
        """Accuracy per attack and eps, a fraction in [0, 1], with its Wilson 95 % interval.

        Attacks that were skipped or failed are in :attr:`skipped`.
        """
        cells = self.run.cells
        return cells.loc[cells["status"] == "ok", TABLE].reset_index(drop=True)

    @property
    def skipped(self) -> pd.DataFrame:
        """The attacks that gave no number, with the reason."""
        cells = self.run.cells
        lost = cells.loc[cells["status"] != "ok", ["attack", "library", "status", "reason"]]
        return lost.drop_duplicates(ignore_index=True)

    @property
    def samples(self) -> pd.DataFrame:
        """A row per attack, eps and image (``benchmark.results.SAMPLES`` names the columns)."""
        return self.run.samples

    @cached_property
    def worst_case(self) -> pd.DataFrame:
        """Accuracy per eps over all attacks: an image counts if none of them fooled the model."""
        fooled = self.samples.groupby(["eps", "sample_id"], observed=True)["success"].any()
        rows = []
        for eps, own in fooled.groupby(level="eps"):
            left, n = int((~own).sum()), len(own)
            low, high = wilson_interval(left, n)
            rows.append([WORST, "", self.norm, float(str(eps)), left / n, low, high, n])
        return pd.DataFrame(rows, columns=TABLE)

    @property
    def clean_accuracy(self) -> float:
        """The accuracy without an attack; NaN if nothing could be computed."""
        told = self.table[self.table["eps"] == 0]
        return float(told["robust_accuracy"].iloc[0]) if len(told) else float("nan")

    def accuracy(self, eps: float) -> float:
        """Return the accuracy at ``eps`` over all attacks; UsageError if it was not evaluated."""
        for row in self.worst_case.itertuples():
            if same_eps(float(row.eps), eps):  # type: ignore[arg-type]
                return float(row.robust_accuracy)  # type: ignore[arg-type]
        known = ", ".join(f"{value:g}" for value in self.eps)
        raise UsageError(f"eps {eps:g} was not evaluated; there are {known}")

    @cached_property
    def verdict(self) -> EvaluationVerdict:
        """Whether the attacks can be believed, and why."""
        verdicts = read_audit(self.run.path).verdicts
        own = verdicts[verdicts["norm"] == self.norm]
        if own.empty:
            return EvaluationVerdict("")
        row = own.iloc[-1]
        reasons, remarks = (
            tuple(part for part in str(row[name]).split("; ") if part)
            for name in ("reasons", "remarks")
        )
        return EvaluationVerdict(str(row["verdict"]), reasons, remarks, str(row["level"]))

    def to_frame(self) -> pd.DataFrame:
        """Return :attr:`table` and :attr:`worst_case` as one tidy frame, with model and verdict."""
        frame = pd.concat([self.table, self.worst_case], ignore_index=True)
        frame.insert(0, "model", self.model)
        return frame.assign(verdict=self.verdict.word)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers and the verdict as plain data for JSON; NaN is null."""
        plain = self.to_frame().drop(columns=["model", "verdict"])
        rows = plain.astype(object).where(plain.notna(), None).to_dict("records")
        return {
            "run_id": self.run.run_id,
            "run_dir": str(self.run.path),
            "model": self.model,
            "dataset": self.run.spec.dataset,
            "n": self.n,
            "accuracy": rows,
            "skipped": self.skipped.to_dict("records"),
            "verdict": {
                "word": self.verdict.word,
                "level": self.verdict.level,
                "reasons": list(self.verdict.reasons),
                "remarks": list(self.verdict.remarks),
            },
        }

    # --- images, files ---------------------------------------------------------------------------

    def adversarial(self, eps: float) -> AdversarialImages:
        """Return the images that fool the model within ``eps``, one for each sample."""
        rows = read_adversarial(self.run.path)
        rows = rows[(rows["norm"] == self.norm) & (rows["distance"] <= reach(eps))]
        shape = self._shape()
        return AdversarialImages(
            decoded(rows) if len(rows) else np.zeros((0, *shape), np.float32),
            rows["sample_id"].to_numpy(np.int64),
            rows["label"].to_numpy(np.int64),
            rows["pred_adv"].to_numpy(np.int64),
            rows["distance"].to_numpy(np.float64),
        )

    def _shape(self) -> tuple[int, ...]:
        every = read_adversarial(self.run.path)
        return decoded(every.head(1)).shape[1:] if len(every) else (0, 0, 0)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report into the folder ``path`` (the run's own by default); return its page."""
        if path is None and self.keeper is not None:
            raise UsageError("report: name a folder; this evaluation was made without out=")
        from reports.html import write_report

        return write_report([self.run.path], None if path is None else Path(path))

    def save(self, path: str | Path) -> Path:
        """Copy everything into the folder ``path``, which must not exist yet; return it.

        :meth:`load`, ``report`` and ``leaderboard`` read it.
        """
        target = Path(path)
        if target.exists():
            raise UsageError(f"{target} exists already: name another folder")
        shutil.copytree(self.run.path, target, ignore=shutil.ignore_patterns(".*"))
        return target

    # --- display ---------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)
