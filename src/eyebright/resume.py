"""Checkpoints: all that a training needs to go on exactly where it was.

A checkpoint is one safetensors file, ``checkpoints/<step>-<SHA-256 of the file>.safetensors``, in
which JSON stands as bytes beside the tensors: no file can hold code, and a flipped bit is found by
the name. It is written beside its place, synced and renamed; the newest whole one counts, by its
step, and the last two are kept. Order and augmentation of the pictures follow from seed, epoch and
step, so that they need no room in it.
"""

import contextlib
import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from eyebright.batches import Normalization
from eyebright.checkpoint import fits, write_file
from eyebright.console import notices, shown
from eyebright.errors import ModelError, NumbersError, StorageError
from eyebright.training import EpochResult, Position, check_weights

FOLDER = "checkpoints"
NAME = re.compile(r"(\d{10})-([0-9a-f]{64})\.safetensors")
KEPT = 2
MOST_LOST = 50.0  # seconds of work, beside those of a step
LEAST = 5.0  # seconds between two checkpoints ...
SHARE = 0.015  # ... and the share of the time that they may take
STATE = "state"

Optimizers = list[torch.optim.Optimizer]


@dataclass(frozen=True)
class Checkpoint:
    """A training between two mini-batches."""

    position: Position
    results: list[EpochResult]
    """Of the epochs that are over, without logits."""
    best: EpochResult | None
    """With its logits: the one whose model is kept."""
    floor: EpochResult | None
    """With its logits: a linear probe."""
    elapsed: float
    """Seconds of the whole command so far."""
    normalization: Normalization
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Of the net, the optimizers and the generators of random numbers."""

    def pack(self) -> bytes:
        """As a safetensors file."""
        tensors = dict(self.tensors)
        state: dict[str, Any] = {
            "position": asdict(self.position),
            "results": [
                _pack_result(one, f"results.{i}", tensors) for i, one in enumerate(self.results)
            ],
            "elapsed": self.elapsed,
            "normalization": asdict(self.normalization),
        }
        for name, one in (("best", self.best), ("floor", self.floor)):
            state[name] = None if one is None else _pack_result(one, name, tensors)
        text = json.dumps(state, allow_nan=False).encode()
        tensors[STATE] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return save_tensors(tensors)

    @classmethod
    def unpack(cls, content: bytes) -> "Checkpoint":
        """What `pack` made.

        Raises:
            ValueError: it is no checkpoint.
        """
        try:
            tensors = load_tensors(content)
            state = json.loads(bytes(tensors.pop(STATE).numpy()))
            position = dict(state["position"])
            position["running"] = [(int(b), float(x)) for b, x in position["running"]]
            (a, b, c), (d, e, f) = (state["normalization"][key] for key in ("mean", "std"))
            kept = {
                name: None if state[name] is None else _unpack_result(state[name], name, tensors)
                for name in ("best", "floor")
            }
            return cls(
                Position(**position),
                [
                    _unpack_result(one, f"results.{i}", tensors)
                    for i, one in enumerate(state["results"])
                ],
                kept["best"],
                kept["floor"],
                float(state["elapsed"]),
                Normalization((a, b, c), (d, e, f)),
                tensors,
            )
        except (SafetensorError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no checkpoint ({error})") from None

    def restore(self, net: nn.Module, optimizers: Optimizers) -> None:
        """Give a net, its optimizers and torch's generators the state that they had.

        Raises:
            ModelError: it is another net's, or not finite.
        """
        device = next(net.parameters()).device
        weights = _under("model.", self.tensors)
        if not fits(weights, net):
            raise ModelError("the checkpoint is another net's")
        try:
            check_weights(weights, self.position.step)
        except NumbersError as error:
            raise ModelError(f"the checkpoint: {error}") from None
        net.load_state_dict(weights)
        for i, optimizer in enumerate(optimizers):
            for j, p in enumerate(_parameters(optimizer)):
                state = {}
                for key, value in _under(f"optimizer.{i}.{j}.", self.tensors).items():
                    if value.shape == p.shape:  # laid out in memory as the filters are
                        state[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)
                    elif not value.ndim:
                        state[key] = value.to(device) if _is_fused(optimizer) else value.clone()
                    else:
                        raise ModelError("the checkpoint is another optimizer's")
                if state:
                    optimizer.state[p] = state
        torch.set_rng_state(self.tensors["rng.cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(self.tensors["rng.cuda"], device)


def collect_state(net: nn.Module, optimizers: Optimizers) -> dict[str, Tensor]:
    """Copies of all that changes in a net, its optimizers and torch's generators."""
    tensors = {f"model.{name}": _copy(w) for name, w in net.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for j, p in enumerate(_parameters(optimizer)):
            for key, value in optimizer.state.get(p, {}).items():
                if value is not None:  # as SGD's momentum before the first step
                    tensors[f"optimizer.{i}.{j}.{key}"] = _copy(value)
    tensors["rng.cpu"] = torch.get_rng_state()
    device = next(net.parameters()).device
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    return tensors


class Saver:
    """Writes checkpoints into a run folder, not too often and not too seldom.

    At most `MOST_LOST` seconds lie between two of them; less where they take little of the time.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.saved, self.cost = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether it is time for another one."""
        pause = max(LEAST, self.cost / SHARE)
        return time.monotonic() - self.saved >= min(pause, MOST_LOST)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one, and remove all but the last two.

        Raises:
            StorageError: the disk refuses; the message names the path.
        """
        begun = time.monotonic()
        save_checkpoint(self.folder, checkpoint)
        self.saved = time.monotonic()
        self.cost = self.saved - begun


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint whole or not at all, then remove all but the last two.

    Raises:
        StorageError: the disk refuses; the message names the path.
    """
    folder, content = run / FOLDER, checkpoint.pack()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"{shown(folder)}: {error.strerror or error}") from None
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{checkpoint.position.step:010d}-{digest}.safetensors"
    write_file(path, content)
    others = [one for one in list_checkpoints(run) if one[1] != path]
    earlier = [one for one in others if one[0] <= checkpoint.position.step]
    for old in set(others) - set(earlier[: KEPT - 1]):  # later ones are damaged: this one is newest
        with contextlib.suppress(OSError):
            old[1].unlink()
    return path


def list_checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, path) of each file that is called as a checkpoint, the newest first."""
    folder = run / FOLDER
    found = [(p, NAME.fullmatch(p.name)) for p in folder.iterdir()] if folder.is_dir() else []
    named = [(int(match[1]), path) for path, match in found if match]
    return sorted(named, key=lambda one: (-one[0], one[1].name))


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest whole one; None where there is none yet. Damaged ones are passed over, loudly.

    Raises:
        ModelError: there are some, and all are damaged.
    """
    found = list_checkpoints(run)
    for _, path in found:
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() not in path.name:
                raise ValueError("not the content that its name tells")
            return Checkpoint.unpack(content)
        except (OSError, ValueError) as error:
            notices.warning("%s: damaged (%s); an earlier one is looked for", shown(path), error)
    if found:
        raise ModelError(f"{shown(run / FOLDER)}: no checkpoint is whole")
    return None


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused") or optimizer.defaults.get("capturable"))


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _pack_result(result: EpochResult, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if result.val_confusion is not None:
        tensors[f"{name}.confusion"] = torch.from_numpy(result.val_confusion.copy())
    if result.val_logits is not None:
        tensors[f"{name}.logits"] = _copy(result.val_logits)
    if result.spare is not None:
        tensors[f"{name}.spare_logits"] = _copy(result.spare[0])
        tensors[f"{name}.spare_labels"] = torch.from_numpy(result.spare[1].copy())
    return {
        "epoch": result.epoch,
        "step": result.step,
        "seconds": result.seconds,
        "train_loss": result.train_loss,
        "running_losses": result.running_losses,
    }


def _unpack_result(record: dict[str, Any], name: str, tensors: dict[str, Tensor]) -> EpochResult:
    confusion, logits, one, other = (
        tensors.pop(f"{name}.{part}", None)
        for part in ("confusion", "logits", "spare_logits", "spare_labels")
    )
    spare = None if one is None or other is None else (one, other.numpy())
    return EpochResult(
        int(record["epoch"]),
        int(record["step"]),
        float(record["seconds"]),
        float(record["train_loss"]),
        tuple((int(b), float(x)) for b, x in record["running_losses"]),
        None if confusion is None else confusion.numpy(),
        logits,
        spare,
    )
