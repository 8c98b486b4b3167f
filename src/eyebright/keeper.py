"""What training writes into the run folder: its log, and the best model so far."""

import contextlib
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eyebright import distributed, metrics
from eyebright.batches import Normalization
from eyebright.calibration import fit_temperature, softmax
from eyebright.checkpoint import ModelCard, copy_tensors, load_card, save_card, save_model
from eyebright.config import TrainConfig
from eyebright.console import counted, shown
from eyebright.data import Dataset
from eyebright.epochs import log_row
from eyebright.errors import ModelError, NumbersError, StorageError
from eyebright.evaluation import Evaluation
from eyebright.files import append_line, write_file
from eyebright.finite import check_weights
from eyebright.losses import EVEN
from eyebright.metrics import Floats
from eyebright.resume import Checkpoint, collect_generators, collect_state
from eyebright.saver import list_checkpoints
from eyebright.tracking import Tracker
from eyebright.training import EpochResult, Position

BEST = "kept."  # before the names of the kept model's weights in a checkpoint
BY_CHANCE = 0.05  # probability that an epoch which is no better than a probe takes its place


class Keeper:
    """Saves the model of the best epoch so far into the run folder.

    Args:
        folder: the run folder.
        net: the net that is being trained.
        config: says by which metric.
        classes: class names.
        normalization: of the pictures.
        val_set: the pictures held out; None: there are none.
        tracker: is told what ``log.csv`` gets; None: nobody is.
    """

    def __init__(
        self,
        folder: Path,
        net: nn.Module,
        config: TrainConfig,
        classes: tuple[str, ...],
        normalization: Normalization,
        val_set: Dataset | None = None,
        tracker: Tracker | None = None,
    ):
        self.folder, self.net, self.config = folder, net, config
        self.classes, self.normalization = classes, normalization
        self.val_set, self.tracker = val_set, tracker
        self.best: EpochResult | None = None
        self.best_weights: dict[str, Tensor] | None = None
        self.floor: EpochResult | None = None  # a linear probe
        self.rows: list[dict[str, str]] = []  # of the log
        self.saved: int | None = None  # the epoch whose model is on the disk
        self.resumed = False

    def keep(self, result: EpochResult) -> None:
        """Save the model if this epoch is the best one, or if there is nothing to judge it by.

        Where anything is held out, a linear probe (epoch 0) gives way only to what `surely_beats`
        it: one more of a few pictures right is luck.
        """
        best = self.best
        better = best is None or self.score(result) >= self.score(best)
        if self.floor is not None:
            better = better and self.surely_beats(result, self.floor)
        elif not result.epoch and result.val_logits is not None:
            self.floor = result
        if better:
            self._save(result.epoch)
            self.best = result

    def checkpoint(
        self,
        optimizers: list[torch.optim.Optimizer],
        position: Position,
        results: list[EpochResult],
        elapsed: float,
    ) -> Checkpoint:
        """All that the training needs to go on from where it is.

        Args:
            optimizers: of the net.
            position: where it stands.
            results: of the epochs that are over.
            elapsed: seconds of the whole command so far.
        """
        return Checkpoint(
            position,
            results,
            self.rows,
            self.best,
            self.floor,
            elapsed,
            self.normalization,
            collect_state(self.net, optimizers) | self._best_tensors(),
            asdict(self.config),
            collect_generators(),
        )

    def _best_tensors(self) -> dict[str, Tensor]:
        return {f"{BEST}{name}": w for name, w in (self.best_weights or {}).items()}

    def take_up(self, checkpoint: Checkpoint | None, resumed: bool) -> None:
        """Go on where a training was interrupted: what it wrote after its checkpoint is undone.

        Args:
            checkpoint: that the net was given; None: there was none yet.
            resumed: whether it is no new run.

        Raises:
            ModelError: it was taken of other classes, or other pictures held out.
            StorageError: the disk refuses.
        """
        self.resumed = resumed
        if checkpoint is not None:
            kept = checkpoint.under(BEST)
            held_out = 0 if self.val_set is None else len(self.val_set)
            try:
                checkpoint.check(self.net, kept, held_out, len(self.classes))
            except ModelError as error:
                raise ModelError(f"{shown(self.folder)}: {error}") from None
        self.rows = checkpoint.rows if checkpoint else []
        log = self.folder / "log.csv"
        if self.rows:
            lines = [",".join(row) for row in (self.rows[0], *(r.values() for r in self.rows))]
            write_file(log, ("\n".join(lines) + "\n").encode())
        else:
            try:
                log.unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"{shown(log)}: {error.strerror or error}") from None
        if checkpoint is None:
            return
        self.best, self.floor = checkpoint.best, checkpoint.floor
        if self.best is not None:
            self._save(self.best.epoch, kept)  # the one on the disk may be a later one

    def log(self, result: EpochResult) -> None:
        """Add an epoch to ``log.csv``, and tell the tracker, if there is one."""
        row = log_row(result)
        if not self.rows:
            append_line(self.folder / "log.csv", ",".join(row))
        append_line(self.folder / "log.csv", ",".join(row.values()))
        self.rows.append(row)
        if self.tracker:
            self.tracker.add(row)

    def finish(self, leaks: int | None = None) -> Evaluation | None:
        """Calibrate the model that was kept, and write down what it says of the pictures held out.

        Writes its temperature into ``model.json``, and ``val.json`` and ``predictions-val.csv``.

        Args:
            leaks: how many of them it was also trained on; None: unknown.

        Returns:
            What it says; None where nothing was held out.
        """
        val_set = self.val_set
        if val_set is None or self.best is None or self.best.val_logits is None:
            return None
        logits, labels = self.best.val_logits.numpy(), val_set.labels
        seen = [(logits, labels)]
        if self.best.spare is not None:
            seen.append((self.best.spare[0].numpy(), self.best.spare[1]))
        temperature = fit_temperature(
            np.concatenate([one for one, _ in seen]),
            np.concatenate([one for _, one in seen]),
            self.config.balance in EVEN,
        )
        card = replace(load_card(self.folder), temperature=temperature)
        save_card(self.folder, card)
        evaluation = Evaluation(
            split="val",
            classes=self.classes,
            ids=val_set.ids,
            labels=val_set.labels,
            probabilities=softmax(logits, temperature),
            fingerprint=val_set.fingerprint,
            data=val_set.name,
            tta=self.config.tta,
            temperature=temperature,
            leaks=leaks,
            weights_sha256=card.weights_sha256,
        )
        evaluation.write(self.folder)
        return evaluation

    def save_interrupted(self, results: list[EpochResult]) -> None:
        """Save the model as it is, unless a better one is there already or it is broken."""
        if self.best is None or self.best.val_confusion is None:
            with contextlib.suppress(NumbersError):
                check_weights(self.net.state_dict(), 0, 0)
                self._save(results[-1].epoch if results else 0)

    def what_is_left(self) -> str:
        """What to tell a user whose training broke off."""
        if self.saved is None:
            return "no epoch was finished, so no model is kept"
        if self.best is not None and self.saved == 0:
            return f"the linear probe is kept in {shown(self.folder)}{self._go_on()}"
        if self.saved == 0:
            what = "a half-trained model, before its first epoch,"
        else:
            what = f"the model of epoch {self.saved}"
        return f"{what} is kept in {shown(self.folder)}{self._go_on()}"

    def _go_on(self) -> str:
        again = f"eyebright train --resume {shlex.quote(shown(self.folder))}"
        if (ranks := distributed.size()) > 1:
            return f"; go on with {ranks} ranks again: torchrun ... -m {again}"
        return f"; go on: {again}"

    def leave_nothing_half_done(self) -> None:
        """Remove a run folder that has no model in it, and nothing to go on from.

        One that was there before stays as it is.
        """
        if self.resumed:
            return
        begun = any(step for step, _ in list_checkpoints(self.folder))
        if not (self.folder / "model.json").exists() and not begun:
            shutil.rmtree(self.folder, ignore_errors=True)

    def result_line(self) -> str:
        """The figure that the kept model was chosen by."""
        if self.best is None:
            return "no epoch was judged by the pictures that are held out now"
        if self.best.val_confusion is None:
            return "nothing was held out: 'eyebright test' will say how good it is"
        figure = metrics.accuracy(self.best.val_confusion)
        line = f"validation accuracy {figure.percent()} on {counted(figure.n, 'picture')} held out"
        if self.config.metric == "balanced-accuracy":
            balanced = metrics.balanced_accuracy_figure(self.best.val_confusion)
            line += f", balanced accuracy {balanced.percent()}"
        if self.config.tta == "mirror":
            line += ", averaged with mirror images"
        return f"{line}, {f'epoch {self.best.epoch}' if self.best.epoch else 'linear probe'}"

    def reaches_target(self, result: EpochResult) -> bool:
        """Whether it was kept and is as good as was asked for; never where nothing was."""
        target, kept = self.config.target, self.best is not None and self.best.epoch == result.epoch
        return target is not None and kept and self.score(result) >= target

    def target_line(self, last: EpochResult, target: float, seconds: float) -> str:
        """Whether a target was reached, and when: training alone, and the whole command so far."""
        assert self.best is not None, "at least one epoch is over"
        score = self.score(self.best)
        return (
            f"target {100 * target:.1f} % {self.config.metric.replace('-', ' ')} "
            f"{'reached' if score >= target else 'not reached'}: "
            f"{100 * score:.1f} % on the pictures held out, after {last.seconds:.1f} s of "
            f"training, {seconds:.1f} s in all"
        )

    def score(self, result: EpochResult) -> float:
        """The figure on the pictures held out that epochs are compared by; 0 without any."""
        if result.val_confusion is None:
            return 0.0
        if self.config.metric == "balanced-accuracy":
            return metrics.balanced_accuracy(result.val_confusion)
        return metrics.accuracy(result.val_confusion).value or 0.0

    def surely_beats(self, result: EpochResult, other: EpochResult) -> bool:
        """Whether its figure is no lower, and its log loss lower by more than chance.

        By a one-sided paired t-test over the pictures held out.
        """
        from scipy.stats import ttest_rel

        if self.score(result) < self.score(other):
            return False
        p = ttest_rel(self.losses(result), self.losses(other), alternative="less").pvalue
        return bool(p <= BY_CHANCE)

    def losses(self, result: EpochResult) -> Floats:
        """Log loss of each picture held out (n,), at the temperature that makes the mean least.

        For a net that answers as if classes were equally frequent, each class counts the same.
        """
        assert result.val_logits is not None, "some are held out"
        assert self.val_set is not None, "some are held out"
        logits, labels = result.val_logits.numpy(), self.val_set.labels
        even = self.config.balance in EVEN
        losses = metrics.log_losses(softmax(logits, fit_temperature(logits, labels, even)), labels)
        if not even:
            return losses
        weights = 1 / np.bincount(labels)[labels]
        losses *= weights / weights.mean()
        return losses

    def _save(self, epoch: int, weights: Mapping[str, Tensor] | None = None) -> None:
        assert self.config.imgsz is not None, "decided before training"
        card = ModelCard(
            architecture=self.config.model,
            classes=self.classes,
            imgsz=self.config.imgsz,
            normalization=self.normalization,
            recipe=self.config.recipe,
            epoch=epoch,
            tta=self.config.tta,
        )
        weights = self.net.state_dict() if weights is None else weights
        self.best_weights = copy_tensors(weights)
        save_model(self.folder, self.best_weights, card)
        self.saved = epoch
