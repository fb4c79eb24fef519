"""``timm:NAME``: a model of timm, whose weights timm downloads itself (``pretrained=true``)."""

from collections.abc import Mapping
from typing import Any

from benchmark.errors import unknown_name
from benchmark.given.model_sources.arguments import called
from benchmark.given.model_sources.loaded import LoadedModel, library


def load(name: str, args: Mapping[str, Any]) -> LoadedModel:
    """Return the model with the mean, std and size of its configuration."""
    timm = library("timm")
    if not timm.is_model(name.partition(".")[0]):
        raise unknown_name("timm model", name, timm.list_models())
    model = called(timm.create_model, {"model_name": name, **args}, f"timm:{name}")
    about = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", {})
    size = about.get("input_size")
    return LoadedModel(
        model,
        name,
        tuple(about.get("mean", ())),
        tuple(about.get("std", ())),
        (size[1], size[2]) if size else None,
        () if args.get("pretrained") else (f"timm:{name} has random weights: pretrained=true",),
    )
