"""A look at the pictures before anything is trained: the lesson's grid, and a table of counts."""

import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eyebright.console import counted, shown
from eyebright.errors import DataError
from eyebright.images import Pixels

if TYPE_CHECKING:
    from eyebright.data.dataset import Dataset

CELL = 96  # px, side of a picture in the PNG
GAP = 8
CAPTION = 18
COLUMNS = 8


def lesson_labels(names: Sequence[str]) -> str:
    """Labels in the lesson's form: five columns a name at least, a blank between."""
    return " ".join(f"{shown(name):5s}" for name in names).rstrip()


def draw_grid(images: Pixels, captions: Sequence[str], columns: int = COLUMNS) -> Image.Image:
    """Pictures side by side, enlarged, each above its caption.

    Args:
        images: uint8 RGB (n, height, width, 3).
        captions: one a picture.
        columns: pictures a row.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    size = (columns * (CELL + GAP) + GAP, rows * (CELL + CAPTION + GAP) + GAP)
    grid = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(13)
    for i, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        left = GAP + (i % columns) * (CELL + GAP)
        top = GAP + (i // columns) * (CELL + CAPTION + GAP)
        # Small pictures are shown as their pixels are, large ones smoothly.
        small = max(pixels.shape[:2]) <= CELL
        resample = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        grid.paste(Image.fromarray(pixels).resize((CELL, CELL), resample), (left, top))
        text = shown(caption)
        while pen.textlength(text, font=font) > CELL and len(text) > 2:
            text = text[:-2] + "…"
        pen.text((left + CELL / 2, top + CELL + 2), text, fill="#222222", font=font, anchor="ma")
    return grid


def cut_grid(grid: Image.Image, columns: int) -> list[Image.Image]:
    """The pictures of a grid that `draw_grid` has drawn, row by row, as large as they are in it."""
    rows = (grid.height - GAP) // (CELL + CAPTION + GAP)
    corners = [
        (GAP + column * (CELL + GAP), GAP + row * (CELL + CAPTION + GAP))
        for row in range(rows)
        for column in range(columns)
    ]
    return [grid.crop((x, y, x + CELL, y + CELL)) for x, y in corners]


def terminal_grid(images: Pixels, captions: Sequence[str], width: int) -> Text:
    """Pictures drawn with coloured half blocks, for a colour terminal.

    Args:
        images: uint8 RGB (n, height, width, 3).
        captions: one a picture; they stand below each row in the lesson's form.
        width: of the terminal, in characters.
    """
    columns = min(len(images), COLUMNS if width >= 160 else 4)
    side = max(4, min(32, (width - columns) // columns) // 2 * 2)
    text = Text()
    for start in range(0, len(images), columns):
        row = [
            np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BOX))
            for p in images[start : start + columns]
        ]
        for y in range(0, side, 2):
            for pixels in row:
                for upper, lower in zip(pixels[y].tolist(), pixels[y + 1].tolist(), strict=True):
                    style = "rgb({},{},{}) on rgb({},{},{})".format(*upper, *lower)
                    text.append("▀", style=style)
                text.append(" ")
            text.append("\n")
        text.append(lesson_labels(captions[start : start + columns]) + "\n")
    return text


class Look:
    """A grid of random pictures of a data set with their labels, and its counts.

    Args:
        data: what to look at.
        count: how many pictures to draw at random.
        seed: of the choice.
    """

    def __init__(self, data: "Dataset", count: int = 16, seed: int = 0):
        if not len(data) or count < 1:
            raise DataError(f"{shown(data.name)}: no pictures to look at")
        self.data = data
        generator = np.random.default_rng(seed)
        chosen = generator.permutation(len(data))[:count]
        self.images = data.pixels[chosen]
        self.labels = [data.classes[label] for label in data.labels[chosen]]

    def image(self) -> Image.Image:
        """The grid as a picture."""
        return draw_grid(self.images, self.labels)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the grid as a PNG."""
        self.image().save(path, "PNG")

    def label_lines(self) -> list[str]:
        """The labels in the lesson's form, a line for each row of the grid."""
        rows = range(0, len(self.labels), COLUMNS)
        return [lesson_labels(self.labels[i : i + COLUMNS]) for i in rows]

    def table(self) -> Table:
        """Pictures and share of each class."""
        counts, n = self.data.counts(), len(self.data)
        title = f"{shown(self.data.name)}: {counted(n, 'training picture')}"
        table = Table(title=title, title_style="bold", min_width=len(title))
        table.add_column("class")
        table.add_column("pictures", justify="right")
        table.add_column("share", justify="right")
        for name, count in zip(self.data.classes, counts, strict=True):
            table.add_row(shown(name), f"{count:,}", f"{count / n:.1%}")
        return table

    def summary(self) -> list[str]:
        """Sizes, colour modes and imbalance, a line each."""
        widths, heights = self.data.sizes[:, 0], self.data.sizes[:, 1]
        smallest, largest = (widths.min(), heights.min()), (widths.max(), heights.max())
        sizes = "{}×{} px".format(*smallest)
        if smallest != largest:
            sizes = (
                f"{widths.min()} to {widths.max()} px wide, "
                f"{heights.min()} to {heights.max()} px high "
                f"(the middle one {np.median(widths):.0f}×{np.median(heights):.0f})"
            )
        modes = ", ".join(f"{mode} {n:,}" for mode, n in Counter(self.data.modes).most_common())
        counts = self.data.counts()
        ratio = f"{counts.max() / counts.min():.1f}" if counts.min() else "infinite"
        lines = [
            f"sizes: {sizes}; the net sees {self.data.imgsz}×{self.data.imgsz} px",
            f"modes: {modes}",
            f"imbalance ratio: {ratio} (largest class over smallest)",
        ]
        if self.data.val is not None:
            lines.append(f"validation part of its own: {counted(len(self.data.val), 'picture')}")
        return lines

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.image().save(buffer, "PNG")
        return buffer.getvalue()

    def __str__(self) -> str:
        console = Console(width=100, file=io.StringIO(), markup=False, highlight=False)
        console.print(self.table())
        assert isinstance(console.file, io.StringIO)
        return "\n".join([*self.label_lines(), console.file.getvalue().rstrip(), *self.summary()])
