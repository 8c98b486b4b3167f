"""Pictures that are there more than once: the very same ones, and those that are almost the same.

Hashes are weak at 32×32 px, and features of a net that names objects take any two frogs in the
grass for alike. What tells another copy of a photograph from another photograph is its detail: so
pictures are compared by their fine structure, at 32 px whatever their size, with small shifts,
other scales and mirrored copies tried, and a likeness counts for less where it rests on little.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from eyebright.console import progress_bar
from eyebright.data.views import View
from eyebright.images import Pixels
from eyebright.trained_on import digests

SIDE = 32  # px at which pictures are compared
FINE, COARSE = 0.7, 1.5  # px: deviations of the blurs between which detail lies
COARSE_TO_FIND = 4.0  # to find candidates: rougher, so that a shift does no harm
WIDTH = 192  # principal components by which candidates are found
CANDIDATES, LEAST = 5, 0.55  # so many for each picture, with at least this correlation
REACH = 3  # px of shift that are tried, in each direction
ZOOMS = (0.86, 0.93, 1.0, 1.08, 1.16)
PER_DETAIL = 160  # values that count as one independent detail; from pairs judged by eye
ALIKE = 0.34
"""Similarity from which two pictures are called near duplicates: `bench/notes.md` says why."""
LEAST_SIDE = 16  # px: of smaller pictures only the very same are told; all eights look alike
PART = 500  # pictures or pairs at once: bounded memory

Positions = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """Pairs of like pictures, the most alike first."""

    first: Positions
    second: Positions
    similarity: Floats
    """From 0 to 1, the very same pixels."""

    def of_each(self) -> "Pairs":
        """For each first picture the second one that is most like it."""
        _, which = np.unique(self.first, return_index=True)
        which.sort()
        return Pairs(self.first[which], self.second[which], self.similarity[which])


class Searcher:
    """Finds like pictures among others.

    Args:
        images: uint8 (n, height, width, 3), in which to search; read in parts.
    """

    def __init__(self, images: View | Pixels):
        self.small = thumbnails(images)
        self.digests = digests(images)
        self.has_detail = min(images.shape[1:3]) >= LEAST_SIDE
        found = describe(self.small)
        few = np.random.default_rng(0).permutation(len(found))[:10_000]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            width = min(WIDTH, *found[few].shape)
            self.axes = torch.pca_lowrank(found[few], width, center=False)[2]
        self.described = F.normalize(found @ self.axes, dim=1)

    def like(self, images: View | Pixels | None = None) -> Pairs:
        """Pairs of `ALIKE` pictures: of these and those searched, or among those searched.

        Args:
            images: uint8 (m, height, width, 3); None: those searched, each pair once.
        """
        small, of_same = (self.small, True) if images is None else (thumbnails(images), False)
        own = self.digests if images is None else digests(images)
        pairs = self.candidates(small, of_same)
        same = equal_pairs(own, self.digests, of_same)
        first, second, mirrored = (np.concatenate(parts) for parts in zip(pairs, same, strict=True))
        similarity = np.empty(len(first), np.float32)
        with progress_bar("comparing like pictures", len(first)) as bar:
            for start in range(0, len(first), PART):
                part = slice(start, start + PART)
                a, b = small[first[part]], self.small[second[part]]
                a = torch.where(torch.from_numpy(mirrored[part])[:, None, None, None], a.flip(3), a)
                similarity[part] = compare(a, b)
                bar.advance(len(a))
        similarity[own[first] == self.digests[second]] = 1.0
        order = np.argsort(-similarity, kind="stable")
        order = order[similarity[order] >= ALIKE]
        _, once = np.unique(first[order] * len(self.small) + second[order], return_index=True)
        order = order[np.sort(once)]
        return Pairs(first[order], second[order], similarity[order])

    def candidates(
        self, small: Tensor, of_same: bool
    ) -> tuple[Positions, Positions, NDArray[np.bool_]]:
        """For each picture those that may be like it: both positions, and whether mirrored."""
        nothing = np.empty(0, np.int64)
        first, second, mirrored = [nothing], [nothing], [np.empty(0, bool)]
        if not self.has_detail:
            return nothing, nothing, mirrored[0]
        with progress_bar("searching for like pictures", 2 * len(small)) as bar:
            for flip in (False, True):
                described = F.normalize(
                    describe(small.flip(3) if flip else small) @ self.axes, dim=1
                )
                for start in range(0, len(small), PART):
                    skipped = start if of_same else 0
                    likeness = described[start : start + PART] @ self.described[skipped:].T
                    if of_same:  # each pair once, and no picture with itself
                        likeness = likeness.triu(1)
                    # Most pictures are like no other: the best few are not looked for in vain.
                    some = np.flatnonzero((likeness.amax(1) >= LEAST).numpy())
                    most = min(CANDIDATES, likeness.shape[1])
                    values, which = likeness[torch.from_numpy(some)].topk(most, dim=1)
                    rows, ranks = np.nonzero((values >= LEAST).numpy())
                    first.append(some[rows] + start)
                    second.append(which.numpy()[rows, ranks] + skipped)
                    mirrored.append(np.full(len(rows), flip))
                    bar.advance(len(likeness))
        return np.concatenate(first), np.concatenate(second), np.concatenate(mirrored)


def equal_pairs(
    first: NDArray[np.uint64], second: NDArray[np.uint64], of_same: bool
) -> tuple[Positions, Positions, NDArray[np.bool_]]:
    """For each picture one that has the very same pixels: both positions, and False for each."""
    order = np.argsort(second, kind="stable")
    place = np.searchsorted(second[order], first)
    here = np.flatnonzero(place < len(order))
    here = here[second[order[place[here]]] == first[here]]
    there = order[place[here]]
    if of_same:  # the first of each kind comes before all others
        here, there = there[there != here], here[there != here]
    return here, there, np.zeros(len(here), bool)


def thumbnails(images: View | Pixels) -> Tensor:
    """Pictures of `SIDE` px, uint8 (n, 3, SIDE, SIDE)."""
    parts = []
    for start in range(0, len(images), PART):
        part = torch.from_numpy(np.array(images[start : start + PART])).permute(0, 3, 1, 2)
        if part.shape[2:] != (SIDE, SIDE):
            part = F.interpolate(part, (SIDE, SIDE), mode="bilinear", antialias=True)
        parts.append(part)
    return torch.cat(parts)


def describe(small: Tensor) -> Tensor:
    """Rough detail of thumbnails, by which candidates are found: float (n, values), length 1."""
    return torch.cat(
        [
            F.normalize(F.avg_pool2d(detail(part, COARSE_TO_FIND), 2).flatten(1), dim=1)
            for part in small.split(PART)
        ]
    )


def detail(small: Tensor, coarse: float = COARSE) -> Tensor:
    """What lies between two blurs of thumbnails, float (n, 3, SIDE, SIDE)."""
    fine, rough = (blurring(deviation) for deviation in (FINE, coarse))
    pictures = small.float()
    return fine @ pictures @ fine.T - rough @ pictures @ rough.T


def blurring(deviation: float) -> Tensor:
    """The matrix (SIDE, SIDE) of a Gaussian blur along one axis, edges mirrored."""
    places = np.arange(-SIDE, 2 * SIDE)
    inside = np.where(
        places < 0, -1 - places, np.where(places < SIDE, places, 2 * SIDE - 1 - places)
    )
    bell = np.exp(-((np.arange(SIDE)[:, None] - places) ** 2) / (2 * deviation**2))
    matrix = np.zeros((SIDE, SIDE))
    np.add.at(matrix.T, inside, bell.T)
    return torch.from_numpy(matrix / matrix.sum(1, keepdims=True)).float()


def zooming(zoom: float) -> Tensor:
    """The matrix (SIDE, SIDE) of a linear scaling about the centre, along one axis."""
    centre = (SIDE - 1) / 2
    places = (centre + (np.arange(SIDE) - centre) * zoom).clip(0, SIDE - 1)
    share = places - np.floor(places)
    matrix = np.zeros((SIDE, SIDE))
    matrix[np.arange(SIDE), np.floor(places).astype(int)] += 1 - share
    matrix[np.arange(SIDE), np.ceil(places).astype(int)] += share
    return torch.from_numpy(matrix).float()


def compare(first: Tensor, second: Tensor) -> Floats:
    """Similarity of pairs of thumbnails, uint8 (n, 3, SIDE, SIDE) each: float32 (n,).

    The correlation of their detail, at the best of all shifts and scales; of it the lower end of
    its 95 % interval (Fisher 1921), which is far below where only a few pixels hold any detail:
    small dark aeroplanes in a blue sky all correlate.
    """
    a, b = detail(first), detail(second)
    correlation = best_match(a, [zoom @ b @ zoom.T for zoom in map(zooming, ZOOMS)])
    spread = torch.minimum(spread_of(a), spread_of(b))
    deviation = (spread / PER_DETAIL - 3).clamp_min(1).rsqrt()
    z = correlation.clamp(-0.9999, 0.9999).atanh() - 1.96 * deviation
    return z.tanh().clamp_min(0).numpy()


def spread_of(x: Tensor) -> Tensor:
    """By how many values the detail (n, ...) is carried: all if they are equally large, (n,)."""
    x = x.flatten(1)
    spread: Tensor = (x.abs().sum(1) / x.norm(dim=1).clamp_min(1e-6)) ** 2
    return spread


def best_match(a: Tensor, versions: list[Tensor]) -> Tensor:
    """The highest correlation of a's middle with any window of b's versions in `REACH`, (n,)."""
    side = SIDE - 2 * REACH
    middle = F.pad(a[:, :, REACH:-REACH, REACH:-REACH], (REACH,) * 4)
    norms = middle.flatten(1).norm(dim=1)[:, None, None]
    # Nothing wraps around, because the middle keeps as far from the edges as it is moved.
    wave, moves = torch.fft.rfft2(middle).conj(), torch.arange(-REACH, REACH + 1) % SIDE
    window = torch.ones(2 * REACH + 1, SIDE).tril(side - 1).triu()  # a sum as a product: faster
    best = torch.full((len(a),), -1.0)
    for b in versions:
        sums = torch.fft.irfft2((wave * torch.fft.rfft2(b)).sum(1), s=(SIDE, SIDE))
        energy = window @ b.square().sum(1) @ window.T
        correlation = sums[:, moves][:, :, moves] / (norms * energy.sqrt()).clamp_min(1e-3)
        best = best.maximum(correlation.flatten(1).amax(1))
    return best
