"""Before the first step: the pictures are read, and the net is made."""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eyebright.batches import HALF, Normalization, measure_normalization, predict_logits
from eyebright.choices import begin, check_tuning, has_weights, side_of_large
from eyebright.config import TrainConfig
from eyebright.data import Dataset, load
from eyebright.data.decisions import read
from eyebright.data.labels import apply
from eyebright.data.reading import LARGE
from eyebright.errors import UsageError
from eyebright.models import create_model, head_of
from eyebright.plan import CURVES
from eyebright.pretrained import Weights, put_weights
from eyebright.runtime import choose_device, memory_format

HEADS_SHARE = 1 / 3  # of a net's layers, counted from its end, that ``--tune last`` trains
MEASURED_PIXELS = 10_000_000  # so many tell the mean and deviation of all
WHITENING_PIXELS = 2_000_000  # so many tell the statistics of patches


def nets_to_compare(
    model: nn.Module | str | None,
    config: TrainConfig,
    settings: dict[str, Any],
    data: Dataset,
    device: torch.device,
) -> Iterator[tuple[str, nn.Module]]:
    """The nets that a plan may choose from: one if the user named it, or the recipe has its own."""
    named = "model" in settings or model is not None or has_weights(config)
    free = not named and config.model in CURVES
    for name in CURVES if free else [config.model]:
        net = choose_net(model, name, data)
        if net is model:
            check_logits(net, data, HALF)
        yield name, to_device(net, config, device)


def choose_net(model: nn.Module | str | None, name: str, data: Dataset) -> nn.Module:
    """The user's own net, if ``model`` is one; else a new one of this name for these pictures."""
    if isinstance(model, nn.Module):
        return model
    return create_model(name, len(data.classes), data.imgsz)


def to_device(net: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    """The net on its device, its filters laid out as its pictures will be."""
    assert config.imgsz is not None, "decided before"
    layout = memory_format(config.batch_size, config.imgsz, config.precision, device)
    return net.to(device).to(memory_format=layout)


def read_data(
    data: Dataset | str | os.PathLike[str],
    recipe: str | None,
    settings: dict[str, Any],
    skip_bad: bool,
    workers: int | None,
    labels: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> tuple[Dataset, TrainConfig]:
    """The pictures at the size that the recipe wants, and the configuration to begin with.

    Args:
        data: a `Dataset`, or what `load` takes.
        recipe: its name; None: what suits the pictures.
        settings: the user's.
        skip_bad: go on without pictures that cannot be read.
        workers: threads that decode pictures.
        labels: a table of decisions to apply (`eyebright.data.decisions`).
        root: the folder that a table's paths are relative to; None: the table's own.

    Raises:
        UsageError: as in `begin` and `check_tuning`, or ``root`` for what is no table.
        DataError: as in `load`.
    """
    decisions = None if labels is None else read(labels)
    if not isinstance(data, Dataset):
        if_large = begin(recipe, settings, settings.get("imgsz") or LARGE)
        large = partial(side_of_large, if_large)  # it loads timm, which small pictures do without
        data = load(
            data, imgsz=if_large.imgsz, large=large, workers=workers, root=root,
            skip_bad=skip_bad or (False if decisions is None else decisions.dropped),
        )  # fmt: skip
    elif root is not None:
        raise UsageError("--root is for tables; these data are read already")
    if decisions is not None:
        data = apply(data, decisions)
    config = begin(recipe, settings, data.imgsz)
    check_tuning(config, settings)
    return data.resized(config.imgsz or data.imgsz), config


def prepare_net(
    model: nn.Module | str | None,
    config: TrainConfig,
    data: Dataset,
    train_set: Dataset,
    weights: Weights | None = None,
) -> tuple[nn.Module, Normalization]:
    """The net, on its device and ready for its first step, and the normalisation of its pictures.

    Args:
        model: the user's own net, if it is one.
        config: names the net otherwise, and the device.
        data: has the classes and the size.
        train_set: some of its pictures are measured for normalisation and whitening.
        weights: what the net begins with; None: chance.

    Raises:
        UsageError: the net does not fit the data.
        ModelError: the weights do not fit the net.
    """
    # By chance, because folders are sorted by class; so many that it takes no time.
    order = np.random.default_rng(config.seed).permutation(len(train_set))
    few = train_set.pixels[order[: max(1, MEASURED_PIXELS // data.imgsz**2)]]
    device = choose_device(config.device)
    images = torch.from_numpy(few).to(device)
    net = to_device(choose_net(model, config.model, data), config, device)
    normalization = choose_normalization(net, config, images)
    if weights is not None:
        put_weights(net, weights, data.classes)
        normalization = weights.normalization or normalization
    elif callable(whiten := getattr(net, "whiten", None)):
        whiten(normalization(images[: max(1, WHITENING_PIXELS // data.imgsz**2)]))
    if config.probe:
        freeze(net, config.tune)
    check_logits(net, data, normalization)
    return net, normalization


def choose_normalization(net: nn.Module, config: TrainConfig, images: Tensor) -> Normalization:
    """What the configuration asks for; that of the data where a net knows none of its own."""
    if config.normalization == "half":
        return HALF
    known = getattr(net, "pretrained_cfg", None)
    if config.normalization == "pretrained" and known is not None:
        return Normalization(tuple(known["mean"]), tuple(known["std"]))
    return measure_normalization(images)


def freeze(net: nn.Module, tune: str) -> None:
    """Leave out of training what is not to be tuned, and every batch norm.

    A batch of a few pictures says too little of the statistics that were found on millions.
    """
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(False)
    if tune == "last":
        parameters = [p for p in net.parameters() if p.requires_grad]
        for parameter in parameters[: int(len(parameters) * (1 - HEADS_SHARE))]:
            parameter.requires_grad_(False)
        head_of(net).requires_grad_(True)


def check_logits(net: nn.Module, data: Dataset, normalization: Normalization) -> None:
    """See that a net takes these pictures and tells as many classes apart as there are.

    Raises:
        UsageError: it gives another number of logits.
    """
    shape = tuple(predict_logits(net, data.pixels[:2], normalization).shape)
    if shape[1:] != (len(data.classes),):
        raise UsageError(
            f"the net gives logits of shape {shape} for two pictures; ({min(2, len(data))}, "
            f"{len(data.classes)}) is needed for {len(data.classes)} classes"
        )
