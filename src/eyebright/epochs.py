"""Results of epochs: as rows of ``log.csv``, and as tensors of a checkpoint."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eyebright import metrics
from eyebright.console import shown
from eyebright.errors import ModelError
from eyebright.files import MOST_LOG, count, number, read_rows
from eyebright.training import EpochResult

COLUMNS = (
    "epoch", "step", "seconds", "train_loss", "val_accuracy", "val_balanced_accuracy", "val_n",
)  # fmt: skip
"""Of ``log.csv``."""
CELL = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d{1,2})?")


def log_row(result: EpochResult) -> dict[str, str]:
    """What ``log.csv`` says of an epoch; nothing under ``val_...`` where nothing is held out."""
    row = dict.fromkeys(COLUMNS, "") | {
        "epoch": str(result.epoch),
        "step": str(result.step),
        "seconds": f"{result.seconds:.3f}",
        "train_loss": f"{result.train_loss:.6f}",
    }
    if result.val_confusion is not None:
        figure = metrics.accuracy(result.val_confusion)
        row["val_accuracy"] = f"{figure.value:.6f}"
        row["val_balanced_accuracy"] = f"{metrics.balanced_accuracy(result.val_confusion):.6f}"
        row["val_n"] = str(figure.n)
    return row


def is_row(row: dict[str, str]) -> bool:
    """Whether this is a whole row of ``log.csv``: a number in each column, but for the last."""
    return tuple(row) == COLUMNS and all(
        isinstance(value, str) and (CELL.fullmatch(value) or (not value and key in COLUMNS[4:]))
        for key, value in row.items()
    )


def read_log(path: Path) -> list[dict[str, str]]:
    """The whole rows of a ``log.csv``; none where there is no such file.

    Raises:
        ModelError: it is no log.
    """
    if not path.is_file():
        return []  # interrupted before the first epoch was over
    try:
        header, *rows = read_rows(path, MOST_LOG)
    except (OSError, ValueError) as error:
        raise ModelError(f"{shown(path)}: no log of a run ({error})") from None
    found = [dict(zip(header, row, strict=False)) for row in rows]
    return [row for row in found if is_row(row)]  # the last one may be half written


def pack_rows(rows: list[dict[str, str]]) -> Tensor:
    """Rows of ``log.csv`` as the bytes of their text."""
    text = "\n".join(",".join(row.values()) for row in rows)
    return torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8)


def unpack_rows(text: Tensor) -> list[dict[str, str]]:
    """What `pack_rows` packed.

    Raises:
        ValueError: not rows of a log.
    """
    lines = bytes(text.numpy()).splitlines()
    rows = [dict(zip(COLUMNS, x.decode().split(","), strict=True)) for x in lines if x]
    if not all(map(is_row, rows)):
        raise ValueError("no row of a log")
    return rows


def pack_results(results: list[EpochResult]) -> dict[str, Tensor]:
    """All but their logits; of counts those of the last alone."""
    figures = [(r.epoch, r.step, r.seconds, r.train_loss, len(r.running_losses)) for r in results]
    tensors = {
        "results": torch.tensor(figures, dtype=torch.float64).view(-1, 5),
        "results.running": pack_pairs([x for r in results for x in r.running_losses]),
    }
    if results and results[-1].val_confusion is not None:
        tensors["results.confusion"] = torch.from_numpy(results[-1].val_confusion.copy())
    return tensors


def unpack_results(tensors: dict[str, Tensor]) -> list[EpochResult]:
    """What `pack_results` packed, taken out of the tensors.

    Raises:
        ValueError: not results of epochs.
        KeyError: a part is missing.
    """
    running = unpack_pairs(tensors.pop("results.running"))
    confusion = tensors.pop("results.confusion", None)
    rows, results, at = to_numbers(tensors.pop("results"), 2), list[EpochResult](), 0
    for epoch, step, seconds, loss, several in rows:
        of_epoch = tuple(running[at : at + _whole(several)])
        at += _whole(several)
        results.append(EpochResult(_whole(epoch), _whole(step), seconds, loss, of_epoch, None))
    if at != len(running):
        raise ValueError("losses of no epoch")
    if results and confusion is not None:
        results[-1] = replace(results[-1], val_confusion=confusion.numpy())
    return results


def pack_result(result: EpochResult, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A whole result: what JSON holds of it, and its tensors, whose names begin with ``name``."""
    tensors = {}
    if result.val_confusion is not None:
        tensors[f"{name}.confusion"] = torch.from_numpy(result.val_confusion.copy())
    if result.val_logits is not None:
        tensors[f"{name}.logits"] = result.val_logits.cpu().clone()
    tensors[f"{name}.running"] = pack_pairs(result.running_losses)
    if result.spare is not None:
        tensors[f"{name}.spare_logits"] = result.spare[0].cpu().clone()
        tensors[f"{name}.spare_labels"] = torch.from_numpy(result.spare[1].copy())
    record = {
        "epoch": result.epoch,
        "step": result.step,
        "seconds": result.seconds,
        "train_loss": result.train_loss,
    }
    return record, tensors


def unpack_result(record: dict[str, Any], name: str, tensors: dict[str, Tensor]) -> EpochResult:
    """What `pack_result` packed, taken out of the tensors.

    Raises:
        ValueError: not the result of an epoch.
        KeyError: a part is missing.
    """
    confusion, logits, one, other = (
        tensors.pop(f"{name}.{part}", None)
        for part in ("confusion", "logits", "spare_logits", "spare_labels")
    )
    spare = None if one is None or other is None else (one, other.numpy())
    return EpochResult(
        count(record["epoch"]),
        count(record["step"]),
        number(record["seconds"]),
        number(record["train_loss"]),
        tuple(unpack_pairs(tensors.pop(f"{name}.running"))),
        None if confusion is None else confusion.numpy(),
        logits,
        spare,
    )


def pack_pairs(pairs: Iterable[tuple[int, float]]) -> Tensor:
    """Numbers of mini-batches and mean losses, as float64 (pairs, 2)."""
    return torch.tensor(list(pairs), dtype=torch.float64).view(-1, 2)


def unpack_pairs(pairs: Tensor) -> list[tuple[int, float]]:
    """What `pack_pairs` packed.

    Raises:
        ValueError: not numbers and losses.
    """
    return [(_whole(batch), mean) for batch, mean in to_numbers(pairs, 2)]


def to_numbers(values: Tensor, dimensions: int) -> Any:
    """A tensor of float64 as a list of finite numbers, or of rows of them.

    Raises:
        ValueError: other dimensions or values.
    """
    if values.dtype != torch.float64 or values.ndim != dimensions:
        raise ValueError("no numbers")
    if values.numel() and not values.abs().max() < 1e100:
        raise ValueError("a number that is not finite")
    return values.tolist()


def _whole(value: float) -> int:
    return count(int(value)) if value == int(value) else count(value)
