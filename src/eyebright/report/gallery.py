"""Pictures inside a page, as many as its budget allows."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eyebright.console import shown
from eyebright.data import Dataset
from eyebright.evaluation import Evaluation

BUDGET = 3_500_000  # bytes of pictures in a page
TAGS = 150  # bytes around a picture
SIDE = 96  # px of a picture in the page, if it is larger


@dataclass(frozen=True)
class Shown:
    """A picture in the page."""

    source: str
    caption: str
    alt: str


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
