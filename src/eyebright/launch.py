"""`train`: decides what is open, makes the run folder, drives the loop and keeps the best."""

import csv
import io
import itertools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import nn

from eyebright import metrics
from eyebright.augment import MIRROR, parse_augment
from eyebright.batches import HALF, Normalization, measure_normalization, predict_logits
from eyebright.checkpoint import ModelCard, save_model, write_file, write_json
from eyebright.config import TrainConfig, fit_to_data, recipe_config
from eyebright.console import out, say, shown
from eyebright.data import Dataset, load
from eyebright.data.splits import stratified_split
from eyebright.errors import DataError, NumbersError, StorageError, UsageError
from eyebright.models import create_model
from eyebright.run import Run
from eyebright.runtime import (
    available_cores,
    choose_device,
    choose_precision,
    describe,
    has_matrix_hardware,
    memory_format,
    set_up,
)
from eyebright.training import EpochResult, fit

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.I)


def train(
    data: Dataset | str | os.PathLike[str] = "cifar10",
    *,
    recipe: str = "fast",
    model: nn.Module | str | None = None,
    name: str | None = None,
    runs: str | os.PathLike[str] = "runs",
    skip_bad: bool = False,
    workers: int | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train a classifier and write a run folder.

    Args:
        data: a `Dataset`, or what `load` takes.
        recipe: a key of `RECIPES`, whose settings are the defaults.
        model: a name in `MODELS`, or your own net: float (batch, 3, imgsz, imgsz) in, logits
            (batch, classes) out. It is trained in place.
        name: of the folder; the next free number is appended if it is taken. Default: from data
            and recipe.
        runs: the folder of runs.
        skip_bad: go on without pictures that cannot be read.
        workers: threads that decode pictures; None: one a processor core.
        quiet: print nothing.
        **settings: any other setting of `TrainConfig`.

    Returns:
        The run, with the model of the best epoch on the pictures held out (of the last epoch
        where nothing is).

    Raises:
        UsageError: an unknown recipe, net or setting.
        DataError: data that cannot be trained on.
        StorageError: the run folder cannot be written, or memory ran out.
        NumbersError: the loss is no longer finite; the last good model is kept.
        KeyboardInterrupt: interrupted, after what there was to save has been saved.
    """
    tell: Callable[[Any], None] = (lambda text: None) if quiet else say
    if isinstance(model, str):
        settings["model"] = model
    config = recipe_config(recipe).replace(**settings)
    device = choose_device(config.device)
    parse_augment(config.augment)
    if not isinstance(data, Dataset):
        data = load(data, imgsz=config.imgsz, skip_bad=skip_bad, workers=workers)
    data = data.resized(config.imgsz or data.imgsz)
    train_set, val_set = hold_out(data, config)
    config = decide(config, settings, data, len(train_set), device)

    set_up(device, config.threads, config.seed)
    half = config.normalization == "half"
    normalization = HALF if half else measure_normalization(train_set.images)
    net = model if isinstance(model, nn.Module) else None
    if net is None:
        net = create_model(config.model, len(data.classes), data.imgsz)
    else:
        config = config.replace(model=type(net).__qualname__)
    if callable(whiten := getattr(net, "whiten", None)):
        whiten(normalization(torch.from_numpy(train_set.images[:5000])))
    check_logits(net, data, normalization)
    net.to(device).to(memory_format=memory_format(config.batch_size, data.imgsz, device))

    folder = claim_folder(Path(runs), name or f"{data.name}-{recipe}")
    keeper = Keeper(folder, net, config, data.classes, normalization)
    results: list[EpochResult] = []
    try:
        write_file(folder / "config.json", config.to_json().encode())
        write_json(folder / "env.json", describe(device))
        write_json(folder / "data.json", describe_data(data, train_set, val_set, skip_bad))
        tell(f"model will be trained on device: '{device}'")
        for result in fit(net, train_set, val_set, config, normalization, tell):
            results.append(result)
            keeper.keep(result)
            write_log(folder / "log.csv", results)
            if not result.running_losses:
                tell(epoch_line(result, config.epochs))
    except KeyboardInterrupt:
        keeper.save_interrupted(results)
        tell(f"interrupted; saved in {shown(folder)}")
        raise
    except NumbersError as error:
        raise NumbersError(f"{error}. {keeper.what_is_left()}") from None
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise StorageError(
                f"out of memory with batches of {config.batch_size} pictures of {data.imgsz} px; "
                "lower --batch-size or --imgsz"
            ) from None
        raise
    finally:
        keeper.leave_nothing_half_done()

    tell("Finished Training")
    if results[0].running_losses and not quiet:
        out.print(loss_table(results))
    tell(keeper.result_line())
    tell(f"run folder: {shown(folder)}")
    run = Run(folder)
    run.remember(model if isinstance(model, nn.Module) else None, val_set)
    return run


def hold_out(data: Dataset, config: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """The pictures to train on and those to validate on: the data's own part, or one cut out.

    Raises:
        DataError: fewer than two classes, or a class without pictures.
    """
    counts = data.counts()
    if len(data.classes) < 2:
        raise DataError(f"{shown(data.name)}: two classes are the least there is to tell apart")
    if not counts.all():
        empty = data.classes[int(np.argmin(counts))]
        raise DataError(f"{shown(data.name)}: the class '{shown(empty)}' has no pictures")
    if data.val is not None:
        return data, data.val
    kept, held_out = stratified_split(data.labels, config.val, config.seed)
    if not len(held_out):
        return data, None
    return data.subset(kept), data.subset(held_out)


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
    if has_matrix_hardware(device):
        config = config.replace(epochs=config.quick_epochs)
    config = fit_to_data(config, n, data.imgsz)
    if data.source == "digits":  # a mirrored 2 is no 2
        names = [name for name in config.augment.split("+") if name != MIRROR]
        config = config.replace(augment="+".join(names) or "none")
    config = config.replace(
        device=str(device),
        precision=choose_precision(config.precision, device),
        imgsz=data.imgsz,
        threads=config.threads or available_cores(),
    )
    wanted = {key: settings[key] for key in ("epochs", "batch_size", "augment") if key in settings}
    config = config.replace(**wanted)
    return config.replace(batch_size=min(config.batch_size, n))


def check_logits(net: nn.Module, data: Dataset, normalization: Normalization) -> None:
    """See that a net takes these pictures and tells as many classes apart as there are.

    Raises:
        UsageError: it gives another number of logits.
    """
    shape = tuple(predict_logits(net, data.images[:2], normalization).shape)
    if shape[1:] != (len(data.classes),):
        raise UsageError(
            f"the net gives logits of shape {shape} for two pictures; ({min(2, len(data))}, "
            f"{len(data.classes)}) is needed for {len(data.classes)} classes"
        )


def claim_folder(runs: Path, name: str) -> Path:
    """Make a new folder of this name, or of the name with the next free number.

    Raises:
        UsageError: a name that would lie elsewhere.
        StorageError: it cannot be made.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"--name must be a plain folder name, not '{shown(name)}'")
    try:
        runs.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = runs / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise StorageError(f"{shown(runs)}: {error.strerror or error}") from None
    raise AssertionError("counting has no end")


def describe_data(
    data: Dataset, train_set: Dataset, val_set: Dataset | None, skip_bad: bool
) -> dict[str, Any]:
    """What ``data.json`` holds."""
    return {
        "name": data.name,
        "source": data.source,
        "fingerprint": data.fingerprint,
        "classes": list(data.classes),
        "counts": dict(zip(data.classes, train_set.counts().tolist(), strict=True)),
        "imgsz": data.imgsz,
        "skipped_bad": skip_bad,
        "val": "none" if val_set is None else "cut" if data.val is None else "own",
        "splits": {"train": train_set.ids, "val": val_set.ids if val_set else []},
    }


class Keeper:
    """Saves the model of the best epoch so far into the run folder.

    Args:
        folder: the run folder.
        net: the net that is being trained.
        config: says by which metric.
        classes: class names.
        normalization: of the pictures.
    """

    def __init__(
        self,
        folder: Path,
        net: nn.Module,
        config: TrainConfig,
        classes: tuple[str, ...],
        normalization: Normalization,
    ):
        self.folder, self.net, self.config = folder, net, config
        self.classes, self.normalization = classes, normalization
        self.best: EpochResult | None = None

    def keep(self, result: EpochResult) -> None:
        """Save the model if this epoch is the best one, or if there is nothing to judge it by."""
        if self.best is None or self._score(result) >= self._score(self.best):
            self._save(result.epoch)
            self.best = result

    def save_interrupted(self, results: list[EpochResult]) -> None:
        """Save the model as it is, unless a better one is there already."""
        if self.best is None or self.best.val_confusion is None:
            self._save(len(results))

    def what_is_left(self) -> str:
        """What to tell a user whose training broke off."""
        if self.best is None:
            return "No epoch was finished, so no model is kept"
        return f"The model of epoch {self.best.epoch} is kept in {shown(self.folder)}"

    def leave_nothing_half_done(self) -> None:
        """Remove a run folder that has no model in it."""
        if not (self.folder / "model.json").exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def result_line(self) -> str:
        """The figure that the kept model was chosen by."""
        assert self.best is not None, "at least one epoch is over"
        if self.best.val_confusion is None:
            return "nothing was held out: 'eyebright test' will say how good it is"
        figure = metrics.accuracy(self.best.val_confusion)
        return (
            f"validation accuracy {figure.percent()} on {figure.n:,} pictures held out, "
            f"epoch {self.best.epoch}"
        )

    def _score(self, result: EpochResult) -> float:
        if result.val_confusion is None:
            return 0.0
        if self.config.metric == "balanced-accuracy":
            return metrics.balanced_accuracy(result.val_confusion)
        return metrics.accuracy(result.val_confusion).value or 0.0

    def _save(self, epoch: int) -> None:
        assert self.config.imgsz is not None, "decided before training"
        card = ModelCard(
            architecture=self.config.model,
            classes=self.classes,
            imgsz=self.config.imgsz,
            normalization=self.normalization,
            recipe=self.config.recipe,
            epoch=epoch,
        )
        save_model(self.folder, self.net.state_dict(), card)


def write_log(path: Path, results: list[EpochResult]) -> None:
    """Write ``log.csv``, a row an epoch."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["epoch", "step", "seconds", "train_loss", "val_accuracy", "val_balanced_accuracy", "val_n"]
    )
    for r in results:
        row: list[Any] = [r.epoch, r.step, f"{r.seconds:.3f}", f"{r.train_loss:.6f}"]
        if r.val_confusion is not None:
            figure = metrics.accuracy(r.val_confusion)
            balanced = metrics.balanced_accuracy(r.val_confusion)
            row += [f"{figure.value:.6f}", f"{balanced:.6f}", figure.n]
        writer.writerow(row + [""] * (7 - len(row)))
    write_file(path, text.getvalue().encode())


def epoch_line(result: EpochResult, epochs: int) -> str:
    """What is printed when an epoch is over."""
    line = f"epoch {result.epoch:2d}/{epochs}  train loss {result.train_loss:.3f}"
    if result.val_confusion is not None:
        line += f"  validation accuracy {metrics.accuracy(result.val_confusion).percent()}"
    return f"{line}  {result.seconds:.1f} s"


def loss_table(results: list[EpochResult]) -> Table:
    """The running losses once more, epoch by mini-batch."""
    batches = [batch for batch, _ in results[0].running_losses]
    table = Table(title="running loss")
    table.add_column("epoch", justify="right")
    for batch in batches:
        table.add_column(f"{batch:,}", justify="right")
    for result in results:
        table.add_row(str(result.epoch), *(f"{loss:.3f}" for _, loss in result.running_losses))
    return table
