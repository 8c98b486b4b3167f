"""A net and all that surrounds it as one `nn.Module`, for formats that hold nothing but a graph.

`Whole` takes pixels and gives probabilities: what `Classifier` does around its net, and where it
is asked for what `images.fit` does before it, pixel for pixel.
"""

import functools

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from eyebright.batches import Normalization
from eyebright.images import LONGEST

BITS = 22  # of Pillow's fixed-point weights: 32 bits less eight of a pixel and two to spare


class Whole(nn.Module):
    """Uint8 pictures in, probabilities out.

    Args:
        net: takes normalised pictures, gives logits.
        normalization: of the net.
        temperature: that logits are divided by; 1 where the model is uncalibrated.
        tta: ``mirror`` averages the logits of a picture and its mirror image.
        resize_to: first resize one picture of any size to this side; None: a batch of that size.
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self,
        net: nn.Module,
        normalization: Normalization,
        temperature: float = 1.0,
        tta: str = "none",
        resize_to: int | None = None,
    ):
        super().__init__()
        self.net, self.temperature, self.tta = net, temperature, tta
        self.fit = None if resize_to is None else Fit(resize_to)
        offset, scale = (
            255 * torch.tensor(normalization.mean),
            255 * torch.tensor(normalization.std),
        )
        self.register_buffer("offset", offset[:, None, None])
        self.register_buffer("scale", scale.reciprocal()[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities, float32 (n, classes).

        Args:
            images: uint8 (n, imgsz, imgsz, 3); or (height, width, 3), where it resizes.
        """
        if self.fit is not None:
            images = self.fit(images)
        pictures = (images.permute(0, 3, 1, 2).float() - self.offset) * self.scale
        logits = self.net(pictures).float()
        if self.tta == "mirror":
            logits = (logits + self.net(pictures.flip(3)).float()) / 2
        probabilities: Tensor = (logits / self.temperature).softmax(1)
        return probabilities


class Fit(nn.Module):
    """`images.fit` as products with matrices, equal to Pillow's resize in every pixel.

    Pillow resizes one side after the other, each with antialiased triangles in fixed point
    (src/libImaging/Resample.c). Double precision holds its sums exactly. There is no branch, so
    that it can be exported: a picture that Pillow begins with its height is turned by its indices.

    Args:
        side: of the square, in pixels.
    """

    def __init__(self, side: int):
        super().__init__()
        self.side, self.tall_first = side, pillow_begins_with_tall_sides()

    def forward(self, image: Tensor) -> Tensor:
        """The centre square, uint8 (1, side, side, 3), of a picture uint8 (height, width, 3)."""
        height, width = image.shape[:2]
        turn = 0
        if self.tall_first:  # 1 where the height is more than twice the width, and both shrink
            turn = _is_positive(height - 2 * width) * _is_positive(width - self.side)
        rows, columns = height + turn * (width - height), width + turn * (height - width)
        turned = _number(turn) > 0
        step = _number(width)
        where = torch.arange(rows)[:, None] * torch.where(turned, 1, step)
        where = where + torch.arange(columns) * torch.where(turned, step, 1)
        pixels = torch.ops.aten.embedding(image.reshape(-1, 3), where.int())
        short = torch.minimum(_number(height), _number(width))
        across, down = self.weights(columns, short), self.weights(rows, short)
        half = _rounded(pixels.permute(0, 2, 1).double() @ across.T)  # (rows, 3, side)
        square = _rounded(down @ half.flatten(1)).view(self.side, 3, self.side)
        square = square.permute(0, 2, 1)
        return torch.where(turned, square.transpose(0, 1), square)[None].to(torch.uint8)

    def weights(self, size: int, short: Tensor) -> Tensor:
        """What each pixel of a side counts for each of the square's, times 2²²: (side, size)."""
        used = torch.minimum(_number(size), LONGEST * short)
        left = (_number(size) - used) // 2
        resized = self.side * used // short
        extra = resized - self.side  # half of it is cut, as Python's `round` has it
        first = extra // 2 + (extra % 2) * (extra // 2 % 2)
        scale = used.double() / resized.double()
        reach = scale.clamp(min=1.0)
        centre = ((first + torch.arange(self.side)).double() + 0.5) * scale
        centre = centre[:, None]
        start = (centre - reach + 0.5).floor().clamp(min=0)
        end = torch.minimum((centre + reach + 0.5).floor(), used.double())
        at = (torch.arange(size) - left).double()
        weight = (1 - ((at - centre + 0.5) * (1 / reach)).abs()).clamp(min=0)
        weight = weight * ((at >= start) & (at < end))
        whole: Tensor = (weight / weight.sum(1, keepdim=True) * 2**BITS + 0.5).floor()
        return whole


def _is_positive(size: int) -> int:
    """1 or 0, of a size that is known only when the graph runs."""
    found: int = torch.sym_max(0, torch.sym_min(1, size))  # type: ignore[assignment]
    return found


def _number(size: int) -> Tensor:
    return torch.full((), size, dtype=torch.int64)


def _rounded(sums: Tensor) -> Tensor:
    values: Tensor = ((sums + 2 ** (BITS - 1)) / 2**BITS).floor().clamp(0, 255)
    return values


@functools.cache
def pillow_begins_with_tall_sides() -> bool:
    """Whether this Pillow resizes the height first where it is more than twice the width.

    It does since version 13 (python-pillow/Pillow#9549); which side comes first decides how values
    between two are rounded.
    """
    noise = np.random.default_rng(0).integers(0, 256, (60, 20, 3), dtype=np.uint8)
    image, how = Image.fromarray(noise), Image.Resampling.BILINEAR
    at_once = image.resize((8, 24), how)
    return at_once.tobytes() == image.resize((20, 24), how).resize((8, 24), how).tobytes()
