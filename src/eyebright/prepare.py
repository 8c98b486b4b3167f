"""Before the first step: what was left open is decided, and the net is made."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from eyebright.augment import MIRROR
from eyebright.batches import HALF, Normalization, measure_normalization, predict_logits
from eyebright.config import UNBALANCED, WITH_MATRIX_HARDWARE, TrainConfig, fit_to_data
from eyebright.data import Dataset
from eyebright.errors import UsageError
from eyebright.models import create_model
from eyebright.plan import CURVES
from eyebright.runtime import (
    available_cores,
    choose_precision,
    has_matrix_hardware,
    memory_format,
)

MEASURED_PIXELS = 10_000_000  # so many tell the mean and deviation of all
WHITENING_PIXELS = 2_000_000  # so many tell the statistics of patches


def is_to_be_planned(config: TrainConfig, settings: dict[str, Any]) -> bool:
    """Whether time or target decides net and length, and not the recipe or the user."""
    if config.time is not None:
        return True
    length_is_set = settings.keys() & {"epochs", "max_steps"}
    return config.target is not None and config.model in CURVES and not length_is_set


def decide(
    config: TrainConfig, settings: dict[str, Any], data: Dataset, n: int, device: torch.device
) -> TrainConfig:
    """Everything that was left open: nothing is "auto" any more.

    Args:
        config: recipe and settings.
        settings: what the user set; it is not changed.
        data: what to train on.
        n: pictures that are left to train on.
        device: where.
    """
    precision = choose_precision(config.precision, device)
    if (
        precision == "bf16"
        and has_matrix_hardware(device)
        and not is_to_be_planned(config, settings)
    ):
        suited = WITH_MATRIX_HARDWARE.get(config.recipe, {})
        config = config.replace(**{k: v for k, v in suited.items() if k not in settings})
    config = fit_to_data(config, n, data.imgsz, settings.get("batch_size"))
    if config.balance == "auto":
        counts = data.counts()
        unbalanced = counts.max() >= UNBALANCED * counts.min()
        config = config.replace(balance="logit-adjust" if unbalanced else "none")
    if config.balance != "none" and "metric" not in settings:
        config = config.replace(metric="balanced-accuracy")
    if not data.mirrors:
        names = [name for name in config.augment.split("+") if name != MIRROR]
        config = config.replace(augment="+".join(names) or "none", tta="none")
    wanted: dict[str, Any] = {
        key: settings[key] for key in ("epochs", "augment", "tta") if key in settings
    }
    if "epochs" in settings and "max_steps" not in settings:
        wanted["max_steps"] = 0
    return config.replace(
        **wanted,
        device=str(device),
        precision=precision,
        imgsz=data.imgsz,
        threads=config.threads or available_cores(),
    )


def nets_to_compare(
    model: nn.Module | str | None,
    config: TrainConfig,
    settings: dict[str, Any],
    data: Dataset,
    device: torch.device,
) -> Iterator[tuple[str, nn.Module]]:
    """The nets that a plan may choose from: one if the user named it, or the recipe has its own."""
    free = "model" not in settings and model is None and config.model in CURVES
    for name in CURVES if free else [config.model]:
        if isinstance(model, nn.Module):
            check_logits(model, data, HALF)
            net = model
        else:
            net = create_model(name, len(data.classes), data.imgsz)
        yield name, to_device(net, config, device)


def to_device(net: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    """The net on its device, its filters laid out as its pictures will be."""
    assert config.imgsz is not None, "decided before"
    layout = memory_format(config.batch_size, config.imgsz, config.precision, device)
    return net.to(device).to(memory_format=layout)


def prepare_net(
    model: nn.Module | str | None, config: TrainConfig, data: Dataset, train_set: Dataset
) -> tuple[nn.Module, Normalization]:
    """The net, ready for its first step, and the normalisation of its pictures.

    Args:
        model: the user's own net, if it is one.
        config: names the net otherwise.
        data: has the classes and the size.
        train_set: some of its pictures are measured for normalisation and whitening.

    Raises:
        UsageError: the net does not fit the data.
    """
    # By chance, because folders are sorted by class; so many that it takes no time.
    order = np.random.default_rng(config.seed).permutation(len(train_set))
    few = train_set.images[order[: max(1, MEASURED_PIXELS // data.imgsz**2)]]
    normalization = HALF if config.normalization == "half" else measure_normalization(few)
    if isinstance(model, nn.Module):
        net = model
    else:
        net = create_model(config.model, len(data.classes), data.imgsz)
    if callable(whiten := getattr(net, "whiten", None)):
        few = few[: max(1, WHITENING_PIXELS // data.imgsz**2)]
        whiten(normalization(torch.from_numpy(few)))
    check_logits(net, data, normalization)
    return net, normalization


def check_logits(net: nn.Module, data: Dataset, normalization: Normalization) -> None:
    """See that a net takes these pictures and tells as many classes apart as there are.

    Raises:
        UsageError: it gives another number of logits.
    """
    shape = tuple(predict_logits(net, data.images[:2], normalization).shape)
    if shape[1:] != (len(data.classes),):
        raise UsageError(
            f"the net gives logits of shape {shape} for two pictures; ({min(2, len(data))}, "
            f"{len(data.classes)}) is needed for {len(data.classes)} classes"
        )
