"""From uint8 pictures to what the net sees: shuffled, augmented and normalised whole batches.

Pictures stay uint8 on the device, (n, height, width, 3). What is drawn for an epoch's augmentation
is a function of (seed, epoch, position): there is no state to keep.
"""

import functools
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eyebright import distributed
from eyebright.augment import Chance, mirror, parse_augment, sides_of_epoch
from eyebright.config import BATCH_PIXELS, TrainConfig
from eyebright.data.streams import Stream
from eyebright.data.views import View
from eyebright.images import Pixels
from eyebright.order import derived_seed, epoch_generator, order_for
from eyebright.runtime import memory_format

CHUNK = 1024  # pictures that are gathered and normalised at once, where batches are smaller
CACHED = 2**18  # numbers that stay in a core's cache
CHUNK_PIXELS = CHUNK * 64 * 64  # and so many pixels, whose numbers stay in a processor's cache


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of each channel, for pixel values from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Float pictures for the net.

        Args:
            images: uint8 (n, height, width, 3).

        Returns:
            float32 (n, 3, height, width), channels last in memory.
        """
        offset, scale = _rows(self, images.shape[2], images.device)
        rows = images.flatten(2)
        numbers = torch.empty(rows.shape, device=images.device)
        # On a processor a few at a time, which stay in its cache from one step to the next.
        few = len(images)
        if images.device.type == "cpu" and few:
            few = max(1, CACHED // rows[0].numel())
        for part, into in zip(rows.split(few), numbers.split(few), strict=True) if few else ():
            into.copy_(part).sub_(offset).mul_(scale)
        return numbers.view(images.shape).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=8)  # else a GPU would wait for them at every batch
def _rows(of: Normalization, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What to subtract and to multiply by, repeated to a row: loops over channels are slow."""
    offset = torch.tensor(of.mean, device=device).mul_(255).repeat(width)
    scale = torch.tensor(of.std, device=device).mul_(255).reciprocal_().repeat(width)
    return offset, scale


HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # the lesson's: to [-1, 1]


def measure_normalization(images: Pixels | Tensor) -> Normalization:
    """Mean and deviation of the channels of these pictures, uint8 (n, height, width, 3)."""
    # From exact counts of the 256 values, so that no sum is ever rounded.
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in torch.as_tensor(images).flatten(0, 2).T:
        counts = torch.bincount(channel, minlength=256).cpu().numpy()
        average = float(counts @ values / counts.sum())
        variance = float(counts @ (values - average) ** 2 / counts.sum())
        mean.append(average)
        std.append(max(variance**0.5, 1 / 255))  # all pictures alike in a channel: no blow-up
    return Normalization((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def train_batches(
    images: Tensor | Stream,
    labels: Tensor,
    config: TrainConfig,
    normalization: Normalization,
    epoch: int,
    rows: Tensor | None = None,
    first: int = 0,
    shards: NDArray[np.int32] | None = None,
) -> Generator[tuple[Tensor, Tensor]]:
    """The batches of one epoch: each a function of (seed, epoch, its number).

    Of several ranks each gets its part of every batch; what is drawn for a picture does not depend
    on how many they are.

    Args:
        images: uint8 (n, height, width, 3), on the device; more of them where there are rows. Of
            a `Stream`, the next pictures are decoded while these are used.
        labels: int64 (n,), on the device.
        config: says the seed, the batch size and the augmentation.
        normalization: applied after augmentation.
        epoch: counted from 1.
        rows: where the n pictures lie in images, int64 (n,); None: they are all of them.
        first: begin with this batch, counted from 0.
        shards: which shard each picture lies in, (n,): a few are gone through at a time. None: they
            lie in none.

    Yields:
        Normalised float32 (batch, 3, height, width), laid out as `memory_format` says, and int64
        labels (batch,).
    """
    batch_size = config.batch_size
    mirrored, functions = parse_augment(config.augment)
    device = labels.device
    generator = torch.Generator(device)
    sides = sides_of_epoch(len(labels), epoch, epoch_generator(config.seed, 0, device))
    order = order_for(labels, config, epoch, shards).to(device)
    layout = memory_format(batch_size, images.shape[1], config.precision, device)
    # Tiny batches are prepared many at once: gathering four pictures costs as much as 400.
    most = min(CHUNK, CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    chunk = max(1, most // batch_size) * batch_size
    begun = first * batch_size // chunk * chunk
    chunks = [(start, order[start : start + chunk]) for start in range(begun, len(order), chunk)]
    parts = [parts_of_batches(len(which), batch_size, which.device) for _, which in chunks]
    wanted = [
        which if mine is None else which[mine]
        for (_, which), (mine, _) in zip(chunks, parts, strict=True)
    ]
    taken = take(images, rows, wanted, device)
    for (start, whole), (mine, sizes), which, pictures in zip(
        chunks, parts, wanted, taken, strict=True
    ):
        generator.manual_seed(derived_seed(config.seed, epoch, start + 1))
        chance = Chance(generator, len(whole), mine)
        if mirrored:
            pictures = mirror(pictures, sides[which])
        for function in functions:
            pictures = function(pictures, chance)
        batches = zip(
            normalization(pictures).contiguous(memory_format=layout).split(sizes),
            labels[which].split(sizes),
            strict=True,
        )
        yield from islice(batches, max(0, first - start // batch_size), None)


def parts_of_batches(
    n: int, batch_size: int, device: torch.device
) -> tuple[Tensor | None, int | list[int]]:
    """Which of n pictures in a row of batches are this rank's.

    A batch with fewer pictures than there are ranks is everybody's: as good as once in all.

    Returns:
        Their places, int64 (None: all), and how many are of each batch.
    """
    if distributed.size() == 1:
        return None, batch_size
    parts = []
    for start in range(0, n, batch_size):
        count = min(batch_size, n - start)
        part = distributed.part(count) if count >= distributed.size() else slice(0, count)
        parts.append(range(start + part.start, start + part.stop))
    places = torch.tensor([place for part in parts for place in part], device=device)
    return places, [len(part) for part in parts]


def take(
    images: Tensor | Stream, rows: Tensor | None, wanted: Iterable[Tensor], device: torch.device
) -> Iterator[Tensor]:
    """The pictures at these positions, uint8 on the device, one tensor of them after the other."""
    if isinstance(images, Stream):
        for pictures in images.walk_whole_files(which.cpu().numpy() for which in wanted):
            yield torch.from_numpy(pictures).to(device)
        return
    for which in wanted:
        where = which if rows is None else rows[which]
        # Whole rows are copied at once; by `images[where]` each byte would be, twenty times slower.
        yield images.flatten(1).index_select(0, where).view(len(where), *images.shape[1:])


def on_device(pictures: View, device: torch.device) -> tuple[Tensor | Stream, Tensor | None]:
    """Pictures where the net is, for `train_batches`: an array, and where in it they lie.

    On the processor nothing is copied; elsewhere the array holds these pictures alone. Streamed
    pictures stay where they are.
    """
    if isinstance(pictures, Stream):
        return pictures, None
    if device.type == "cpu":
        rows = pictures.positions
        return torch.from_numpy(pictures.base), None if rows is None else torch.from_numpy(rows)
    images = torch.empty(pictures.shape, dtype=torch.uint8, device=device)
    done = 0
    for part in pictures.parts():
        images[done : done + len(part)] = torch.from_numpy(part)
        done += len(part)
    return images, None


def slices(images: Pixels | View | Tensor, size: int) -> Iterator[Pixels | Tensor]:
    """Pictures in order, so many at a time; of no pictures, none once."""
    if isinstance(images, View) and len(images):
        yield from images.parts(size)
        return
    for start in range(0, max(1, len(images)), size):
        yield images[start : start + size]


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    images: Pixels | View | Tensor,
    normalization: Normalization,
    tta: str = "none",
) -> Tensor:
    """What the net says of these pictures, in fp32.

    Args:
        model: left in evaluation mode.
        images: uint8 (n, height, width, 3), on any device; of `View`, a few at a time.
        normalization: the model's.
        tta: test-time averaging: ``none``, or ``mirror``, which gives the mean logits of a picture
            and its mirror image.

    Returns:
        float32 logits (n, classes), on the processor.
    """
    model.eval()
    device = next(model.parameters(), torch.empty(0)).device
    batch_size = max(1, min(500, BATCH_PIXELS // (images.shape[1] * images.shape[2])))
    parts = []
    for part in slices(images, batch_size):
        pictures = normalization(torch.as_tensor(part).to(device))
        logits = model(pictures).float()
        if tta == "mirror":
            logits = (logits + model(pictures.flip(3)).float()) / 2
        parts.append(logits.cpu())
    return torch.cat(parts)
