"""Our own packages beside a user's of the same name: ours are imported, and a line says so.

``python -m benchmark`` looks into the current folder first, the console script not at all. Here
both come to look there last, so that a plugin of that folder is found and shadows nothing.
"""

import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

import benchmark

SERVED = ("defenses", "baselines", "reports")
OWN = ("benchmark", *SERVED)


def settle() -> list[str]:
    """Prepare imports for the command line; return a sentence on each package that gives way."""
    _claim()
    try:
        here = Path.cwd()
    except OSError:  # it is gone
        return []
    if not sys.flags.safe_path and not {"", str(here)} & set(sys.path):
        sys.path.append(str(here))
    return list(_strangers(here))


def hint(module: str) -> str:
    """Return why ``module`` is not the user's own; empty unless its package has a name of ours."""
    name = module.partition(".")[0]
    return f"; {name} is defensebench's own package, rename yours" if name in OWN else ""


def _root() -> Path:
    return Path(benchmark.__file__).resolve().parent.parent


def _claim() -> None:
    """Import the packages that lie beside ours under their names, whatever comes before them.

    An editable installation is asked after the whole module path, where even a folder of pages
    called reports counts as a package. Only their ``__init__`` runs, which imports nothing.
    """
    for name in SERVED:
        spec = None if name in sys.modules else PathFinder.find_spec(name, [str(_root())])
        if spec is None or spec.loader is None:
            continue
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def _strangers(here: Path) -> Iterator[str]:
    """Yield a sentence on each package or module of the folder that has a name of ours."""
    if here.resolve() == _root():
        return
    for name in OWN:
        for stranger in (here / name / "__init__.py", here / f"{name}.py"):
            if stranger.is_file():
                shown = stranger.relative_to(here).as_posix().removesuffix("__init__.py")
                yield (
                    f"{shown} in this folder is not used: defensebench has a package {name} of its"
                    " own, which goes first; rename yours if a plugin needs it"
                )
