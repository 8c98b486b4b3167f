"""What a net's last layer sees of pictures: computed, and kept in the folder of data sets."""

import contextlib
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor, nn

from eyebright import distributed
from eyebright.batches import Normalization, predict_logits, slices
from eyebright.console import progress_bar
from eyebright.data import Dataset
from eyebright.data.cache import data_home
from eyebright.data.views import View
from eyebright.errors import StorageError
from eyebright.files import read_safetensors, write_file
from eyebright.images import POLICY
from eyebright.models import head_of

PART = 64  # pictures between two looks at the progress bar

Features = NDArray[np.float32]


class Penultimate(nn.Module):
    """What the last layer of a net sees, in place of what it says."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.head = net, head_of(net)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features (batch, width) of normalised pictures (batch, 3, height, width)."""
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.net(pictures)
        finally:
            handle.remove()
        return seen[0].flatten(1)


def compute_features(
    net: nn.Module,
    images: NDArray[np.uint8] | View,
    normalization: Normalization,
    tta: str = "none",
    hear: Callable[[int], None] | None = None,
) -> Features:
    """The features of pictures, uint8 (n, imgsz, imgsz, 3): float32 (n, width).

    ``hear`` is told how many more are done.

    With ``mirror``, the mean of a picture's and its mirror image's: the last layer being linear,
    their mean logits follow from it.
    """
    eye, parts = Penultimate(net), []
    for part in slices(images, PART) if len(images) else ():
        parts.append(predict_logits(eye, part, normalization, tta).numpy())
        if hear:
            hear(len(part))
    return np.concatenate(parts) if parts else np.empty((0, eye.head.in_features), np.float32)


def cached_features(
    net: nn.Module, data: Dataset, normalization: Normalization, tta: str
) -> Features:
    """As `compute_features`, but a second time they are read from the folder of data sets.

    Ranks share the work; only the first is sure to get them.

    They are kept by what they follow from: pictures, weights, normalisation, and how pictures are
    read. A file that is damaged or of another shape is made anew.
    """
    digest = hashlib.sha256(f"{data.fingerprint} {POLICY} {normalization} {tta}".encode())
    head = {id(parameter) for parameter in head_of(net).parameters()}
    for name, tensor in net.state_dict(keep_vars=True).items():
        if id(tensor) not in head:
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    path = data_home() / "features" / f"{digest.hexdigest()}.safetensors"
    found = _read(path, (len(data), head_of(net).in_features)) if distributed.is_first() else None
    if distributed.told(found is not None):
        return found if found is not None else np.empty((0, 0), np.float32)
    mine = data.pixels.pick(np.arange(len(data))[distributed.part(len(data))])
    with progress_bar("computing features", len(mine), not distributed.is_first()) as bar:
        features = compute_features(net, mine, normalization, tta, bar.advance)
    features = distributed.joined(torch.from_numpy(features), len(data)).numpy()
    if not distributed.is_first():
        return features
    with contextlib.suppress(OSError, StorageError):  # no room to keep them: they are here
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, save_arrays({"features": features}))
    return features


def _read(path: Path, shape: tuple[int, int]) -> Features | None:
    with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError):
        found: Features = load_arrays(read_safetensors(path, 4 * math.prod(shape)))["features"]
        if found.shape == shape and found.dtype == np.float32:
            return found
    return None
