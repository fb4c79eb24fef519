"""``package.module:factory``, ``path/to/file.py:factory``: a model that the user's code makes."""

import importlib
import sys
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from benchmark.errors import UsageError, first_line, unknown_name
from benchmark.given.model_sources.arguments import called
from benchmark.given.model_sources.loaded import LoadedModel
from benchmark.own_packages import hint


def load(text: str, args: Mapping[str, Any]) -> LoadedModel:
    """Return what the factory makes: a function or class is called, anything else taken as it is.

    A module-level ``MEAN``, ``STD`` or ``SIZE`` beside the factory says how the model takes images.
    """
    where, _, name = text.rpartition(":")
    module = _from_file(Path(where)) if where.endswith(".py") else _from_package(where)
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise unknown_name(f"factory in {where}", name, known)
    found = getattr(module, name)
    if not isinstance(found, nn.Module) and callable(found):
        found = called(found, args, text)
    elif args:
        raise UsageError(f"--model-args: {text} is a model already, not a function that makes one")
    return LoadedModel(
        found,
        name,
        mean=tuple(getattr(module, "MEAN", ())),
        std=tuple(getattr(module, "STD", ())),
        size=getattr(module, "SIZE", None),
    )


def _from_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"--model {name}: {error}{hint(name)}") from None
    except Exception as error:
        raise UsageError(f"--model {name}: importing it failed: {first_line(error)}") from None


def _from_file(path: Path) -> ModuleType:
    """Execute a file as a module; what lies beside it can be imported meanwhile."""
    path = path.expanduser()
    if not path.is_file():
        raise UsageError(f"--model: there is no file {path}")
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--model: {path} is not a Python file")
    module = module_from_spec(spec)
    beside = str(path.resolve().parent)
    sys.path.insert(0, beside)
    # Dataclasses and the like look their module up by name.
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"--model: {path}, line {error.lineno}: {error.msg}") from None
    except Exception as error:
        raise UsageError(f"--model: {path} failed: {first_line(error)}") from None
    finally:
        sys.path.remove(beside)
        if before is not None:
            sys.modules[path.stem] = before
    return module
