"""Every option that a message names is one that its command has."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import typer.main
from paths import ROOT

import defensebench_pytest
from benchmark.cli import app
from benchmark.execution.plan import plan

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")

COMMANDS = {
    name: {
        option
        for each in (command, *getattr(command, "commands", {}).values())  # a group has its own
        for parameter in each.params
        for option in parameter.opts
    }
    | {"--help"}
    for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
}

COMMANDS["pytest"] = {*defensebench_pytest.OPTIONS}

# Modules that serve one command; what others say, `run` says too, under its own options.
OF = {
    "benchmark/execution/audit_run.py": "audit",
    "benchmark/crosscheck/": "crosscheck",
    "benchmark/dimension": "dimension",
    "benchmark/speed": "speed",
    "benchmark/testing/": "pytest",
    "benchmark/given/": "evaluate",
    "benchmark/models/adapters/": "evaluate",
    "benchmark/models/answer": "evaluate",
    "reports/pages/crosscheck.py": "crosscheck",
    "reports/pages/speed.py": "speed",
    "reports/pages/leaderboard.py": "leaderboard",
    "reports/exports/": "export",
    "benchmark/": "run",
    "reports/": "run",
    "defenses/": "run",
    "baselines/": "run",
}
GIT = {"--always", "--dirty", "--abbrev", "--error-unmatch"}
ELSEWHERE = {
    # Names of run's options that the module translates, or that lead the way to run.
    ("benchmark/speed/measure.py", "--n-test"),
    ("benchmark/crosscheck/plan.py", "--n-test"),
    ("benchmark/crosscheck/plan.py", "--seeds"),
    ("benchmark/execution/audit_run.py", "--n-test"),
    ("benchmark/execution/audit_run.py", "--n-train"),
}


def messages(path: Path) -> Iterator[str]:
    """Yield the texts of a module that are no docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    docs = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def modules() -> list[Path]:
    folders = ("benchmark", "reports", "defenses", "baselines")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_message_names_options_that_its_command_has() -> None:
    found = 0
    for path in modules():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("benchmark/cli/"):
            continue
        command = next(command for start, command in OF.items() if name.startswith(start))
        for text in messages(path):
            for option in OPTION.findall(text):
                if option in GIT or (name, option) in ELSEWHERE:
                    continue
                found += 1
                assert option in COMMANDS[command], f"{name}: {text!r} names {option}"
    assert found > 30


def test_the_commands_help_names_options_that_the_command_has() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            for option in OPTION.findall(getattr(parameter, "help", None) or ""):
                assert option in COMMANDS[name], f"{name}: {parameter.help}"


def test_the_documents_command_lines_exist() -> None:
    found = 0
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(r"(?:python -m benchmark|defensebench) (?=[a-z])(.*)", text):
            command, _, rest = line.partition(" ")
            if command not in COMMANDS:
                continue
            options = OPTION.findall(re.split(r"[`#|]", rest)[0])
            found += len(options)
            for option in options:
                assert option in COMMANDS[command], f"{page.name}: {line}"
    assert found > 20


# --- what the commands really say ------------------------------------------------------------

TINY = ("--dataset", "digits", "--preset", "smoke", "--device", "cpu")
BAD = {
    "crosscheck": [
        (*TINY, "--attack", "pgd", "--n", "0"),
        (*TINY, "--attack", "pgd", "--n", "70000"),
        (*TINY, "--attack", "pgd", "--n-train", "70000"),
        (*TINY, "--attack", "pgd", "--n-train", "0"),
        (*TINY, "--attack", "pgd", "--seed", str(2**70)),
        (*TINY, "--attack", "pgd", "--eps", "0"),
        (*TINY, "--attack", "cw", "--random-start"),
        (*TINY, "--attack", "torchattacks:APGD"),
        (*TINY, "--attack", "autoattack"),
        (*TINY, "--attack", "pgd", "--libraries", "autoattack"),
        (*TINY, "--attack", "pgd", "--defense", "autoattack"),
    ],
    "speed": [
        (*TINY, "--n", "0"),
        (*TINY, "--n", "70000"),
        (*TINY, "--n-train", "70000"),
        (*TINY, "--n-train", "0"),
        (*TINY, "--levels", "0"),
        (*TINY, "--libraries", "autoattack"),
        (*TINY, "--tasks", "nothing"),
    ],
    "dimension": [
        ("--dataset", "digits", "--n", "0"),
        ("--dataset", "digits", "--n", "70000", "--split", "train"),
        ("--dataset", "digits", "--n", "5"),
        ("--dataset", "digits", "--k1", "1"),
        ("--dataset", "no_such_folder"),
    ],
    "export": [
        ("no_such_folder", "--to", "model-index"),
        ("no_such_folder", "--to", "robust-bench"),
        ("no_such_folder", "--to", "robustbench", "--eps", "0,0.1"),
    ],
    "leaderboard": [
        ("no_such_folder",),
        ("no_such_folder", "--eps", "0"),
        ("no_such_folder", "--norm", "lp"),
        ("no_such_folder", "--sort", "best"),
    ],
    "run": [
        (*TINY, "--n-test", "0"),
        (*TINY, "--n-test", "70000"),
        (*TINY, "--n-train", "70000"),
        (*TINY, "--seeds", str(2**70)),
        (*TINY, "--libraries", "autoattack"),
        (*TINY, "--attacks", "torchattacks:APGD(eps=0.1)"),
        (*TINY, "--time-limit", "-1"),
    ],
}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    from benchmark.cli import main

    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "error: " in error
    return error[error.index("error: ") :]


@pytest.mark.parametrize(
    ("command", "words"), [(command, words) for command, tries in BAD.items() for words in tries]
)
def test_a_refusal_advises_only_what_there_is(
    command: str,
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCHMARK_DATA_DIR", raising=False)
    error = said(capsys, command, *words, "--out", str(tmp_path / "runs"))
    for option in OPTION.findall(error):
        assert option in COMMANDS[command], error


def test_an_audit_of_a_run_that_this_machine_cannot_have_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fake_runs import fake_run

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    folder = fake_run(tmp_path)
    for changes, expected in (
        ({"device": "cuda"}, "was made on device 'cuda', which this machine does not have"),
        ({"dataset": "digits", "device": "cpu", "n_test": 70_000}, "the run's --n-test must be"),
        ({"dataset": "digits", "device": "cpu", "n_train": 70_000}, "the run's --n-train must be"),
    ):
        settings = json.loads((folder / "spec.json").read_text())
        (folder / "spec.json").write_text(json.dumps(settings | changes))
        error = said(capsys, "audit", str(folder))
        assert expected in error
        assert set(OPTION.findall(error)) <= COMMANDS["audit"] | {"--n-test", "--n-train"}
        (folder / "spec.json").write_text(json.dumps(settings))


def test_fewer_training_images_may_be_asked_for_in_every_command_that_trains() -> None:
    from benchmark.crosscheck.plan import plan_crosscheck
    from benchmark.speed.plan import SpeedSettings, plan_speed

    whole = plan(dataset="digits", preset="smoke", device="cpu").n_train
    asked = {"dataset": "digits", "preset": "smoke", "device": "cpu", "libraries": ("inhouse",)}
    assert plan_crosscheck(**asked, attack="pgd", defense="madry", n_train=7).spec.n_train == 7
    fewer = plan_speed(SpeedSettings(**asked, tasks=("pgd",), defense="madry", n_train=7))
    usual = plan_speed(SpeedSettings(**asked, tasks=("pgd",), defense="madry"))
    assert (fewer.spec.n_train, usual.spec.n_train) == (7, whole)
    assert fewer.folder_name != usual.folder_name
    assert asdict(usual.settings)["n_train"] is None
