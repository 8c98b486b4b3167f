"""eyebright trains image classifiers that see clearly and say how sure they are.

import eyebright

data = eyebright.load("cifar10")
run = eyebright.train(data, recipe="fast", seed=0)
run.test()
eyebright.Classifier.load(run.path).predict(["cat.jpg"])
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eyebright.classifier import Classifier
    from eyebright.config import TrainConfig
    from eyebright.conversion import convert
    from eyebright.data import Dataset, load
    from eyebright.errors import EyebrightError
    from eyebright.evaluation import evaluate
    from eyebright.launch import train
    from eyebright.models import create_model
    from eyebright.recipes import RECIPES
    from eyebright.run import Run

__version__ = version("eyebright")
__all__ = [
    "RECIPES",
    "Classifier",
    "Dataset",
    "EyebrightError",
    "Run",
    "TrainConfig",
    "convert",
    "create_model",
    "evaluate",
    "load",
    "train",
]

_HOME = {
    "RECIPES": "recipes",
    "Classifier": "classifier",
    "Dataset": "data",
    "EyebrightError": "errors",
    "Run": "run",
    "TrainConfig": "config",
    "convert": "conversion",
    "create_model": "models",
    "evaluate": "evaluation",
    "load": "data",
    "train": "launch",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for, so that the command line answers --help without torch.
    if name not in _HOME:
        raise AttributeError(f"module 'eyebright' has no attribute '{name}'")
    return getattr(import_module(f"eyebright.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
