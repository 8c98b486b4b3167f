"""`TrainConfig`, the only configuration there is."""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from eyebright.console import as_share, nearest
from eyebright.errors import UsageError

BATCH_PIXELS = 4_000_000  # of all pictures of a batch together: a few GB while training

UNBALANCED = 5.0  # pictures of the largest class over those of the smallest

TINY, HUGE = 1e-12, 1e38

# setting -> lowest and highest value
RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "min_steps": (0, 1e9),
    "max_steps": (0, 1e12),
    "time": (TINY, 1e9),
    "target": (TINY, 1),
    "batch_size": (1, 1e9),
    "lr": (TINY, HUGE),
    "rest_lr": (TINY, HUGE),
    "momentum": (0, 0.9999),
    "label_smoothing": (0, 0.9999),
    "imgsz": (4, 4096),
    "val": (0, 0.9),
    "folds": (0, 1e9),
    "fold": (1, 1e9),
    "log_every": (0, 1e9),
    "threads": (0, 1024),
    "seed": (0, 2**32 - 1),
}
SHARES = ("target", "val")
TAKES: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false",
    float | None: "a number", int | None: "a whole number", str | None: "text",
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a training run. What stands here is what ``config.json`` holds.

    Settings that are "auto" or None are decided when the run starts, from the data and the
    machine, and the run folder then holds what was decided.
    """

    recipe: str = "fast"
    model: str = "wide32"
    epochs: int = 4
    min_steps: int = 300
    """Where the pictures are few, epochs are added until there are so many steps."""
    max_steps: int = 0
    """Stop after so many mini-batches, wherever in an epoch that is; 0: whole epochs."""
    time: float | None = None
    """Seconds that the whole command may take; it decides net and length (`eyebright.plan`)."""
    target: float | None = None
    """Stop at the end of the epoch that reaches this figure on the pictures held out."""
    batch_size: int = 500
    drop_last: bool = True
    """Leave out an epoch's last batch if it is smaller than the others."""
    optimizer: Literal["sgd", "muon", "adamw"] = "muon"
    lr: float = 0.12
    """Learning rate of the filters with Muon; of everything with SGD; of the last layer with AdamW,
    which moves every layer before it more slowly (`eyebright.optim`)."""
    momentum: float = 0.6
    rest: Literal["adam", "sgd"] = "adam"
    """With Muon: what moves biases and the last layer. SGD is better where there are many pictures
    and its rates fit the net, Adam everywhere else (`eyebright.optim`)."""
    rest_lr: float = 0.01
    """Learning rate of biases and the last layer; with SGD for each picture of a batch."""
    schedule: Literal["constant", "linear"] = "linear"
    """``linear`` goes down to zero at the last step."""
    label_smoothing: float = 0.2
    balance: Literal[
        "auto", "none", "weights", "sampler", "effective-number", "focal", "logit-adjust"
    ] = "auto"
    """What is done about classes of different size (`eyebright.losses`, `order.balanced_order`);
    ``auto``: ``logit-adjust`` where the largest class has `UNBALANCED` times as many pictures as
    the smallest or more, otherwise nothing."""
    augment: str = "mirror+shift"
    normalization: Literal["data", "half", "pretrained"] = "data"
    """``data``: mean and deviation of the training pictures; ``half``: to [-1, 1]; ``pretrained``:
    what the backbone was trained with."""
    weights: str = "none"
    """The net begins with: ``none``, weights by chance; ``auto``, pretrained ones that are to be
    had (`eyebright.pretrained`); or a file of them."""
    init: str | None = None
    """Begin with the weights of this run; its last layer too, where the classes are the same."""
    probe: bool = False
    """First fit the last layer to the net's features of all pictures (`eyebright.probe`)."""
    tune: Literal["none", "last", "all"] = "all"
    """What is trained then: nothing, the last third of the layers, or all of them."""
    tta: Literal["none", "mirror"] = "none"
    """Test-time averaging: ``mirror`` predicts each picture and its mirror image. The model keeps
    it: whatever is measured or predicted later includes it."""
    imgsz: int | None = None
    """Side of the square pictures that the net sees, in pixels; None: from the data."""
    val: float = 0.1
    """Share of the training pictures held out, where the data have no validation part."""
    group: str | None = None
    """Column of a table: pictures with the same value there are never in both parts."""
    folds: int = 0
    """Hold out one of so many equal parts instead of the share ``val``; 0: no folds."""
    fold: int = 1
    """Which of the folds is held out, counted from 1."""
    metric: Literal["accuracy", "balanced-accuracy"] = "accuracy"
    """What decides which epoch is the best one, on the pictures held out."""
    log_every: int = 0
    """Print the running loss every so many mini-batches, as the lesson does; 0: a progress bar."""
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 0
    """Processor threads; 0: as many as there are cores."""
    deterministic: bool = False
    """On a GPU, only kernels that always give the same last digits; a processor has no others."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            UsageError: a value of the wrong type or outside its range.
        """
        for name, kind in get_type_hints(TrainConfig).items():
            value = getattr(self, name)
            if get_origin(kind) is Literal:
                if value not in (choices := get_args(kind)):
                    raise UsageError(
                        f"{flag(name)} cannot be {value!r}{nearest(str(value), choices)}; choose "
                        f"one of: {', '.join(choices)}"
                    )
                continue
            if kind in (float, float | None) and type(value) is int and abs(value) < 2**53:
                object.__setattr__(self, name, float(value))
            elif not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                takes = TAKES.get(kind, kind)
                raise UsageError(f"{flag(name)} cannot be {value!r}; it takes {takes}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                meant = as_share(value) if name in SHARES else ""
                raise UsageError(f"{flag(name)} must be {_bounds(name)}, not {value:.12g}{meant}")

    def replace(self, **settings: Any) -> "TrainConfig":
        """A copy with some settings changed; a setting of None leaves it as it is.

        Raises:
            UsageError: an unknown setting, or an impossible value.
        """
        unknown = settings.keys() - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise UsageError(f"there is no setting called {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, **{k: v for k, v in settings.items() if v is not None})

    def to_json(self) -> str:
        """The settings as JSON text; `from_json` gives the same configuration back."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TrainConfig":
        """The configuration that `to_json` wrote.

        Raises:
            UsageError: not JSON, not an object, or with unknown or impossible settings.
        """
        try:
            settings = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not a configuration: {error}") from None
        if not isinstance(settings, dict):
            raise UsageError("not a configuration: a JSON object is needed")
        return dataclasses.replace(cls().replace(**settings), **settings)


def fit_to_data(
    config: TrainConfig, n: int, imgsz: int, batch_size: int | None = None
) -> TrainConfig:
    """Batches and epochs for few or large pictures: recipes are made for many small ones.

    A batch is at most a twentieth of the pictures and `BATCH_PIXELS` in all; there are epochs
    enough for ``min_steps`` steps.

    Args:
        config: a recipe's settings.
        n: training pictures.
        imgsz: their side, in pixels.
        batch_size: the user's own, which is kept where there are so many pictures.
    """
    most = n if batch_size else min(n, max(n // 20, 16), max(BATCH_PIXELS // imgsz**2, 16))
    size = min(batch_size or config.batch_size, most)
    epochs = max(config.epochs, math.ceil(config.min_steps / max(1, n // size)))
    return config.replace(batch_size=size, epochs=epochs)


def parse_time(text: str) -> float:
    """Seconds of a time such as ``90s``, ``3m``, ``2h`` or ``1h30m``.

    Raises:
        UsageError: it is none, or zero.
    """
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip().lower())
    parts = [float(part or 0) for part in match.groups()] if match and text.strip() else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise UsageError(f"--time cannot be '{text}'; say 90s, 3m, 2h or 1h30m")
    return seconds


def _bounds(name: str) -> str:
    """What a setting must be, in words."""
    low, high = RANGES[name]
    if name in SHARES:
        return f"a share from 0 to {high:g}"
    if high == HUGE:
        return "more than 0"
    return f"from {0 if low == TINY else low:g} to {high:g}"


def flag(name: str) -> str:
    """The command line's name of a setting: ``batch_size`` is ``--batch-size``."""
    return "--" + name.replace("_", "-")
