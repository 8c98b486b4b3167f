"""Augmentation of whole batches: pure functions of (pictures, generator).

All take and give uint8 pictures (batch, height, width, 3) on any device and keep their shape. What
they draw comes from the generator alone, so that a batch can be made again from its seed.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from eyebright.errors import UsageError


def mirror(images: Tensor, generator: Generator) -> Tensor:
    """Half of the pictures, left and right swapped."""
    flip = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(flip, images.flip(2), images)


def shift(images: Tensor, generator: Generator) -> Tensor:
    """Each picture moved by up to a sixteenth of its side, its edge reflected into the gap."""
    n, height, width, _ = images.shape
    moved = []
    for size in (height, width):
        reach = max(1, size // 16)
        offset = torch.randint(-reach, reach + 1, (n, 1), generator=generator, device=images.device)
        position = torch.arange(size, device=images.device) + offset
        moved.append((size - 1) - ((size - 1) - position.abs()).abs())
    rows, columns = moved
    which = torch.arange(n, device=images.device)[:, None, None]
    return images[which, rows[:, :, None], columns[:, None, :]]


def cutout(images: Tensor, generator: Generator) -> Tensor:
    """A square of three eighths of the side greyed out in each picture (DeVries & Taylor 2017)."""
    n, height, width, _ = images.shape
    inside = []
    for size in (height, width):
        side = max(1, size * 3 // 8)
        start = torch.randint(0, size - side + 1, (n, 1), generator=generator, device=images.device)
        position = torch.arange(size, device=images.device)
        inside.append((position >= start) & (position < start + side))
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return images.masked_fill(hole[..., None], 128)


# name -> function. A new augmentation is a new line here.
AUGMENTATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "mirror": mirror,
    "shift": shift,
    "cutout": cutout,
}


def parse_augment(spec: str) -> list[Callable[[Tensor, Generator], Tensor]]:
    """The functions that a setting such as ``mirror+shift`` names; none for ``none``.

    Raises:
        UsageError: a name that is not in `AUGMENTATIONS`.
    """
    names = [] if spec == "none" else spec.split("+")
    for name in names:
        if name not in AUGMENTATIONS:
            raise UsageError(
                f"no augmentation is called '{name}'; join any of {', '.join(AUGMENTATIONS)} "
                "with '+', or say none"
            )
    return [AUGMENTATIONS[name] for name in names]
