"""Models on disk: ``model.safetensors`` (weights) and ``model.json`` (all else to predict with).

Neither file can hold code, and each is known by its SHA-256: the card holds that of the
weights, and its own.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from eyebright.answers import MOST_CLASSES, check_claims
from eyebright.batches import Normalization
from eyebright.console import shown
from eyebright.errors import ModelError, UsageError
from eyebright.files import read_json, read_safetensors, write_file, write_json
from eyebright.finite import first_not_finite
from eyebright.images import POLICY
from eyebright.models import MODELS, create_model, is_backbone
from eyebright.nearby import nearest_run, runs_there
from eyebright.uncompiled import Undrawn

FORMAT = 2
WEIGHTS, CARD = "model.safetensors", "model.json"
PLAIN = {
    "architecture": str, "imgsz": int, "recipe": str, "epoch": int, "policy": str, "tta": str,
    "temperature": int | float | None, "weights_sha256": str,
}  # fmt: skip
"""Entries of a card that are what they are called."""


def check_run_folder(path: Path) -> None:
    """See that there is such a folder.

    Raises:
        ModelError: there is none; names the one that was meant, or the newest runs of ``runs``.
    """
    if path.is_dir():
        return
    if path.is_file():
        raise ModelError(f"{shown(path)}: a file, and no run folder; {runs_there()}")
    if meant := nearest_run(path):
        raise ModelError(f"{shown(path)}: no such run folder{meant}")
    raise ModelError(f"{shown(path)}: no such run folder; {runs_there()}")


@dataclass(frozen=True)
class ModelCard:
    """What ``model.json`` holds: with the weights, enough to predict and nothing else needed."""

    architecture: str
    """A name in `MODELS`, or the class name of a user's own net."""
    classes: tuple[str, ...]
    imgsz: int
    """Side of the pictures that the net takes, in pixels."""
    normalization: Normalization
    recipe: str
    epoch: int
    """Whose weights these are."""
    policy: str = POLICY
    tta: str = "none"
    """Test-time averaging, part of every prediction: ``none`` or ``mirror``."""
    temperature: float | None = None
    """What logits are divided by before they become probabilities; None: uncalibrated."""
    weights_sha256: str = ""
    """Of the file of weights; empty: not known."""
    format: int = FORMAT


def copy_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the processor, each in one piece."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def save_model(folder: Path, weights: dict[str, Tensor], card: ModelCard) -> None:
    """Write both files of a model.

    Args:
        folder: exists already.
        weights: a net's ``state_dict``.
        card: what else there is to know.
    """
    content = save_tensors(copy_tensors(weights))
    write_file(folder / WEIGHTS, content)
    save_card(folder, replace(card, weights_sha256=hashlib.sha256(content).hexdigest()))


def save_card(folder: Path, card: ModelCard) -> None:
    """Write ``model.json`` alone: the weights stay as they are."""
    content = asdict(card)
    write_json(folder / CARD, content | {"sha256": digest_of(content)})


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of what a card says, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_card(folder: Path) -> ModelCard:
    """Read and check ``model.json``.

    Raises:
        ModelError: missing, damaged, of a later format, or not what a card must hold.
    """
    check_run_folder(folder)
    path = folder / CARD
    if not path.exists():
        raise ModelError(f"{shown(folder)}: holds no model ({CARD} is missing)")
    content = read_json(path)
    if (known := content.get("format")) != FORMAT:
        raise ModelError(f"{shown(path)}: format {known!r}; this eyebright reads {FORMAT}")
    if content.pop("sha256", None) != digest_of(content):
        raise ModelError(f"{shown(path)}: damaged, or changed since it was written (SHA-256)")
    try:
        if content.keys() != {field.name for field in fields(ModelCard)}:
            raise ValueError("other entries")
        card = ModelCard(**content)
        mean, std = (tuple(map(float, content["normalization"][k])) for k in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)):
            raise ValueError("normalization")
        if min(std) <= 0:
            raise ValueError("normalization")
        classes = content["classes"]
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise ValueError("classes")
        if not 1 <= len(set(classes)) == len(classes) <= MOST_CLASSES:
            raise ValueError("classes")
        if not all(isinstance(getattr(card, key), kind) for key, kind in PLAIN.items()):
            raise ValueError("an entry of another type")
        card = replace(card, classes=tuple(classes), normalization=Normalization(mean, std))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"{shown(path)}: no model card ({error})") from None
    check_claims(shown(path), card)
    return card


def load_weights(folder: Path, card: ModelCard, net: nn.Module | None = None) -> dict[str, Tensor]:
    """Read and check ``model.safetensors``.

    Args:
        folder: of the run.
        card: which knows the file's SHA-256.
        net: whose they are; a file larger than its weights is not read.

    Raises:
        ModelError: missing, damaged, not those of the card, or with weights that are not finite.
    """
    path = folder / WEIGHTS
    try:
        content = read_safetensors(path, None if net is None else bytes_of(net))
        if card.weights_sha256 != hashlib.sha256(content).hexdigest():
            raise ModelError(
                f"{shown(path)}: not the weights that {CARD} tells of; if it was killed while "
                f"training: eyebright train --resume {shown(folder)}"
            )
        weights: dict[str, Tensor] = load_tensors(content)
    except FileNotFoundError:
        raise ModelError(f"{shown(folder)}: holds no model ({WEIGHTS} is missing)") from None
    except (OSError, SafetensorError, KeyError, ValueError, MemoryError) as error:
        raise ModelError(f"{shown(path)}: no safetensors file, or damaged ({error})") from None
    if name := first_not_finite(weights):
        raise ModelError(f"{shown(path)}: the weights {shown(name)} are not finite numbers")
    return weights


def bytes_of(net: nn.Module) -> int:
    """Bytes of a net's weights."""
    return sum(w.nbytes for w in net.state_dict().values())


def fits(weights: dict[str, Tensor], model: nn.Module) -> bool:
    """Whether these are the weights of a net, by their names, shapes and types."""
    own = model.state_dict()
    return own.keys() == weights.keys() and all(
        w.shape == own[k].shape and w.dtype == own[k].dtype for k, w in weights.items()
    )


def load_model(folder: Path, model: nn.Module | None = None) -> tuple[nn.Module, ModelCard]:
    """A net with its trained weights, in evaluation mode on the processor, and its card.

    Args:
        folder: holds both files.
        model: the net to load into; needed where it was a user's own.

    Raises:
        ModelError: damaged files, weights that are not this net's, or not finite.
    """
    card = load_card(folder)
    path, own = folder / WEIGHTS, model is not None
    if model is not None:
        weights = load_weights(folder, card, model)
    else:
        known = card.architecture in MODELS or is_backbone(card.architecture)
        if not known:
            raise ModelError(
                f"{shown(folder)}: its net '{shown(card.architecture)}' is a user's own; load it "
                "in Python with Classifier.load(run, model=...)"
            )
        make = partial(create_model, card.architecture, len(card.classes), card.imgsz)
        try:
            # Without memory for weights: a hostile card may ask for any amount of it.
            with torch.device("meta"), Undrawn():
                model = make()
            weights = load_weights(folder, card, model)
            if card.architecture not in MODELS and fits(weights, model):
                model = make()  # nets of timm may hold more than weights, which then is needed
        except (UsageError, RuntimeError) as error:  # some of timm's, for pictures of a few pixels
            raise ModelError(f"{shown(folder / CARD)}: {str(error)[:300]}") from None
    for name, tensor in model.state_dict().items():
        if name in weights and weights[name].dtype != tensor.dtype:
            raise ModelError(
                f"{shown(path)}: the weights {name} are {weights[name].dtype}, not {tensor.dtype}"
            )
    try:
        model.load_state_dict(weights, assign=not own)
    except RuntimeError as error:
        reason = shown(" ".join(str(error).split())[:300])
        raise ModelError(f"{shown(path)}: not the weights of this net: {reason}") from None
    return model.eval(), card
