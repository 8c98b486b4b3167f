"""What a run keeps of its training pictures, to find leaks and to compare with something simple."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from eyebright.data import Dataset
from eyebright.data.views import View
from eyebright.files import read_safetensors, write_file
from eyebright.images import Pixels
from eyebright.metrics import Floats

FILE = "trained-on.safetensors"
SIDE, PICTURES = 8, 20_000  # of the linear probe
PARTS = 20  # in which they are read, so that large pictures are never copied all at once
RIDGE = 1e-3


@dataclass(frozen=True)
class TrainedOn:
    """Fingerprints of the training pictures, and what can be learned from them without a net.

    With it, nobody who looks at a run has to read its training pictures again.
    """

    digests: NDArray[np.uint64]
    """One a picture, sorted."""
    largest: int
    """The class with the most pictures."""
    weights: Floats
    """Of the linear probe, (inputs, classes)."""
    offset: Floats
    """Of the linear probe, (classes,)."""
    by_content: bool = False
    """Whether fingerprints are of the bytes of files: of shards, whose pixels are not all decoded
    for them."""

    @classmethod
    def learn(cls, data: Dataset) -> "TrainedOn":
        """From the pictures trained on: ridge regression on small pixels (Hoerl & Kennard 1970)."""
        few = np.random.default_rng(0).permutation(len(data))[:PICTURES]
        parts = [
            small_pixels(data.pixels[part]) for part in np.array_split(few, min(PARTS, len(few)))
        ]
        x, y = np.concatenate(parts), np.eye(len(data.classes))[data.labels[few]]
        centred, shares = x - x.mean(0), y.mean(0)
        gram = centred.T @ centred + len(x) * RIDGE * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, centred.T @ (y - shares))
        offset = shares - x.mean(0) @ weights
        largest, by_content = int(np.argmax(data.counts())), data.contents is not None
        found = digests(data.pixels) if data.contents is None else beginnings(data.contents)
        return cls(np.sort(found), largest, weights, offset, by_content)

    @classmethod
    def load(cls, folder: Path, pictures: int, classes: int, imgsz: int) -> "TrainedOn | None":
        """What `write` wrote; None where it is missing, damaged, or of other pictures.

        Args:
            folder: of the run.
            pictures: that it was trained on.
            classes: of them.
            imgsz: their side, in pixels.
        """
        inputs = 3 * min(SIDE, imgsz) ** 2
        most = 8 * pictures + 4 * inputs * classes + 8 * classes + 8 + 1
        try:
            arrays = load_arrays(read_safetensors(folder / FILE, most))
            digests, largest = arrays["digests"], int(arrays["largest"])
            weights, offset = arrays["weights"].astype(np.float64), arrays["offset"]
            if digests.shape != (pictures,) or digests.dtype != np.uint64:
                return None
            if weights.shape != (inputs, classes) or offset.shape != (classes,):
                return None
            if not 0 <= largest < classes or not np.isfinite(weights).all():
                return None
            by_content = bool(arrays.get("by_content", False))
            return cls(digests, largest, weights, offset.astype(np.float64), by_content)
        except (OSError, SafetensorError, ValueError, LookupError, TypeError, ArithmeticError):
            return None

    def write(self, folder: Path) -> None:
        """Write ``trained-on.safetensors`` into a run folder."""
        arrays = {
            "digests": self.digests,
            "largest": np.array(self.largest),
            "weights": self.weights.astype(np.float32),
            "offset": self.offset,
        } | ({"by_content": np.array(True)} if self.by_content else {})
        write_file(folder / FILE, save_arrays(arrays))

    def count_leaks(self, data: Dataset) -> int | None:
        """How many of other pictures are among those trained on, pixel for pixel.

        After a training on shards, byte for byte; None where the others are not from shards.
        """
        if self.by_content:
            if data.contents is None:
                return None
            return int(np.isin(beginnings(data.contents), self.digests).sum())
        return int(np.isin(digests(data.pixels), self.digests).sum())

    def probe(self, data: Dataset) -> NDArray[np.int64]:
        """The classes that the linear probe sees in pictures."""
        parts = [small_pixels(part) @ self.weights + self.offset for part in data.pixels.parts()]
        answers: NDArray[np.int64] = np.concatenate(parts).argmax(1)
        return answers


def digests(images: View | Pixels) -> NDArray[np.uint64]:
    """A fingerprint of each picture's pixels, (n,)."""
    found = b"".join(hashlib.blake2b(pixels.data, digest_size=8).digest() for pixels in images)
    return np.frombuffer(found, np.uint64)


def beginnings(contents: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first eight bytes of digests (n, 32) as numbers, (n,)."""
    return np.ascontiguousarray(contents[:, :8]).view(np.uint64)[:, 0]


def small_pixels(images: NDArray[np.uint8]) -> Floats:
    """Pictures as rows of mean colours, at most `SIDE` by `SIDE`, from -1 to 1."""
    n, height, width, _ = images.shape
    rows = np.linspace(0, height, min(SIDE, height), endpoint=False).astype(int)
    columns = np.linspace(0, width, min(SIDE, width), endpoint=False).astype(int)
    sums = np.add.reduceat(np.add.reduceat(images, rows, 1, np.uint32), columns, 2, np.uint32)
    counts = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))[..., None]
    means: Floats = sums / counts / 127.5 - 1
    return means.reshape(n, -1)
