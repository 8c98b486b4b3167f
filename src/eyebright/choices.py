"""What a recipe and the user left open is decided: from the data and the machine."""

from pathlib import Path
from typing import Any

import torch

from eyebright.augment import MIRROR
from eyebright.checkpoint import load_card
from eyebright.config import UNBALANCED, TrainConfig, fit_to_data
from eyebright.convolution import winograd_pays
from eyebright.data import Dataset
from eyebright.data.reading import LARGE, SMALL
from eyebright.errors import UsageError
from eyebright.machine import available_cores
from eyebright.models import MODELS, check_name, is_backbone
from eyebright.plan import CURVES
from eyebright.recipes import (
    OF_THE_NET,
    RECIPES,
    WITH_GPU,
    WITH_MATRIX_HARDWARE,
    WITH_PAIRS,
    recipe_config,
)
from eyebright.runtime import choose_precision, has_matrix_hardware

LARGE_FOR_BACKBONES = 288
"""Side of large pictures, px: trained on crops of 224 px, which show objects larger than whole
pictures do, a backbone sees more of larger ones (Touvron et al. 2019, "Fixing the train-test
resolution discrepancy")."""


def begin(recipe: str | None, settings: dict[str, Any], imgsz: int | None = None) -> TrainConfig:
    """The configuration to begin with, before anything is decided from the data.

    Args:
        recipe: its name; None: ``finetune`` where a backbone is named, or pictures are large and
            neither net nor time is named, else ``fast``.
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
        own_way = settings.keys() & {"init", "time"}
        large = not own_way and imgsz is not None and imgsz > SMALL
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


def side_of_large(config: TrainConfig) -> int:
    """What large pictures are resized to: a backbone that takes one size alone says which."""
    if not config.probe or config.model in MODELS:
        return LARGE
    import timm

    known = timm.get_pretrained_cfg(config.model, allow_unregistered=True)
    if known is not None and known.fixed_input_size:
        return int(known.input_size[-1])
    return LARGE_FOR_BACKBONES
