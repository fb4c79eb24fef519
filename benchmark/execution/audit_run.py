"""The audit of a finished run: what ``run`` did not ask, asked later of its models."""

from pathlib import Path
from typing import Any

from benchmark.audit.basic import audit_rest
from benchmark.audit.full import FullAudit
from benchmark.config.spec import RunSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.errors import UsageError, options_named
from benchmark.execution.plan import choose_device
from benchmark.io.locks import held
from benchmark.progress import Progress
from benchmark.results.audit_words import Level
from benchmark.results.model_records import read_models
from benchmark.results.recovery import contents
from benchmark.results.run import read_origin, read_spec
from benchmark.results.run_folder import RunFolder
from benchmark.training.supply import TRAINED, Supply


def audit_run(run_dir: Path, *, level: Level, progress: Progress, supply: Supply = TRAINED) -> None:
    """Audit a run that lies in ``run_dir``; what is there of its audit is not done again.

    UsageError, before anything is computed, if the folder is not a run or its images are not those
    of the run. A defense that cannot be audited is undecided, with the reason.
    """
    spec = read_spec(run_dir)
    try:
        choose_device(spec.device)
    except UsageError:
        raise UsageError(
            f"{run_dir} was made on device {spec.device!r}, which this machine does not have;"
            " audit it where there is one"
        ) from None
    records = {(model.defense, model.seed): model for model in read_models(run_dir)}
    if not records:
        raise UsageError(f"{run_dir}: nothing was trained and attacked there yet; finish the run")
    with options_named({name: f"the run's {name}" for name in ("--n-train", "--n-test")}):
        sets = supply.images(spec)
    _check_images(run_dir, spec, *sets)
    with held(run_dir / ".lock", str(run_dir), progress):
        folder = RunFolder(run_dir, spec, *contents(run_dir, spec.run_id))
        folder.repair(progress)
        if level == "full":
            FullAudit(folder, supply, records, sets, progress).run()
        else:
            audit_rest(folder, supply, records.values(), sets, progress, may_train=True)


def audit_full(run_dir: Path, *, progress: Progress, supply: Supply = TRAINED) -> None:
    """Audit in full a run that has just ended; a run without a single model has nothing to say."""
    if list((run_dir / "models").glob("*.json")):
        audit_run(run_dir, level="full", progress=progress, supply=supply)


def _check_images(
    run_dir: Path, spec: RunSpec, train_set: ImageDataset, test_set: ImageDataset
) -> None:
    """Refuse other images than those that the run attacked."""
    about = read_origin(run_dir, spec).get("dataset")
    before: Any = about if isinstance(about, dict) else {}
    for split, images in (("train", train_set), ("test", test_set)):
        known = before.get(f"{split}_checksum")
        if known and known != images.checksum:
            raise UsageError(
                f"{run_dir} was made with other {spec.dataset} images ({split} checksum differs);"
                " name the folder of its images with --data-dir"
            )
