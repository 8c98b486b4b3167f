"""Checkpoints: all that a training needs to go on exactly where it was.

A checkpoint is one safetensors file in which JSON stands as bytes beside the tensors, so that it
can hold no code (`eyebright.saver` says where it lies). Order and augmentation of the pictures
follow from seed, epoch and step, so that they need no room in it.
"""

import json
import random
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from eyebright.batches import Normalization
from eyebright.checkpoint import copy_tensors, fits
from eyebright.epochs import (
    pack_pairs,
    pack_result,
    pack_results,
    pack_rows,
    to_numbers,
    unpack_pairs,
    unpack_result,
    unpack_results,
    unpack_rows,
)
from eyebright.errors import ModelError
from eyebright.files import count, number
from eyebright.finite import first_not_finite
from eyebright.training import EpochResult, Position

STATE = "state"
MOST_STATE = 1 << 20  # bytes of JSON

DAMAGE = (
    SafetensorError, LookupError, TypeError, ValueError, AttributeError, RuntimeError,
    ArithmeticError, RecursionError,
)  # fmt: skip
"""What hostile content makes readers raise."""
STATE_OF = {
    "SGD": {"momentum_buffer"},
    "Muon": {"velocity"},
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
}

Optimizers = list[torch.optim.Optimizer]


@dataclass(frozen=True)
class Checkpoint:
    """A training between two mini-batches."""

    position: Position
    results: list[EpochResult]
    """Of the epochs that are over, without logits; all but the last without counts too."""
    rows: list[dict[str, str]]
    """Of ``log.csv``, one for each of those."""
    best: EpochResult | None
    """With its logits: the one whose model is kept."""
    floor: EpochResult | None
    """With its logits: a linear probe."""
    elapsed: float
    """Seconds of the whole command so far."""
    normalization: Normalization
    tensors: dict[str, Tensor] = field(repr=False)
    """Of the net, the model that is kept, the optimizers and torch's generators."""
    config: dict[str, Any]
    """All settings."""
    generators: dict[str, Any] = field(repr=False)
    """The states of Python's and NumPy's, which users' own nets may draw from."""

    def pack(self) -> bytes:
        """As a safetensors file."""
        tensors = dict(self.tensors)
        at = self.position
        # What grows with epochs and steps is tensors: as JSON it would take twenty times the room.
        tensors["losses"] = torch.tensor(at.losses, dtype=torch.float64)
        tensors["running"] = pack_pairs(at.running)
        tensors["rows"] = pack_rows(self.rows)
        tensors |= pack_results(self.results)
        state: dict[str, Any] = {
            "position": {
                "epoch": at.epoch,
                "step": at.step,
                "batch": at.batch,
                "seconds": at.seconds,
            },
            "elapsed": self.elapsed,
            "normalization": asdict(self.normalization),
            "config": self.config,
            "generators": self.generators,
        }
        for name, one in (("best", self.best), ("floor", self.floor)):
            state[name], its_tensors = (None, {}) if one is None else pack_result(one, name)
            tensors |= its_tensors
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
            text = tensors.pop(STATE)
            if text.nbytes > MOST_STATE:
                raise ValueError(f"{text.nbytes:,} bytes of JSON cannot belong there")
            state = json.loads(bytes(text.numpy()))
            at = state["position"]
            position = Position(
                epoch=count(at["epoch"]),
                step=count(at["step"]),
                batch=count(at["batch"]),
                seconds=number(at["seconds"]),
                losses=to_numbers(tensors.pop("losses"), 1),
                running=unpack_pairs(tensors.pop("running")),
            )
            if len(position.losses) != position.batch:
                raise ValueError("not a loss for each mini-batch")
            (a, b, c), (d, e, f) = (map(number, state["normalization"][k]) for k in ("mean", "std"))
            if min(d, e, f) <= 0:
                raise ValueError("a deviation of zero")
            kept = {
                name: None if state[name] is None else unpack_result(state[name], name, tensors)
                for name in ("best", "floor")
            }
            results = unpack_results(tensors)
            rows = unpack_rows(tensors.pop("rows"))
            if len(rows) != len(results):
                raise ValueError("not a row for each epoch")
            return cls(
                position,
                results,
                rows,
                kept["best"],
                kept["floor"],
                number(state["elapsed"]),
                Normalization((a, b, c), (d, e, f)),
                tensors,
                dict(state["config"]),
                dict(state["generators"]),
            )
        except DAMAGE as error:
            raise ValueError(f"no checkpoint ({error})") from None

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, without that beginning."""
        found = self.tensors.items()
        return {n.removeprefix(prefix): t for n, t in found if n.startswith(prefix)}

    def restore(self, net: nn.Module, optimizers: Optimizers) -> None:
        """Give a net, its optimizers and all generators the state that they had.

        Raises:
            ModelError: it is another net's, not finite, or not whole.
        """
        device = next(net.parameters()).device
        weights = self.under("model.")
        if not fits(weights, net):
            raise ModelError("the checkpoint is of another net")
        try:
            _check_finite(weights)
            net.load_state_dict(weights)
            for i, optimizer in enumerate(optimizers):
                self._restore_optimizer(optimizer, f"optimizer.{i}.", device)
            torch.set_rng_state(self.tensors["rng.cpu"])
            if device.type == "cuda" and "rng.cuda" in self.tensors:
                torch.cuda.set_rng_state(self.tensors["rng.cuda"], device)
            version, numbers, gauss = self.generators["python"]
            random.setstate((version, tuple(numbers), gauss))
            # NumPy's old generator is the one that users' own nets draw from unseen.
            kind, numbers, *rest = self.generators["numpy"]
            if len(numbers) != 624 or not 0 <= count(rest[0]) <= 624:
                raise ValueError("a generator's state")
            np.random.set_state((kind, np.array(numbers, np.uint32), *rest))  # noqa: NPY002
        except DAMAGE as error:
            raise ModelError(f"the checkpoint is not whole: {error}") from None

    def check(self, net: nn.Module, kept: dict[str, Tensor], held_out: int, classes: int) -> None:
        """See that what it holds beside the net's state fits together.

        Args:
            net: whose it is.
            kept: the weights of the model that is kept.
            held_out: number of pictures.
            classes: number of them.

        Raises:
            ModelError: it does not.
        """
        try:
            last = self.results[-1].epoch if self.results else 0
            if last != self.position.epoch:
                raise ValueError("results that are missing")
            before = self.results[-1].step if self.results else 0
            if self.position.step != before + self.position.batch:
                raise ValueError("steps of no epoch")
            if self.results and self.results[-1].val_confusion is not None:
                _check_counts(self.results[-1].val_confusion, held_out, classes)
            for result in (self.best, self.floor):
                if result is not None:
                    _check_counts(result.val_confusion, held_out, classes)
                    _check_logits(result.val_logits, held_out, classes)
                    if result.spare is not None:
                        _check_logits(result.spare[0], len(result.spare[1]), classes)
                        _check_labels(result.spare[1], classes)
            if self.best is not None:
                if not fits(kept, net):
                    raise ValueError("no whole best model")
                _check_finite(kept)
        except (ValueError, TypeError) as error:
            raise ModelError(f"the checkpoint is not whole: {error}") from None

    def _restore_optimizer(
        self, optimizer: torch.optim.Optimizer, prefix: str, device: torch.device
    ) -> None:
        keys = STATE_OF[type(optimizer).__name__]
        states = self.tensors[f"{prefix}states"].item()
        for j, p in enumerate(_parameters(optimizer)):
            state = {}
            for key, value in self.under(f"{prefix}{j}.").items():
                whole = value.shape == (() if key == "step" else p.shape)
                wanted = torch.float32 if key == "step" else p.dtype
                if key not in keys or not whole or value.dtype != wanted:
                    raise ValueError(f"an optimizer's {key}")
                if value.ndim:  # laid out in memory as the filters are
                    value = torch.empty_like(p, dtype=value.dtype).copy_(value)
                elif optimizer.defaults.get("fused"):
                    value = value.to(device)
                state[key] = value
            if state:
                if state.keys() != keys:
                    raise ValueError("half an optimizer's state")
                optimizer.state[p] = state
        if len(optimizer.state) != states:
            raise ValueError("an optimizer's state is missing")


def collect_state(net: nn.Module, optimizers: Optimizers) -> dict[str, Tensor]:
    """Copies of all that changes in a net, its optimizers and torch's generators."""
    tensors = {f"model.{name}": w for name, w in net.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for j, p in enumerate(_parameters(optimizer)):
            for key, value in optimizer.state.get(p, {}).items():
                if value is not None:  # as SGD's momentum before the first step, or without any
                    tensors[f"optimizer.{i}.{j}.{key}"] = value
        names = {name.split(".")[2] for name in tensors if name.startswith(f"optimizer.{i}.")}
        tensors[f"optimizer.{i}.states"] = torch.tensor(len(names))
    tensors["rng.cpu"] = torch.get_rng_state()
    device = next(net.parameters()).device
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    return copy_tensors(tensors)


def collect_generators() -> dict[str, Any]:
    """The states of Python's and NumPy's own generators, as JSON can hold them."""
    # NumPy's old generator is the one that users' own nets draw from unseen.
    kind, numbers, *rest = np.random.get_state()  # noqa: NPY002
    return {"python": random.getstate(), "numpy": [kind, np.asarray(numbers).tolist(), *rest]}


def _check_finite(tensors: dict[str, Tensor]) -> None:
    if name := first_not_finite(tensors):
        raise ValueError(f"{name} is not finite")


def _check_logits(logits: Tensor | None, n: int, classes: int) -> None:
    if logits is None and not n:
        return
    if logits is None or logits.shape != (n, classes) or logits.dtype != torch.float32:
        raise ValueError("logits of other pictures")
    _check_finite({"logits": logits})


def _check_labels(labels: Any, classes: int) -> None:
    if labels.dtype != np.int64 or labels.ndim != 1 or labels.min() < 0 or labels.max() >= classes:
        raise ValueError("labels of other classes")


def _check_counts(counts: Any, n: int, classes: int) -> None:
    if counts is None and not n:
        return
    if counts is None or counts.shape != (classes, classes) or counts.dtype != np.int64:
        raise ValueError("counts of other pictures")
    if counts.min() < 0 or counts.sum() != n:
        raise ValueError("counts of other pictures")


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
