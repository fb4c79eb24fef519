"""Training: the loop that the defenses share, the cache of models, and what a model came from."""

from benchmark.models.defense import TrainingLog
from benchmark.training.loop import Measure, Step, adversarial_examples, train
from benchmark.training.settings import TrainingSettings

__all__ = [
    "Measure",
    "Step",
    "TrainingLog",
    "TrainingSettings",
    "adversarial_examples",
    "train",
]
