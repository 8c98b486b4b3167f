"""Augmentation of whole batches: pure functions that keep the pictures' shape.

All take and give uint8 pictures (batch, height, width, 3) on any device. What is drawn comes from
the `Chance` or tensor given alone, so that a batch can be made again from its seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from eyebright.console import nearest
from eyebright.errors import UsageError


@dataclass(frozen=True)
class Chance:
    """What is drawn for each picture of a batch, by whoever has a part of it."""

    generator: Generator
    n: int
    """Pictures of the whole batch."""
    mine: Tensor | None = None
    """Which of them are at hand, int64; None: all."""

    def integers(self, end: int) -> Tensor:
        """Whole numbers below an end for the pictures at hand, (pictures, 1)."""
        device = self.generator.device
        drawn = torch.randint(0, end, (self.n, 1), generator=self.generator, device=device)
        return drawn if self.mine is None else drawn[self.mine]

    def numbers(self, rows: int) -> Tensor:
        """Numbers from 0 to 1 for the pictures at hand, (rows, pictures)."""
        shape = (rows, self.n)
        drawn = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return drawn if self.mine is None else drawn[:, self.mine]


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Pictures with left and right swapped where ``which``, bool (batch,), says so."""
    flipped, rows = images.flip(2), which[:, None]
    if images[:1].numel() % 8 or not images.is_contiguous():
        return torch.where(rows[..., None, None], flipped, images)
    # Eight bytes at a time, which takes a sixth of the time.
    a, b = (part.flatten(1).view(torch.int64) for part in (flipped, images))
    return torch.where(rows, a, b).view(images.dtype).view(images.shape)


def sides_of_epoch(n: int, epoch: int, generator: Generator) -> Tensor:
    """Which of n pictures are mirrored in an epoch: by chance, then in turns.

    A picture is seen from its other side in each epoch, so that two epochs show every picture from
    both sides (Jordan 2024, arXiv:2404.00498, "alternating flip").

    Args:
        n: pictures.
        epoch: counted from 1.
        generator: in the same state in every epoch of a run.

    Returns:
        bool (n,), on the generator's device.
    """
    first = torch.rand(n, generator=generator, device=generator.device) < 0.5
    return first if epoch % 2 else ~first


def shift(images: Tensor, chance: Chance, part: int = 16) -> Tensor:
    """Each picture moved by up to a part of its side, its edge reflected into the gap.

    Args:
        images: as all functions here take them.
        chance: of where to.
        part: 16 stands for a sixteenth.
    """
    n, height, width, channels = images.shape
    if not n:
        return images
    reaches = [min(max(1, size // part), size - 1) for size in (height, width)]
    up, left = (chance.integers(2 * reach + 1) for reach in reaches)
    # Widened by the reflected edges, a row of the result lies in memory in one piece: rows are
    # gathered whole, which is quicker than pixel by pixel.
    reach = reaches[1]
    edges = images[:, :, 1 : reach + 1].flip(2), images[:, :, width - reach - 1 : width - 1].flip(2)
    wider = torch.cat((edges[0], images, edges[1]), dim=2)
    row = torch.arange(height, device=images.device) + (up - reaches[0])
    row = (height - 1) - ((height - 1) - row.abs()).abs()
    row += height * torch.arange(n, device=images.device)[:, None]
    starts = row * wider.shape[2] + left
    pieces = wider.flatten().unfold(0, width * channels, channels)
    return pieces[starts].view(images.shape)


def cutout(images: Tensor, chance: Chance) -> Tensor:
    """A square of three eighths of the side greyed out in each picture (DeVries & Taylor 2017)."""
    _, height, width, _ = images.shape
    inside = []
    for size in (height, width):
        side = max(1, size * 3 // 8)
        start = chance.integers(size - side + 1)
        position = torch.arange(size, device=images.device)
        inside.append((position >= start) & (position < start + side))
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return images.masked_fill(hole[..., None], 128)


def crop(images: Tensor, chance: Chance) -> Tensor:
    """A random rectangle of each picture, made as large as the picture (Szegedy et al. 2015).

    It holds 35 to 100 % of the area and is up to a third wider or higher than the picture.
    """
    n, height, width, _ = images.shape
    if not n:
        return images
    least, ratio = 0.35, 4 / 3
    drawn = chance.numbers(4)
    side = (least + (1 - least) * drawn[0]).sqrt()
    stretch = ratio ** (drawn[1] - 0.5)
    sides = torch.stack((side * stretch, side / stretch)).clamp_max(1)  # across, down
    centres = (2 * drawn[2:] - 1) * (1 - sides)
    grid = torch.zeros(n, 2, 3, device=images.device)
    grid[:, [0, 1], [0, 1]] = sides.T
    grid[:, :, 2] = centres.T
    places = F.affine_grid(grid, [n, 3, height, width], align_corners=False)
    pictures = images.permute(0, 3, 1, 2).float()
    found = F.grid_sample(pictures, places, padding_mode="border", align_corners=False)
    return found.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


# name -> function. A new augmentation is a new line here.
AUGMENTATIONS: dict[str, Callable[[Tensor, Chance], Tensor]] = {
    "shift": shift,
    "shift8": partial(shift, part=8),
    "crop": crop,
    "cutout": cutout,
}
MIRROR = "mirror"  # stands apart: it takes turns between epochs, which a batch knows nothing of


def parse_augment(spec: str) -> tuple[bool, list[Callable[[Tensor, Chance], Tensor]]]:
    """What a setting such as ``mirror+shift`` asks for; nothing for ``none``.

    Returns:
        Whether to mirror, and the functions to call after it.

    Raises:
        UsageError: a name that is neither ``mirror`` nor in `AUGMENTATIONS`.
    """
    names = [] if spec == "none" else spec.split("+")
    for name in names:
        if name != MIRROR and name not in AUGMENTATIONS:
            known = (MIRROR, *AUGMENTATIONS)
            raise UsageError(
                f"no augmentation is called '{name}'{nearest(name, known)}; join any of "
                f"{', '.join(known)} with '+', or say none"
            )
    return MIRROR in names, [AUGMENTATIONS[name] for name in names if name != MIRROR]
