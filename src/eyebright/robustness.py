"""`test --shift`: how a classifier bears pictures that are darker, noisier, blurred or turned.

The changes are torchvision's, at five strengths each, after Hendrycks & Dietterich 2019
("Benchmarking neural network robustness to common corruptions and perturbations").
"""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table
from torch import Tensor

from eyebright import metrics
from eyebright.classifier import Classifier
from eyebright.console import progress_bar
from eyebright.data import Dataset
from eyebright.data.look import draw_grid
from eyebright.files import write_file, write_json
from eyebright.images import Pixels, decode
from eyebright.metrics import Figure

MOST_PICTURES = 2000  # a figure of so many is sure to about two points
THIRDS = ("lowest third", "middle third", "highest third")


def brightness(images: Tensor, strength: float) -> Tensor:
    """Every other picture brighter, the others darker, by a share of the brightness."""
    from torchvision.transforms.v2 import functional

    return _by_turns(
        images, strength, lambda x, s: functional.adjust_brightness(x, brightness_factor=1 + s)
    )


def contrast(images: Tensor, strength: float) -> Tensor:
    """A share of the contrast taken away."""
    from torchvision.transforms.v2 import functional

    changed: Tensor = functional.adjust_contrast(images, contrast_factor=1 - strength)
    return changed


def noise(images: Tensor, strength: float) -> Tensor:
    """Normal noise of this deviation, as a share of white."""
    generator = torch.Generator().manual_seed(0)
    noisy = images + 255 * strength * torch.randn(images.shape, generator=generator)
    return noisy.round_().clamp_(0, 255).to(torch.uint8)


def blur(images: Tensor, strength: float) -> Tensor:
    """Blurred by a Gaussian whose deviation is this share of the side."""
    from torchvision.transforms.v2 import functional

    sigma = strength * images.shape[-1]
    size = min(2 * round(3 * sigma) + 1, (images.shape[-1] - 1) // 2 * 2 + 1)
    changed: Tensor = functional.gaussian_blur(images, [max(3, size)] * 2, [sigma] * 2)
    return changed


def jpeg(images: Tensor, strength: float) -> Tensor:
    """Stored as JPEG of this quality, from 1 to 100."""
    changed = torch.empty_like(images)
    for i, pixels in enumerate(images.permute(0, 2, 3, 1).numpy()):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "jpeg", quality=int(strength))
        changed[i] = torch.from_numpy(decode(file.getvalue()).copy()).permute(2, 0, 1)
    return changed


def rotation(images: Tensor, strength: float) -> Tensor:
    """Turned by so many degrees, every other picture to the other side; grey comes in."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    way = InterpolationMode.BILINEAR
    return _by_turns(images, strength, lambda x, s: functional.rotate(x, s, way, fill=[128.0] * 3))


def shift(images: Tensor, strength: float) -> Tensor:
    """Moved by this share of the side, to the right or to the left; grey comes in."""
    moved = torch.full_like(images, 128)
    pixels = max(1, round(strength * images.shape[-1]))
    moved[::2, :, :, pixels:] = images[::2, :, :, :-pixels]
    moved[1::2, :, :, :-pixels] = images[1::2, :, :, pixels:]
    return moved


def _by_turns(images: Tensor, strength: float, change: Callable[[Tensor, float], Tensor]) -> Tensor:
    changed = torch.empty_like(images)
    changed[::2], changed[1::2] = change(images[::2], strength), change(images[1::2], -strength)
    return changed


# name -> function of uint8 (n, 3, height, width) and a strength, five strengths, their unit
SHIFTS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...], str]] = {
    "brightness": (brightness, (0.1, 0.2, 0.35, 0.5, 0.7), "± share"),
    "contrast": (contrast, (0.15, 0.3, 0.5, 0.7, 0.85), "share lost"),
    "noise": (noise, (0.02, 0.04, 0.08, 0.12, 0.18), "deviation, share of white"),
    "blur": (blur, (0.01, 0.02, 0.03, 0.045, 0.06), "deviation, share of the side"),
    "jpeg": (jpeg, (80, 50, 30, 15, 8), "quality"),
    "rotation": (rotation, (3, 7, 12, 20, 30), "± degrees"),
    "shift": (shift, (0.03, 0.06, 0.1, 0.15, 0.2), "share of the side"),
}


@dataclass(frozen=True)
class Robustness:
    """Accuracy on changed pictures, and on parts of the unchanged ones."""

    clean: Figure
    """Of the same pictures unchanged."""
    shifted: dict[str, tuple[Figure, ...]]
    """Kind of change to accuracies, from the weakest change to the strongest."""
    slices: dict[str, tuple[Figure, ...]]
    """``brightness`` and, where they differ, ``size``: accuracies of the `THIRDS`."""
    examples: dict[str, Pixels] = field(compare=False)
    """Kind of change to one picture unchanged and at each strength, uint8 (6, side, side, 3)."""
    fingerprint: str
    """Of the data that the pictures are from."""
    tta: str
    """Test-time averaging that the figures include."""

    def table(self) -> Table:
        """Accuracy in percent, a row a kind of change."""
        widest = max(
            max((f.high or 0.0) - (f.value or 0.0), (f.value or 0.0) - (f.low or 0.0))
            for figures in self.shifted.values()
            for f in figures
        )
        caption = (
            f"accuracy, %, on {self.clean.n:,} of the test pictures at strengths 1 to 5; 95 % "
            f"intervals reach {100 * widest:.1f} points up or down at most; unchanged: "
            f"{self.clean.percent()}"
        )
        averaged = "; each picture and its mirror image averaged" if self.tta == "mirror" else ""
        table = Table(caption=caption + averaged)
        table.add_column("change", no_wrap=True)
        for strength in range(1, 6):
            table.add_column(f"{strength}", justify="right")
        for name, figures in self.shifted.items():
            table.add_row(name, *(f"{100 * (figure.value or 0.0):.1f}" for figure in figures))
        return table

    def image(self) -> Image.Image:
        """One picture after every change, each above the accuracy on pictures changed like it."""
        captions = []
        for name, figures in self.shifted.items():
            captions += [name, *(f"{100 * (figure.value or 0.0):.1f} %" for figure in figures)]
        return draw_grid(np.concatenate(list(self.examples.values())), captions, columns=6)

    def lines(self) -> list[str]:
        """Accuracy of the parts."""
        return [
            f"by {name}: "
            + ", ".join(
                f"{third} {figure.percent()} of {figure.n:,}"
                for third, figure in zip(THIRDS, figures, strict=True)
            )
            for name, figures in self.slices.items()
        ]

    def write(self, folder: Path) -> None:
        """Write ``shift.json`` and ``shift.png`` into a run folder."""
        record: dict[str, Any] = {"fingerprint": self.fingerprint, "tta": self.tta}
        record["clean"] = asdict(self.clean)
        record["shifted"] = {
            name: {
                "unit": SHIFTS[name][2],
                "strengths": [
                    {"strength": strength, "accuracy": asdict(figure)}
                    for strength, figure in zip(SHIFTS[name][1], figures, strict=True)
                ],
            }
            for name, figures in self.shifted.items()
        }
        record["slices"] = {
            name: {third: asdict(f) for third, f in zip(THIRDS, figures, strict=True)}
            for name, figures in self.slices.items()
        }
        write_json(folder / "shift.json", record)
        picture = io.BytesIO()
        self.image().save(picture, "PNG")
        write_file(folder / "shift.png", picture.getvalue())


def measure_robustness(
    classifier: Classifier, data: Dataset, seed: int = 0, interval: str = "wilson"
) -> Robustness:
    """Accuracy of a classifier on changed pictures.

    Args:
        classifier: any.
        data: with the classifier's classes, of its size; at most `MOST_PICTURES` are taken.
        seed: of which ones.
        interval: of proportions: ``wilson`` or ``exact``.
    """
    order = np.random.default_rng(seed).permutation(len(data))[:MOST_PICTURES]
    few = data.subset(order)
    pictures = torch.from_numpy(few.images).permute(0, 3, 1, 2)

    def accuracy(images: Tensor) -> Figure:
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        right = classifier.predict_proba(pixels).argmax(1) == few.labels
        return metrics.proportion(int(right.sum()), len(few), interval)

    shifted, examples = {}, {}
    with progress_bar("changing pictures", 5 * len(SHIFTS)) as bar:
        for name, (change, strengths, _) in SHIFTS.items():
            figures, seen = [], [few.images[0]]
            for strength in strengths:
                changed = change(pictures, strength)
                figures.append(accuracy(changed))
                seen.append(changed[0].permute(1, 2, 0).numpy())
                bar.advance()
            shifted[name], examples[name] = tuple(figures), np.stack(seen)
    right = classifier.predict_proba(data.pixels).argmax(1) == data.labels
    brightness = [part.mean((1, 2, 3)) for part in data.pixels.parts()]
    values = {"brightness": np.concatenate(brightness), "size": np.asarray(data.sizes).min(1)}
    parts = {name: thirds(of_each, right, interval) for name, of_each in values.items()}
    slices = {name: figures for name, figures in parts.items() if figures}
    tta = classifier.card.tta
    return Robustness(accuracy(pictures), shifted, slices, examples, data.fingerprint, tta)


def thirds(
    values: NDArray[Any], right: NDArray[np.bool_], interval: str = "wilson"
) -> tuple[Figure, ...]:
    """Accuracy of the pictures with the lowest, the middle and the highest values.

    Like values stay together: pictures stand sorted by class, so a cut between them would compare
    classes. Nothing where no three parts of a tenth or more can be had.
    """
    distinct, counts = np.unique(values, return_counts=True)
    ends = np.cumsum(counts)
    first, second = (np.abs(ends - share * len(values)).argmin() for share in (1 / 3, 2 / 3))
    low, high = distinct[first], distinct[second]
    parts = values <= low, (low < values) & (values <= high), values > high
    if min(int(part.sum()) for part in parts) < max(1, len(values) / 10):
        return ()
    return tuple(
        metrics.proportion(int(right[part].sum()), int(part.sum()), interval) for part in parts
    )
