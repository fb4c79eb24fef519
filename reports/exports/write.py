"""One run in one of the forms, as text or as files."""

from pathlib import Path

from benchmark.errors import UsageError, unknown_name
from benchmark.io.atomic import write_atomic
from benchmark.machine_errors import cannot_write
from benchmark.results.run import read_run
from reports.exports.model_index import model_index, model_index_files, model_index_yaml
from reports.exports.robustbench import robustbench_files, robustbench_json

FORMS = ("model-index", "robustbench")


def export_run(
    run_dir: Path, form: str, out: Path | None = None, *, eps: float | None = None
) -> tuple[str, list[Path]]:
    """Return the run in ``form``, one of :data:`FORMS`, and the files that hold it.

    ``out`` is a file if its name ends in .yaml, .yml or .md, of ``robustbench`` in .json. Else it
    is a folder, which then holds a file per model, of ``robustbench`` per model and norm in its
    layout. ``eps`` is the one budget of ``robustbench``. UsageError for an unknown form, a folder
    that is no run, or one that has no result; UsageError or MachineError where nothing can be
    written.
    """
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    run = read_run(run_dir)
    if form == "model-index":
        if eps is not None:
            raise UsageError("--eps: a model-index holds every eps; only robustbench takes one")
        if not model_index(run)["model-index"]:
            raise UsageError(f"{run.run_id}: no cell of it is ok; nothing to export")
        text = model_index_yaml(run)
        if out is None or out.suffix.lower() in (".yaml", ".yml", ".md"):
            files = {out: text} if out else {}
        else:
            files = {out / name: own for name, own in model_index_files(run).items()}
    else:
        found = robustbench_files(run, eps)
        text = robustbench_json(found)
        if out is None or out.suffix.lower() == ".json":
            files = {out: text} if out else {}
        else:
            files = {out / name: robustbench_json({name: own}) for name, own in found.items()}
    for path, content in files.items():
        try:
            write_atomic(path, content.encode())
        except OSError as error:
            raise cannot_write(path, error, "name a file with --out", what="export: ") from None
    return text, list(files)
