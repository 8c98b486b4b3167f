"""Models on disk: ``model.safetensors`` (weights) and ``model.json`` (all else to predict with).

Neither file can hold code. Each is written beside its place, synced and renamed, so that there is
always a whole one or none.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from eyebright.batches import Normalization
from eyebright.console import shown
from eyebright.errors import ModelError, StorageError, UsageError
from eyebright.images import POLICY
from eyebright.models import MODELS, create_model, is_backbone

FORMAT = 1
NAMED = 5  # runs that are named to somebody who asked for one that is not there
WEIGHTS, CARD = "model.safetensors", "model.json"


def check_run_folder(path: Path) -> None:
    """See that there is such a folder.

    Raises:
        ModelError: there is none; names the newest runs of ``runs``.
    """
    if path.is_dir():
        return
    with contextlib.suppress(OSError):
        there = [file.parent for file in Path("runs").glob("*/config.json")]
        newest = sorted(there, key=lambda run: run.stat().st_mtime, reverse=True)[:NAMED]
        if newest:
            names = ", ".join(shown(run) for run in newest)
            raise ModelError(f"{shown(path)}: no such run folder; there are {names}")
    raise ModelError(f"{shown(path)}: no such run folder")


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


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{shown(path)}: {error.strerror or error}") from None


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written in a folder or below it."""
    for path in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """See that a name that was given in it outlives a power cut."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs alike: indented, ASCII, NaN refused."""
    text = json.dumps(value, indent=2, allow_nan=False)
    write_file(path, text.encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file of ours holds.

    Raises:
        ModelError: missing, damaged, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{shown(path)}: unreadable ({error})") from None
    if not isinstance(content, dict):
        raise ModelError(f"{shown(path)}: not what belongs there")
    return content


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that is only ever added to.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{shown(path)}: {error.strerror or error}") from None


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
    write_json(folder / CARD, asdict(card))


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
    try:
        if content["format"] != FORMAT:
            raise ModelError(
                f"{shown(path)}: format {content['format']!r}; this eyebright reads {FORMAT}"
            )
        mean, std = (tuple(float(x) for x in content["normalization"][k]) for k in ("mean", "std"))
        if (
            len(mean) != 3
            or len(std) != 3
            or min(std) <= 0
            or not all(map(math.isfinite, mean + std))
        ):
            raise ValueError("normalization")
        classes = content["classes"]
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise ValueError("classes")
        if not 1 <= len(set(classes)) == len(classes) <= 100_000:
            raise ValueError("classes")
        card = ModelCard(
            architecture=str(content["architecture"]),
            classes=tuple(classes),
            imgsz=int(content["imgsz"]),
            normalization=Normalization(mean, std),
            recipe=str(content["recipe"]),
            epoch=int(content["epoch"]),
            policy=str(content["policy"]),
            tta=str(content.get("tta", "none")),
            temperature=None if (t := content.get("temperature")) is None else float(t),
            weights_sha256=str(content.get("weights_sha256", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelError(f"{shown(path)}: no model card ({error})") from None
    if not 4 <= card.imgsz <= 4096:
        raise ModelError(f"{shown(path)}: pictures of {card.imgsz} px are out of range")
    if card.policy != POLICY:
        raise ModelError(f"{shown(path)}: an unknown way to resize pictures: {shown(card.policy)}")
    if card.tta not in ("none", "mirror"):
        raise ModelError(f"{shown(path)}: unknown test-time averaging: {shown(card.tta)}")
    if card.temperature is not None and not 1e-3 <= card.temperature <= 1e3:
        raise ModelError(f"{shown(path)}: a temperature of {card.temperature} is out of range")
    return card


def load_weights(folder: Path, card: ModelCard) -> dict[str, Tensor]:
    """Read and check ``model.safetensors``.

    Args:
        folder: of the run.
        card: which knows the file's SHA-256.

    Raises:
        ModelError: missing, damaged, not those of the card, or with weights that are not finite.
    """
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
        if card.weights_sha256 not in ("", hashlib.sha256(content).hexdigest()):
            raise ModelError(
                f"{shown(path)}: not the weights that {CARD} tells of; if it was killed while "
                f"training: eyebright train --resume {shown(folder)}"
            )
        weights: dict[str, Tensor] = load_tensors(content)
    except FileNotFoundError:
        raise ModelError(f"{shown(folder)}: holds no model ({WEIGHTS} is missing)") from None
    except (OSError, SafetensorError, KeyError, ValueError, MemoryError) as error:
        raise ModelError(f"{shown(path)}: no safetensors file, or damaged ({error})") from None
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{shown(path)}: the weights {shown(name)} are not finite numbers")
    return weights


def fits(weights: dict[str, Tensor], model: nn.Module) -> bool:
    """Whether these are the weights of a net, by their names and shapes."""
    own = model.state_dict()
    return own.keys() == weights.keys() and all(w.shape == own[k].shape for k, w in weights.items())


def load_model(folder: Path, model: nn.Module | None = None) -> tuple[nn.Module, ModelCard]:
    """A net with its trained weights, in evaluation mode on the processor, and its card.

    Args:
        folder: holds both files.
        model: the net to load into; needed where it was a user's own.

    Raises:
        ModelError: damaged files, weights that are not this net's, or not finite.
    """
    card = load_card(folder)
    path, weights = folder / WEIGHTS, load_weights(folder, card)
    own = model is not None
    if model is None:
        known = card.architecture in MODELS or is_backbone(card.architecture)
        if not known:
            raise ModelError(
                f"{shown(folder)}: its net '{shown(card.architecture)}' is a user's own; load it "
                "in Python with Classifier.load(run, model=...)"
            )
        make = partial(create_model, card.architecture, len(card.classes), card.imgsz)
        try:
            # Without memory for weights: a hostile card may ask for any amount of it.
            with torch.device("meta"):
                model = make()
            if card.architecture not in MODELS and fits(weights, model):
                model = make()  # nets of timm may hold more than weights, which then is needed
        except UsageError as error:
            raise ModelError(f"{shown(folder / CARD)}: {error}") from None
    for name, tensor in model.state_dict().items():
        if name in weights and weights[name].dtype != tensor.dtype:
            raise ModelError(
                f"{shown(path)}: the weights {name} are {weights[name].dtype}, not {tensor.dtype}"
            )
    try:
        model.load_state_dict(weights, assign=not own)
    except RuntimeError as error:
        reason = shown(" ".join(str(error).split()))
        raise ModelError(f"{shown(path)}: not the weights of this net: {reason}") from None
    return model.eval(), card
