"""Imports go one way, and what must start at once does."""

import ast
import configparser
import os
import re
import subprocess
import sys
import sysconfig
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from markdown_pages import PAGES, section
from paths import ROOT

PACKAGES = ("benchmark", "defenses", "baselines", "reports")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = Path(sysconfig.get_path("scripts"))

PATIENCE = 600
"""Seconds after which a command counts as hanging."""

CONTRACTS = 5
"""Of setup.cfg's [importlinter]."""


def run(*command: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        **options,
    )


def python(code: str) -> str:
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- import directions -----------------------------------------------------------------------


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return run(
        SCRIPTS / "lint-imports",
        "--config",
        folder / "setup.cfg",
        "--no-cache",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The four packages and their contracts in a folder where a violation can be planted."""
    for path in (*MODULES, ROOT / "setup.cfg"):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text("utf-8"), "utf-8")
    return tmp_path


def test_imports_go_one_way() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{CONTRACTS} kept, 0 broken" in done.stdout


def test_the_copy_itself_is_clean(copy: Path) -> None:
    assert lint_imports(copy).returncode == 0


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("benchmark/evaluation/sweep.py", "import defenses.e_cla"),
        ("benchmark/registry.py", "from baselines import undefended"),
        ("benchmark/execution/runner.py", "import reports.html"),
        ("defenses/networks.py", "import baselines.networks"),
        ("baselines/madry.py", "from defenses.e_cla import EncoderClassifier"),
        ("reports/tables/grid.py", "import torch"),
        ("reports/figures/curves.py", "from benchmark import datasets"),
        ("reports/html.py", "import defenses"),
        # Upward, also for a type alone, between two rooms; and between two that stand side by side.
        ("benchmark/config/spec.py", "from benchmark.execution.plan import plan"),
        ("benchmark/attacks/pgd.py", "import benchmark.evaluation.sweep"),
        (
            "benchmark/models/defense.py",
            "if TYPE_CHECKING:\n    from benchmark.training import TrainingSettings",
        ),
        ("benchmark/speed/plan.py", "import benchmark.crosscheck.plan"),
        ("reports/tables/grid.py", "import reports.sections.cost"),
    ],
)
def test_a_wrong_import_is_caught(copy: Path, module: str, planted: str) -> None:
    path = copy / module
    path.write_text(path.read_text("utf-8") + f"\n{planted}\n", "utf-8")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"\b[1-9] broken", done.stdout), done.stdout


def test_only_commands_and_an_evaluation_reach_the_reports_and_only_inside_a_function() -> None:
    found = []
    for path in MODULES:
        if path.relative_to(ROOT).parts[0] != "benchmark":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        lazy = (ast.FunctionDef, ast.ClassDef)
        at_import = [n for node in tree.body if not isinstance(node, lazy) for n in imported(node)]
        assert "reports" not in at_import, path
        found += [path.parent.name] if "reports" in imported(tree) else []
    assert set(found) == {"cli", "given"}


def imported(tree: ast.AST) -> list[str]:
    """Return the top-level packages that ``tree`` imports, in functions too."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return [name.partition(".")[0] for name in names]


# --- what importing costs --------------------------------------------------------------------

HEAVY = (
    *("torch", "torchvision", "pandas", "pyarrow", "sklearn", "scipy", "matplotlib", "seaborn"),
    *("numpy", "statsmodels", "ot", "art", "torchattacks", "PIL", "plotly", "jinja2"),
)


@pytest.mark.parametrize("module", ["benchmark", "benchmark.cli", "benchmark.config.spec"])
def test_import_pulls_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*[n for n in {HEAVY} if n in sys.modules])"
    assert python(code) == ""


def test_reports_never_load_torch() -> None:
    assert python("import sys, reports.html; print('torch' in sys.modules)") == "False"


def test_public_api_is_there_when_asked_for() -> None:
    code = "import benchmark; print([n for n in benchmark.__all__ if not getattr(benchmark, n)])"
    assert python(code) == "[]"


def test_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    import benchmark

    with pytest.raises(AttributeError, match="no attribute 'Defence'"):
        _ = benchmark.Defence


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_help_answers_at_once(words: list[str]) -> None:
    # What it would wait for is imports: seconds would measure the machine as well.
    code = f"""
import sys
from benchmark.cli import main
try:
    main({words})
except SystemExit as end:
    assert not end.code, end.code
print(*[name for name in {HEAVY} if name in sys.modules], sep=", ")
"""
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 1
    assert done.stdout.splitlines()[-1] == ""


def test_console_script_is_the_module() -> None:
    script = run(SCRIPTS / "defensebench", "--version")
    module = run(sys.executable, "-m", "benchmark", "--version", cwd=ROOT)
    assert script.returncode == module.returncode == 0
    assert script.stdout == module.stdout
    assert script.stdout.startswith("defensebench ")


# --- habits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_has_a_docstring_and_keeps_clear_of_pickle(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), "a module says what it is for"
    assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve"} & set(imported(tree))
    # torch.load and torch.save pickle, and so does np.load where it is allowed to.
    called = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not {"torch.save", "pd.read_pickle"} & called
    if path.relative_to(ROOT) != READS_TENSORS:
        assert not {"torch.load", "np.load"} & called
        assert "allow_pickle" not in path.read_text("utf-8")


READS_TENSORS = Path("benchmark/datasets/tensor_files.py")


def test_the_one_place_that_reads_tensors_loads_nothing_else() -> None:
    tree = ast.parse((ROOT / READS_TENSORS).read_text("utf-8"))
    calls = {
        ast.unparse(node.func): {word.arg: ast.unparse(word.value) for word in node.keywords}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    assert calls["torch.load"]["weights_only"] == "True"
    assert calls["np.load"]["allow_pickle"] == "False"


ROOMS = (
    *("io", "plugins", "config", "datasets", "models", "attacks", "attacks/peers", "results"),
    *("training", "evaluation", "audit", "audit/checks", "execution", "crosscheck", "speed"),
    *("dimension", "testing", "cli"),
)


def test_layout_is_complete() -> None:
    names = {str(path.relative_to(ROOT)) for path in MODULES}
    expected = {f"{package}/__init__.py" for package in PACKAGES} | {
        f"benchmark/{name}/__init__.py" for name in ROOMS
    }
    assert expected <= names


# --- what the documentation says of it -------------------------------------------------------

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def table(markdown: str, first: str) -> list[list[str]]:
    """Return the cells of the table whose head begins with ``first``, without the head."""
    lines = markdown.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize(
    ("package", "contract"), [("benchmark", "rooms"), ("reports", "report-rooms")]
)
def test_the_page_has_every_room_in_order(package: str, contract: str) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    layers = config[f"importlinter:contract:{contract}"]["layers"].split("\n")
    rooms = [[name.strip() for name in layer.split("|")] for layer in layers if layer.strip()]
    rows = table(ARCHITECTURE, f"room of {package}")
    assert [code(room) for room, _, _ in rows] == rooms
    assert [code(below) for _, _, below in rows] == [*rooms[1:], []]


def test_the_way_of_an_image_names_what_is_there() -> None:
    way = section(ARCHITECTURE, "## The way of one image")
    rows = table(way, "file")
    (count,) = re.findall(r"These are (\d+) files", way)
    files = [code(file)[0] for file, _, _ in rows]
    assert len(files) == len(set(files)) == int(count)
    assert 12 <= len(files) <= 15
    for file, (_, functions, _) in zip(files, rows, strict=True):
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert set(code(functions)) <= defined, file


FILE = re.compile(r"(?<![\w/.-])(?:benchmark|defenses|baselines|reports|tests|docs)/[\w/.*-]*\w/?")
DOTTED = re.compile(
    r"(?<![\w./-])(?<!--set )(?:benchmark|defenses|baselines|reports)(?!\.py\b)"
    r"(?:[.:][A-Za-z_]\w*)+"
)
"""A module or what is in it; the path of a setting after ``--set`` is neither."""
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
MADE = ("docs/checks/dark-images.md", "reports/sections/image_counts.py")
"""Files that an example of docs/architecture.md makes."""


def is_there(name: str) -> bool:
    """Tell whether ``package.module.attribute`` or ``package.module:Object`` exists."""
    parts = re.split("[.:]", name)
    module = parts.pop(0)
    while parts and find_spec(f"{module}.{parts[0]}"):
        module = f"{module}.{parts.pop(0)}"
        if not find_spec(module).submodule_search_locations:
            break
    found = import_module(module)
    for part in parts:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def leads_somewhere(page: Path, file: str, heading: str) -> bool:
    target = page.parent / file if file else page
    if not heading or not target.exists():
        return target.exists()
    titles = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
    return heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    files = {name for name in FILE.findall(text) if not any(ROOT.glob(name))} - {*MADE}
    assert not files, f"no such file: {sorted(files)}"
    dotted = {name for name in DOTTED.findall(text) if not is_there(name)}
    assert not dotted, f"no such module or name: {sorted(dotted)}"
    links = {"#".join(link) for link in LINK.findall(text) if not leads_somewhere(page, *link)}
    assert not links, f"no such page or heading: {sorted(links)}"
