"""Pictures inside a page, as many as its budget allows."""

import base64
import contextlib
import io
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eyebright.classifier import Classifier
from eyebright.console import progress_bar, shown
from eyebright.data import Dataset
from eyebright.errors import EyebrightError
from eyebright.evaluation import Evaluation
from eyebright.explain import explain
from eyebright.run import Run

BUDGET = 3_500_000  # bytes of pictures in a page
TAGS = 150  # bytes around a picture
SIDE = 96  # px of a picture in the page, if it is larger


@dataclass(frozen=True)
class Shown:
    """A picture in the page."""

    source: str
    caption: str
    alt: str
    heat: str = ""
    """The same with what spoke for the answer laid over it."""
    method: str = ""
    """Of the heat, its name."""


class Gallery:
    """Pictures for the page, until its budget is spent.

    Args:
        evaluation: what was said of them.
        data: the same pictures in the same order, as their fingerprint has shown.
    """

    def __init__(self, evaluation: Evaluation, data: Dataset):
        self.evaluation, self.images, self.left = evaluation, data.pixels, BUDGET
        self._made: dict[int, Shown] = {}

    def pictures(self, which: list[int]) -> list[Shown]:
        """The pictures at these positions of the evaluation; fewer if the budget is spent."""
        return [picture for i in which if (picture := self._picture(int(i)))]

    def explained(self, which: list[int], classifier: Classifier) -> list[Shown]:
        """As `pictures`, with what spoke for the answer that was given."""
        there = [(i, one) for i in which if (one := self._picture(i))]
        found = []
        with progress_bar("heat maps for the report", len(there)) as bar:
            for i, one in there:
                found.append(self._with_heat(i, one, classifier))
                bar.advance()
        return found

    def _with_heat(self, i: int, picture: Shown, classifier: Classifier) -> Shown:
        answer = self.evaluation.classes[self.evaluation.predictions[i]]
        with contextlib.suppress(EyebrightError):  # the page is as good without
            found = explain(classifier, self.images[i], answer, check=False)
            heat = encode(np.asarray(found.overlay(2 * SIDE)))
            self.left -= len(heat) + TAGS
            return replace(picture, heat=heat, method=found.method)
        return picture

    def _picture(self, i: int) -> Shown | None:
        if i not in self._made:
            if self.left <= 0:
                return None
            e = self.evaluation
            source = encode(self.images[i])
            truth, guess = shown(e.classes[e.labels[i]]), shown(e.classes[e.predictions[i]])
            said = f"{guess} {100 * e.confidences[i]:.1f} %"
            caption = said if truth == guess else f"{said} ({truth})"
            self._made[i] = Shown(source, f"{caption} · {shown(str(e.ids[i]))}", truth)
        made = self._made[i]  # whenever it stands in the page again, it is all there again
        self.left -= len(made.source) + 2 * len(made.caption.encode()) + TAGS
        return made


def model_to_explain(run: Run) -> Classifier | None:
    """The run's model, where captum is there and the model is no net of the user's own."""
    if find_spec("captum") is None:
        return None
    with contextlib.suppress(EyebrightError):
        return run.classifier()
    return None


def encode(pixels: NDArray[np.uint8]) -> str:
    """A picture as a data URL: small ones without loss, larger ones as JPEG of `SIDE` px."""
    image = Image.fromarray(pixels)
    kind, settings = "png", {}
    if max(image.size) > SIDE:
        image.thumbnail((SIDE * 2, SIDE * 2))
    if max(image.size) > 40:
        kind, settings = "jpeg", {"quality": 85}
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
