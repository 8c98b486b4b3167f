"""`Classifier`: pictures in, probabilities out. Everything that follows training uses it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eyebright.answers import Picture as Picture
from eyebright.answers import Prediction as Prediction
from eyebright.answers import Predictor, ready_pixels
from eyebright.batches import predict_logits
from eyebright.calibration import softmax
from eyebright.checkpoint import ModelCard, check_run_folder, load_model
from eyebright.console import nearest, progress_bar, shown
from eyebright.data.views import View
from eyebright.errors import UsageError
from eyebright.features import compute_features
from eyebright.images import Pixels
from eyebright.runtime import choose_device, exact_fp32, explained

PART = 256  # picture files that are in memory at once
FEWER = "name fewer pictures, or another --device"


class Classifier(Predictor):
    """A trained net with everything it takes to use it.

    Args:
        model: the net.
        card: its classes, picture size and normalisation.
        device: where to run; ``auto`` takes a GPU if there is one.
    """

    def __init__(self, model: nn.Module, card: ModelCard, device: str = "auto"):
        exact_fp32()
        self.model = model.to(choose_device(device)).eval()
        self.card: ModelCard = card

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str],
        model: nn.Module | None = None,
        device: str = "auto",
    ) -> "Classifier":
        """The model of a run.

        Args:
            run: a run folder.
            model: the net to load the weights into, where it was your own.
            device: as above.

        Raises:
            ModelError: no such folder, no run, or damaged files.
        """
        folder = Path(run)
        check_run_folder(folder)
        return cls(*load_model(folder, model), device)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.model.parameters(), torch.empty(0)).device

    @property
    def leaves_cores_free(self) -> bool:
        """Whether pictures can be decoded meanwhile: it runs on a GPU."""
        return self.device.type == "cuda"

    def column(self, label: str) -> int:
        """Where a class stands among the columns of `predict_proba`.

        Raises:
            UsageError: the model has no such class.
        """
        if label not in self.classes:
            guess = nearest(label, self.classes)
            raise UsageError(f"the model has no class '{shown(label)}'{guess}")
        return self.classes.index(label)

    def logits(self, pictures: Sequence[Picture] | Pixels | View) -> NDArray[np.float32]:
        """What the net's last layer says of each picture, before any temperature or softmax.

        Takes and raises what `predict_proba` does.

        Returns:
            float32 (n, classes); where predictions are averaged with mirror images, so are these.
        """
        images = ready_pixels(pictures, self.card.imgsz)
        with explained(lambda: FEWER):
            logits = predict_logits(self.model, images, self.card.normalization, self.card.tta)
        found: NDArray[np.float32] = logits.numpy()
        return found

    def predict_proba(self, pictures: Sequence[Picture] | Pixels | View) -> NDArray[np.float64]:
        """Probability of each class for each picture, from logits in fp32.

        They are calibrated if the card has a temperature.

        Args:
            pictures: paths, encoded bytes or uint8 RGB pixels, mixed as you like; or one uint8
                array (n, height, width, 3), or `View` of one.

        Returns:
            float64 (n, classes); each row sums to 1.

        Raises:
            DataError: a picture that cannot be read; the message names it.
        """
        return softmax(self.logits(pictures), self.card.temperature or 1.0)

    def embed(self, pictures: Sequence[Picture] | Pixels | View) -> NDArray[np.float32]:
        """What the net's last layer sees of each picture, to search or to cluster by.

        Takes and raises what `predict_proba` does.

        Returns:
            float32 (n, width), from which the last layer makes the logits; where predictions are
            averaged with mirror images, so are these.

        Raises:
            UsageError: the net has no linear last layer.
        """
        images = ready_pixels(pictures, self.card.imgsz)
        with explained(lambda: FEWER):
            return compute_features(self.model, images, self.card.normalization, self.card.tta)


def in_parts(title: str, paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    """Picture files, a few at a time, so that few are in memory at once; with a progress bar."""
    with progress_bar(title, len(paths)) as bar:
        for start in range(0, len(paths), PART):
            part = paths[start : start + PART]
            yield part
            bar.advance(len(part))
