"""What `eyebright tune` searches: for each recipe its settings, and how far each may go."""

from dataclasses import dataclass
from typing import Any

from eyebright.augment import MIRROR
from eyebright.config import RANGES, TrainConfig
from eyebright.errors import UsageError


@dataclass(frozen=True)
class Around:
    """A rate: up to so many times more or less than the recipe's, evenly on a logarithmic scale."""

    factor: float


@dataclass(frozen=True)
class Between:
    """A number from a range, which is widened where the recipe's lies outside."""

    low: float
    high: float


@dataclass(frozen=True)
class Halves:
    """A whole number: the recipe's, half of it or twice as many."""


@dataclass(frozen=True)
class OneOf:
    """One of these, or the recipe's."""

    choices: tuple[str, ...]


Range = Around | Between | Halves | OneOf

SMALL_PICTURES: dict[str, Range] = {
    "lr": Around(4),
    "rest_lr": Around(4),
    "label_smoothing": Between(0, 0.4),
    "batch_size": Halves(),
    "augment": OneOf(
        ("none", "mirror", "mirror+shift", "mirror+shift8", "mirror+shift+cutout", "mirror+crop")
    ),
}
# recipe -> setting -> range. Another setting to search is another line here.
SPACE: dict[str, dict[str, Range]] = {
    "tutorial": {
        "lr": Around(10),
        "momentum": Between(0, 0.99),
        "label_smoothing": Between(0, 0.4),
        "augment": OneOf(("none", "mirror", "mirror+shift")),
    },
    "quick": SMALL_PICTURES,
    "fast": SMALL_PICTURES,
    "best": SMALL_PICTURES,
    "finetune": {
        "tune": OneOf(("none", "last", "all")),  # first: without it there is nothing else to set
        "lr": Around(10),
        "label_smoothing": Between(0, 0.3),
        "augment": OneOf(("none", "mirror", "mirror+shift", "mirror+crop")),
    },
}


def space_of(config: TrainConfig, fixed: set[str]) -> dict[str, Range]:
    """The settings to search for a recipe.

    Args:
        config: its settings.
        fixed: settings that the user chose, which are left as they are.

    Raises:
        UsageError: nothing is left to search.
    """
    space = {name: kind for name, kind in SPACE[config.recipe].items() if name not in fixed}
    if not config.probe:  # what is trained from nothing is trained whole
        space.pop("tune", None)
    elif config.tune == "none" and "tune" in fixed:
        space = {}
    if not space:
        raise UsageError(f"nothing is left to search: {', '.join(SPACE[config.recipe])} are set")
    return space


def own_settings(config: TrainConfig, space: dict[str, Range]) -> dict[str, Any]:
    """What the recipe itself has of the settings that are searched: trial 0."""
    if is_probe_alone(config, {}):
        return {"tune": "none"}
    return {name: getattr(config, name) for name in space}


def is_probe_alone(config: TrainConfig, settings: dict[str, Any]) -> bool:
    """Whether a linear probe is all that is trained: nothing else has a meaning then."""
    return config.probe and settings.get("tune", config.tune) == "none"


def suggest(
    trial: Any, config: TrainConfig, space: dict[str, Range], n: int, mirrors: bool
) -> dict[str, Any]:
    """The settings of a trial, drawn by its sampler.

    Args:
        trial: of Optuna.
        config: the recipe's settings.
        space: what to search.
        n: pictures to train on; no batch is larger.
        mirrors: whether a picture means the same with left and right swapped.
    """
    chosen: dict[str, Any] = {}
    for name, kind in space.items():
        own = getattr(config, name)
        least, most = RANGES.get(name, (0.0, 1.0))
        match kind:
            case Around(factor):
                low, high = max(least, own / factor), min(most, own * factor)
                chosen[name] = trial.suggest_float(name, low, high, log=True)
            case Between(low, high):
                chosen[name] = trial.suggest_float(name, min(low, own), max(high, own))
            case Halves():
                sizes = sorted({own, max(1, own // 2), min(n, 2 * own)})
                chosen[name] = trial.suggest_categorical(name, sizes)
            case OneOf(choices):
                if name == "augment" and not mirrors:
                    choices = tuple(map(without_mirror, choices))
                every = list(dict.fromkeys([*choices, own]))
                chosen[name] = trial.suggest_categorical(name, every)
        if is_probe_alone(config, chosen):
            break
    return chosen


def without_mirror(augment: str) -> str:
    """An augmentation for pictures that mean something else when mirrored."""
    return "+".join(name for name in augment.split("+") if name != MIRROR) or "none"
