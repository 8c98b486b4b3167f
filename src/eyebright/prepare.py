"""Before the first step: what was left open is decided, and the net is made."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eyebright.augment import MIRROR
from eyebright.batches import HALF, Normalization, measure_normalization, predict_logits
from eyebright.checkpoint import load_card
from eyebright.config import (
    OF_THE_NET,
    RECIPES,
    UNBALANCED,
    WITH_GPU,
    WITH_MATRIX_HARDWARE,
    WITH_PAIRS,
    TrainConfig,
    fit_to_data,
    recipe_config,
)
from eyebright.convolution import winograd_pays
from eyebright.data import Dataset, load
from eyebright.data.decisions import read
from eyebright.data.labels import apply
from eyebright.data.reading import LARGE, SMALL
from eyebright.errors import UsageError
from eyebright.machine import available_cores
from eyebright.models import MODELS, check_name, create_model, head_of, is_backbone
from eyebright.plan import CURVES
from eyebright.pretrained import Weights, put_weights
from eyebright.runtime import choose_device, choose_precision, has_matrix_hardware, memory_format

HEADS_SHARE = 1 / 3  # of a net's layers, counted from its end, that ``--tune last`` trains
LARGE_FOR_BACKBONES = 288
"""Side of large pictures, px: trained on crops of 224 px, which show objects larger than whole
pictures do, a backbone sees more of larger ones (Touvron et al. 2019, "Fixing the train-test
resolution discrepancy")."""
MEASURED_PIXELS = 10_000_000  # so many tell the mean and deviation of all
WHITENING_PIXELS = 2_000_000  # so many tell the statistics of patches


def is_to_be_planned(config: TrainConfig, settings: dict[str, Any]) -> bool:
    """Whether time or target decides net and length, and not the recipe or the user."""
    if config.time is not None:
        return True
    if config.probe or config.init is not None:
        return False
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
    if precision == "bf16" and not is_to_be_planned(config, settings):
        suited = suited_to(device).get(config.recipe, {})
        own = settings.keys() & OF_THE_NET or config.model != RECIPES[config.recipe].model
        if own or has_weights(config):
            suited = {key: value for key, value in suited.items() if key not in OF_THE_NET}
        config = config.replace(**{k: v for k, v in suited.items() if k not in settings})
    batch_size = config.batch_size
    config = fit_to_data(config, n, data.imgsz, settings.get("batch_size"))
    if config.batch_size < batch_size and not settings.keys() & OF_THE_NET:
        recipe = RECIPES[config.recipe]  # other rates are for batches of so many
        config = config.replace(rest=recipe.rest, rest_lr=recipe.rest_lr)
    if config.balance == "auto":
        counts = data.counts()
        unbalanced = counts.max() >= UNBALANCED * counts.min()
        config = config.replace(balance="logit-adjust" if unbalanced else "none")
    if config.balance != "none" and "metric" not in settings:
        config = config.replace(metric="balanced-accuracy")
    if not data.mirrors:
        names = [name for name in config.augment.split("+") if name != MIRROR]
        config = config.replace(augment="+".join(names) or "none", tta="none")
    wanted: dict[str, Any] = {k: settings[k] for k in ("epochs", "augment", "tta") if k in settings}
    if "epochs" in settings and "max_steps" not in settings:
        wanted["max_steps"] = 0
    return config.replace(
        **wanted,
        device=str(device),
        precision=precision,
        imgsz=data.imgsz,
        threads=config.threads or available_cores(),
    )


def has_weights(config: TrainConfig) -> bool:
    """Whether the net begins with weights that are there already, and so is the net they are of."""
    return config.init is not None or config.weights != "none"


def suited_to(device: torch.device) -> dict[str, dict[str, Any]]:
    """The recipes' settings that suit a device whose arithmetic is bf16."""
    if device.type == "cuda":
        return WITH_GPU
    if has_matrix_hardware(device):
        return WITH_MATRIX_HARDWARE
    return WITH_PAIRS if winograd_pays() else {}


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


def begin(recipe: str | None, settings: dict[str, Any], imgsz: int | None = None) -> TrainConfig:
    """The configuration to begin with, before anything is decided from the data.

    Args:
        recipe: its name; None: ``finetune`` where a backbone is named, or pictures are large and no
            net is named, else ``fast``.
        settings: the user's.
        imgsz: side of the pictures in pixels, where it is known.

    Raises:
        UsageError: an unknown recipe, net or setting.
        ModelError: ``init`` is no run.
    """
    model = settings.get("model")
    if model is not None:
        check_name(model)
    if recipe is None:
        large = "init" not in settings and imgsz is not None and imgsz > SMALL
        recipe = "finetune" if (is_backbone(model) if model else large) else "fast"
    config = recipe_config(recipe).replace(**settings)
    if config.init is not None:
        card = load_card(Path(config.init))
        if model not in (None, card.architecture):
            raise UsageError(f"--init {config.init} is a {card.architecture}: leave --model out")
        config = config.replace(model=card.architecture, imgsz=config.imgsz or card.imgsz)
    if config.probe and config.weights == "none" and config.init is None:
        # Features of a net that has learned nothing say nothing: it is trained from nothing.
        config = config.replace(probe=False, tune="all", normalization="data", min_steps=300)
    return config


def check_tuning(config: TrainConfig, settings: dict[str, Any]) -> None:
    """See that the settings make sense for a net that was trained before, or was not.

    Raises:
        UsageError: they do not.
    """
    if config.tune == "none" and not config.probe:
        raise UsageError("--tune none leaves nothing to train; it is for --recipe finetune")
    if config.probe and config.tune == "none" and settings.keys() & {"epochs", "lr", "max_steps"}:
        raise UsageError("a linear probe has no epochs and no rate; say --tune last or all")
    if config.probe and config.time is not None:
        raise UsageError("--time is for nets that start from nothing, as --recipe fast does")


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
        data = load(
            data, imgsz=if_large.imgsz, large=side_of_large(if_large), workers=workers, root=root,
            skip_bad=skip_bad or (False if decisions is None else decisions.dropped),
        )  # fmt: skip
    elif root is not None:
        raise UsageError("--root is for tables; these data are read already")
    if decisions is not None:
        data = apply(data, decisions)
    config = begin(recipe, settings, data.imgsz)
    check_tuning(config, settings)
    return data.resized(config.imgsz or data.imgsz), config


def side_of_large(config: TrainConfig) -> int:
    """What large pictures are resized to: a backbone that takes one size alone says which."""
    if not config.probe or config.model in MODELS:
        return LARGE
    import timm

    known = timm.get_pretrained_cfg(config.model, allow_unregistered=True)
    if known is not None and known.fixed_input_size:
        return int(known.input_size[-1])
    return LARGE_FOR_BACKBONES


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
