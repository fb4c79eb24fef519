"""Whatever is typed: exit code 0, 1 or 2, one clear line, no traceback, nothing written elsewhere.

Commands, options and their types come from the command line itself, so that what is added there
is fuzzed too. Nothing trains: what a command would compute is replaced, and what it was asked to
compute is checked to be something that its tables and its folder can hold.

``pytest --hypothesis-profile=soak tests/test_fuzz.py`` takes many more, and new, examples.
"""

import contextlib
import functools
import inspect
import io
import json
import os
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from fake_runs import fake_run, fake_spec
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from benchmark.cli import app, main
from benchmark.config.presets import preset_names
from benchmark.config.spec import RunSpec
from benchmark.crosscheck.results import folder_name
from benchmark.datasets.load import open_source
from benchmark.registry import ATTACKS, DATASETS, DEFENSES, LIBRARIES
from benchmark.results import CELLS, make_table, read_run
from benchmark.results.run_folder import RunFolder

COMMANDS = {
    command.name or command.callback.__name__: command.callback
    for command in app.registered_commands
}
STAND_INS = {
    "evaluate": "benchmark.given.source.Source.subject",
    "run": "benchmark.execution.runner.run",
    "audit": "benchmark.execution.audit_run.audit_run",
    "crosscheck": "benchmark.crosscheck.measure.crosscheck",
    "dimension": "benchmark.dimension.measure.measure_dimension",
    "speed": "benchmark.speed.measure.measure_speed",
    "report": "reports.html.render",
    "leaderboard": "",
    "export": "",
    "list": "",
}
"""By command, what computes: it is replaced by a function of this module's."""


def test_every_command_has_a_stand_in():
    """Or fuzzing a new command would train and attack for hours."""
    assert set(COMMANDS) == set(STAND_INS)


# --- stand-ins: they take what they are asked for as far as the first computation


def holds(spec: RunSpec) -> None:
    """Fail unless the spec survives its file, and a table can hold its cells."""
    assert RunSpec.from_json(spec.to_json()) == spec
    sweeps = [(attack.name, attack.library) for attack in spec.attacks]
    assert len(sweeps) == len(set(sweeps)), "an attack stands in the run twice"
    make_table(
        [
            {"seed": seed, "defense": defense.name, "attack": attack.name}
            for seed in spec.seeds
            for defense in spec.defenses
            for attack in spec.attacks
        ],
        CELLS,
    )


def stand_in_run(spec, *, out, command, **_):
    holds(spec)
    checksums = {"train_checksum": "0", "test_checksum": "1"}
    RunFolder.open(out, spec).begin({"dataset": checksums, "command": command})
    raise typer.Exit


def stand_in_evaluate(source, say):
    json.dumps(asdict(source))
    raise typer.Exit


def stand_in_audit(run_dir, **_):
    read_run(run_dir)
    raise typer.Exit


def stand_in_crosscheck(plan, *, out, command, **_):
    holds(plan.spec)
    (out / folder_name(plan.spec, plan.versions)).name.encode()
    json.dumps({"command": command})
    raise typer.Exit


def stand_in_dimension(settings, *, data_dir, command, **_):
    source = open_source(settings.dataset)
    if data_dir is not None:  # or some would be downloaded
        source.load("test", n=2, data_dir=data_dir)
    json.dumps({"command": command})
    raise typer.Exit


def stand_in_speed(plan, **_):
    holds(plan.spec)
    for task in plan.tasks:
        for one in (*task.contestants, *task.doubling):
            assert one.passes > 0
    raise typer.Exit


def stand_in_report(runs, links=(), dimensions=()):
    return "<html></html>", {"data/cells.csv": b"a"}


@pytest.fixture(scope="module", autouse=True)
def _nothing_computes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, target in STAND_INS.items():
            if target:
                patch.setattr(target, globals()[f"stand_in_{name}"])
        patch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("BENCHMARK_DATA_DIR", raising=False)
        yield


# --- what is typed

NASTY = [
    *("", " ", ",", ",,,", "-", "--", "=", ":", "()", "(", "'", '"', "\\", "%s{0}", "{", "None"),
    *("0", "-1", "1.5", "8", "1e999", "nan", "-0", "0x10", "9" * 30, "9" * 5000, "1_0", "٣", "1,1"),
    *("\n", "a\nb", "a\r\nerror: b", "\x1b[31mred\x1b[0m", "\x07", "\x85", "\u2028", "\u202e", "é"),
    *("\udcff", "\ufeff", "\U0001f600", "x" * 300, "pgd," * 500),
    *("base", "defaults", "description", "all", "auto", "cuda", "default", "__main__", "json"),
    *("json:JSONDecoder", "json:nothing", "a.b:C", "toys:Tiny", "toys:Nothing", "sys:path"),
    *("<script>alert(1)</script>", "../../../x", "art:DeepFool", "art:DeepFol", "art:PGD(", "1:2"),
    *("torchattacks:APGD(steps=50)", "torchattacks:APGD( steps = 50 )", "art:json", "sys:X(a=1)"),
    *("torchattacks:APGD(steps=1e999)", "torchattacks:APGD(norm='\udcff')", "inhouse:PGD(steps=1)"),
    "torchattacks:APGD(steps=" + "[" * 300 + "]" * 300 + ")",
    "torchattacks:APGD(steps=" + "-" * 3000 + "1)",
    r"torchattacks:APGD(loss='\d')",
]
PATHS = [
    *("", ".", "..", "out", "out/below/it", "a file", "a file/below", "../beside", "runs", "a run"),
    *("~", "~nobody-of-that-name/x", "x" * 300, "x/" * 3000, "/dev/null", "/dev/null/x", "/proc/1"),
    *("a\nb", "\x1b[2J", "é\udcff", "page.html", "a run/spec.json", "<b>", "%2e%2e", "-", "a loop"),
    *("read only", "read only/x", "/proc/self/mem", "damaged run"),
]


@functools.cache
def words() -> st.SearchStrategy[str]:
    """Real names, real names mistyped, and worse; one or several."""
    registries = (DEFENSES, ATTACKS, LIBRARIES, DATASETS)
    real = [name for registry in registries for name in registry.names()]
    real += ["inhouse", *preset_names(), "lambda", "embedding-dim", "digits", "pgd", "cw", "sweep"]
    word = st.one_of(
        st.sampled_from(real),
        st.sampled_from(real),
        st.sampled_from(NASTY),
        st.text(st.characters(exclude_characters="\0"), max_size=12),
    )
    grid = st.lists(st.floats(-0.1, 1.1) | st.floats(), min_size=1, max_size=4)
    return st.one_of(
        word,
        st.lists(word, max_size=4).map(",".join),
        grid.map(lambda numbers: ",".join(f"{number:g}" for number in numbers)),
    )


PROPER = {
    "dataset": ["digits"],
    "preset": ["smoke", "quick"],
    "device": ["cpu"],
    "defense": ["undefended", "madry"],
    "attack": ["pgd", "cw"],
    "eps": ["0,0.1", "0.3"],
    "seeds": ["0", "0,7"],
    "split": ["test", "train"],
    "libraries": ["inhouse", "torchattacks", "inhouse,art"],
    "attacks": ["pgd", "pgd,cw", "torchattacks:APGD(steps=5)"],
    "defenses": ["all", "undefended", "rse,madry"],
    "tasks": ["pgd", "cw,sweep"],
    "study": ["lambda", ""],
    "what": ["defenses", "attacks", "presets", "datasets"],
    "out": ["out"],
    "run_dirs": ["a run"],
    "run_dir": ["a run"],
    "level": ["basic", "full"],
    "norm": ["linf", "l2"],
    "sort": ["worst", "clean"],
    "to": ["model-index", "robustbench"],
    "audit": ["basic"],
}
"""By option, values that are right: with wrong ones alone the first mistake hides all others."""


@dataclass(frozen=True)
class Parameter:
    """What a command takes: ``kind`` is what Typer makes of the text that is typed."""

    name: str
    kind: type
    argument: bool
    several: bool
    required: bool

    @functools.cached_property
    def values(self) -> st.SearchStrategy[str]:
        kinds = {
            int: st.integers(-2, 20).map(str) | st.integers().map(str) | words(),
            float: st.floats().map(str) | words(),
            Path: st.sampled_from(PATHS) | st.sampled_from(PATHS) | words(),
        }
        kind = kinds.get(self.kind, words())
        proper = st.sampled_from(PROPER.get(self.name, [""]))
        # Hypothesis shrinks to the first: to what is right.
        return st.one_of(proper, proper, kind) if self.name in PROPER else kind


def parameters(callback) -> list[Parameter]:
    hints = get_type_hints(callback, include_extras=True)
    found = []
    for name, given_ in inspect.signature(callback).parameters.items():
        kind, about = get_args(hints[name])
        if type(None) in get_args(kind):
            (kind,) = {*get_args(kind)} - {type(None)}
        several = getattr(kind, "__origin__", None) is list
        (kind,) = get_args(kind) or (kind,)
        argument = isinstance(about, typer.models.ArgumentInfo)
        found.append(Parameter(name, kind, argument, several, given_.default is given_.empty))
    return found


PARAMETERS = {name: parameters(callback) for name, callback in COMMANDS.items()}


def test_options_are_what_the_command_line_has():
    kinds = {parameter.kind for own in PARAMETERS.values() for parameter in own}
    assert kinds <= {str, int, float, bool, Path}
    assert {"dataset", "out", "exact"} <= {parameter.name for parameter in PARAMETERS["run"]}
    assert PARAMETERS["report"][0] == Parameter("run_dirs", Path, True, True, True)


def one_in(draw: st.DrawFn, n: int) -> bool:
    return draw(st.integers(1, n)) == n


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(sorted(COMMANDS)))
    line = [draw(st.sampled_from(NASTY)) if one_in(draw, 40) else name]
    for parameter in PARAMETERS[name]:
        likely = parameter.required or parameter.name in ("preset", "device", "out")
        if one_in(draw, 15) if likely else draw(st.booleans()):
            continue
        option = f"--{parameter.name.removeprefix('as_').replace('_', '-')}"
        if parameter.kind is bool:
            line.append(option)
        elif parameter.argument:
            most = 3 if parameter.several else 1
            line += draw(st.lists(parameter.values, min_size=1, max_size=most))
        else:
            text = draw(parameter.values)
            line += draw(st.sampled_from([[option, text], [f"{option}={text}"]]))
    if one_in(draw, 10):
        line.append(draw(words()))
    return line


# --- what comes of it


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str
    here: Path
    written: list[Path]


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder to work in with files, folders and runs of all kinds; the one above is foreign."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as above:
        here = Path(above) / "work" / "place"
        here.mkdir(parents=True)
        (here / "a file").write_text("kept")
        (here / "a loop").symlink_to("a loop")
        (here / "a run").symlink_to(RUN_DIR[0], target_is_directory=True)
        (here / "damaged run").mkdir()
        (here / "damaged run" / "spec.json").write_text("[" * 100_000)
        (here / "read only").mkdir(mode=0o500)
        os.chdir(here)
        try:
            yield here
        finally:
            os.chdir(before)


RUN_DIR: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def _a_run(tmp_path_factory):
    spec = fake_spec(["undefended"], eps=(0.0, 0.1), seeds=(0,), n=4)
    RUN_DIR[:] = [fake_run(tmp_path_factory.mktemp("runs"), spec)]


def typed(line: list[str]) -> Answer:
    """Type a command line as a shell would pass it, into streams as a terminal's are."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors, write_through=True)
        for errors in ("strict", "backslashreplace")
    )
    with workplace() as here:
        above = here.parents[1]
        there = set(above.rglob("*"))
        code: object = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(line)
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException:
                pytest.fail(f"{line!r}\n{traceback.format_exc()}")
        written = sorted(set(above.rglob("*")) - there)
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]
    assert isinstance(code, int), (line, code)
    return Answer(code, *said, here, written)


def check(line: list[str]) -> None:
    found = typed(line)
    assert found.code in (0, 1, 2), (line, found)
    assert "Traceback" not in found.out + found.err, (line, found)
    if found.code == 2 and not found.err.startswith("Usage: "):  # Typer's own has three lines
        lines = found.err.splitlines()
        assert lines, line
        assert lines[-1].startswith("error: "), (line, found)
        assert sum(text.startswith("error: ") for text in lines) == 1, (line, found)
        assert lines[-1].isprintable(), (line, found)
        assert found.out == "", (line, found)
    roots = [Path(os.path.normpath(found.here / text)) for text in (*outs(line), "runs")]
    for path in found.written:
        within = any(path.is_relative_to(root) or root.is_relative_to(path) for root in roots)
        assert within, (line, path)


def outs(line: list[str]) -> set[str]:
    """What a command line names as --out."""
    joined = {text.removeprefix("--out=") for text in line if text.startswith("--out=")}
    return joined | {line[i + 1] for i, text in enumerate(line[:-1]) if text == "--out"}


SMOKE = ["run", "--dataset", "digits", "--preset", "smoke", "--device", "cpu"]
FOUND = {
    "a dataset of a preset's word": ["crosscheck", "--dataset=base", "--attack=pgd"],
    "another word": ["speed", "--dataset=description", "--preset=smoke"],
    "a seed beyond 64 bits": [*SMOKE, "--seeds", "9" * 30],
    "an attack in two spellings": [
        *SMOKE,
        "--attacks=torchattacks:PGD(steps=5),torchattacks:PGD( steps=5)",
    ],
    "a name too long": [*SMOKE, "--out", "x" * 300],
    "a loop of links": [*SMOKE, "--out", "a loop"],
    "a loop to report on": ["report", "a loop"],
    "JSON a hundred thousand deep": ["report", "damaged run"],
    "a name too long to report on": ["report", "x" * 300],
    "a name that clears the terminal": ["report", "\x1b[2Ja run that is none"],
    "nobody's home": ["dimension", "--dataset=mnist", "--data-dir=~nobody-of-that-name"],
}
"""What raised, or moved the terminal's cursor, when it was first tried."""


@pytest.mark.parametrize("line", FOUND.values(), ids=FOUND)
def test_what_was_found_before(line):
    check(line)


@examples(300)
@given(command_lines())
def test_any_command_line(line):
    check(line)
