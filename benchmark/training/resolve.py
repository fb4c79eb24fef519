"""A defense's options, from a preset's settings."""

import inspect
from collections.abc import Mapping
from typing import Any

from benchmark.config.spec import DefenseSpec
from benchmark.errors import UsageError, unknown_name
from benchmark.models.loader import load_defense
from benchmark.plugins.names import seed_name
from benchmark.registry import DEFENSES
from benchmark.training.settings import TrainingSettings


def resolve_defense(settings: Mapping[str, Any], name: str) -> DefenseSpec:
    """Resolve a defense's options: the preset's shared ones where it takes them, then its own.

    UsageError names an option that the defense lacks. A defense that cannot be imported is resolved
    without options.
    """
    DEFENSES.check(name)
    try:
        cls = load_defense(name)
        accepted = set(inspect.signature(cls).parameters) - {"info"}
    except UsageError:
        raise
    except Exception:
        # A plugin that cannot be imported is that plugin's failure, not the run's: the runner
        # meets the same exception and keeps it as the reason of the defense's cells.
        return DefenseSpec(name)
    own = dict(settings.get("defenses", {}).get(name, {}))
    unknown = [key for key in own if key not in accepted]
    if unknown:
        raise unknown_name(f"option of defense {name}", unknown[0], accepted)
    shared = settings.get("defense_options", {})
    params = {key: value for key, value in shared.items() if key in accepted} | own
    if "training" in accepted:
        params["training"] = settings.get("training", {}) | own.get("training", {})
        TrainingSettings.build(params["training"])
    return DefenseSpec(name, params, seeded_as=seed_name(cls, name, name))
