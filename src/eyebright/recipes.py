"""`RECIPES`: configurations with a name, and what of them suits which hardware."""

from typing import Any

from eyebright.config import TrainConfig
from eyebright.console import nearest
from eyebright.errors import UsageError

RECIPES: dict[str, TrainConfig] = {
    # The lesson to the letter.
    "tutorial": TrainConfig(
        recipe="tutorial",
        model="lesson",
        epochs=5,
        min_steps=0,
        batch_size=4,
        drop_last=False,
        optimizer="sgd",
        lr=0.001,
        momentum=0.9,
        schedule="constant",
        label_smoothing=0.0,
        balance="none",
        augment="none",
        normalization="half",
        imgsz=32,
        val=0.0,
        log_every=2000,
        precision="fp32",
    ),
    # What the lesson reaches, in about a second.
    "quick": TrainConfig(
        recipe="quick",
        model="patch48",
        max_steps=56,
        batch_size=200,
        lr=0.2,
        rest_lr=0.02,
        augment="none",
    ),
    "fast": TrainConfig(recipe="fast"),
    "best": TrainConfig(recipe="best", model="wide64", epochs=5, tta="mirror"),
    # For few or large pictures: what a backbone learned from others' millions is used.
    "finetune": TrainConfig(
        recipe="finetune",
        model="tf_efficientnet_lite0",
        weights="auto",
        probe=True,
        tune="none",
        epochs=5,
        min_steps=0,
        batch_size=32,
        optimizer="adamw",
        lr=3e-4,
        label_smoothing=0.1,
        augment="mirror+crop",
        normalization="pretrained",
    ),
}

# recipe -> its settings where a processor multiplies pairs of bf16 (`eyebright.convolution`)
WITH_PAIRS: dict[str, dict[str, Any]] = {
    "fast": {"model": "deep32", "epochs": 7, "lr": 0.12, "rest": "sgd", "rest_lr": 0.053},
    "best": {
        "model": "deep64", "epochs": 10, "batch_size": 1000, "lr": 0.2,
        "rest": "sgd", "rest_lr": 0.053,
    },
}  # fmt: skip
# and where there is hardware for whole matrices: a processor with AMX
WITH_MATRIX_HARDWARE: dict[str, dict[str, Any]] = {
    "fast": {"epochs": 12, "batch_size": 1000, "lr": 0.17},
    "best": {"epochs": 13, "batch_size": 1000, "lr": 0.17},
}
# and on a GPU, where these nets take seconds
WITH_GPU: dict[str, dict[str, Any]] = {
    "fast": {
        "model": "white64", "epochs": 12, "batch_size": 2000, "lr": 0.24,
        "rest": "sgd", "rest_lr": 0.053,
    },
    "best": {
        "model": "deep128", "epochs": 16, "batch_size": 2000, "lr": 0.24,
        "rest": "sgd", "rest_lr": 0.053, "augment": "mirror+shift8+cutout",
    },
}  # fmt: skip
OF_THE_NET = {"model", "rest", "rest_lr"}
"""Settings above that fit a recipe's own net alone."""


def recipe_config(name: str) -> TrainConfig:
    """The configuration of a recipe.

    Raises:
        UsageError: no recipe has this name.
    """
    if name not in RECIPES:
        meant = nearest(name, RECIPES)
        raise UsageError(
            f"no recipe is called '{name}'{meant}; choose one of: {', '.join(RECIPES)}"
        )
    return RECIPES[name]
