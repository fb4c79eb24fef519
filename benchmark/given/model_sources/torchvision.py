"""``torchvision:NAME``: a model of torchvision.models, whose weights it downloads itself."""

from collections.abc import Mapping
from typing import Any

from benchmark.errors import UsageError, first_line, unknown_name
from benchmark.given.model_sources.arguments import called
from benchmark.given.model_sources.loaded import LoadedModel, library


def load(name: str, args: Mapping[str, Any]) -> LoadedModel:
    """Return the model; with ``weights=DEFAULT`` or a name, the mean, std and size they need."""
    models = library("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision model", name, known)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size = None
    own = dict(args)
    if own.get("weights"):
        try:
            own["weights"] = models.get_model_weights(name)[str(own["weights"])]
        except KeyError:
            names = [*models.get_model_weights(name).__members__]
            raise unknown_name(f"weights of {name}", str(own["weights"]), names) from None
        # The transforms also resize; of them only what a network needs of its input is taken.
        transforms = own["weights"].transforms()
        mean, std = tuple(transforms.mean), tuple(transforms.std)
        size = (transforms.crop_size[0],) * 2
    make = models.get_model_builder(name)
    try:
        model = called(make, own, f"torchvision:{name}")
    except UsageError:
        raise
    except Exception as error:  # whatever the download raises
        raise UsageError(f"torchvision:{name}: {first_line(error)}") from None
    notes = () if own.get("weights") else (f"torchvision:{name} has random weights: add --weights",)
    return LoadedModel(model, name, mean, std, size, notes)
