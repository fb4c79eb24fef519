"""``hf:FOLDER``: an image classifier of transformers from a folder; nothing in it is executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError, first_line
from benchmark.given.model_sources.loaded import LoadedModel, library
from benchmark.io.json_files import read_json

PREPROCESSOR = "preprocessor_config.json"


def load(folder: str, args: Mapping[str, Any]) -> LoadedModel:
    """Return the model, from safetensors only, with what its preprocessor's file says."""
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise UsageError(f"hf:{folder}: no config.json there; name a folder that a model lies in")
    transformers = library("transformers")
    try:
        model = transformers.AutoModelForImageClassification.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, use_safetensors=True, **args
        )
    except Exception as error:
        raise UsageError(f"hf:{folder}: {first_line(error)}") from None
    about = _preprocessor(path / PREPROCESSOR)
    size: Any = about.get("crop_size") or about.get("size")
    if isinstance(size, Mapping):
        side = size.get("shortest_edge")
        size = (side, side) if side else (size.get("height"), size.get("width"))
    elif isinstance(size, int):
        size = (size, size)
    normalises = about.get("do_normalize", True)
    return LoadedModel(
        model,
        path.resolve().name,
        tuple(about.get("image_mean") or ()) if normalises else (),
        tuple(about.get("image_std") or ()) if normalises else (),
        size,
    )


def _preprocessor(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {"do_normalize": False}
    try:
        found = read_json(path, any_number=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({first_line(error)})") from None
    return found if isinstance(found, Mapping) else {}
