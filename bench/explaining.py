"""Which heat map is worth most: what a net says as pixels go, or come, in the order of the heat.

    python -m bench.explaining runs/cifar10-fast $EYEBRIGHT_DATA/cifar10-folder/test

Deletion and insertion (Petsiuk et al. 2018, RISE): pixels are blurred away, or come back into a
blurred picture, the hottest first; the area under the probability of the class the net named first.
A good map has a small one for deletion and a large one for insertion. Maps that do not look at the
net (edges, the centre, chance) show what is won without looking. Appends to ``explaining.csv``.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

from bench.rows import append_row
from eyebright import Classifier
from eyebright import explain as library
from eyebright.data.folders import list_pictures
from eyebright.images import Pixels, read_image

GRID, STEPS, BLUR = 16, 12, 1 / 8  # patches a side, parts of the picture, of its side

Map = NDArray[np.float32]


def area(classifier: Classifier, image: Pixels, heat: Map, label: str) -> tuple[float, float]:
    """Areas under the curves of deletion and insertion, 0 to 1."""
    side = len(image)
    patches = F.adaptive_avg_pool2d(torch.tensor(heat)[None].double(), GRID)[0].numpy()
    chance = np.random.default_rng(0).uniform(0, 1e-9, patches.shape)  # where patches are alike
    rank = (-(patches + chance)).argsort(axis=None).argsort().reshape(patches.shape)
    blurred = gaussian_filter(image, (BLUR * side, BLUR * side, 0))
    at = np.arange(side) * GRID // side
    gone, come = [], []
    for step in range(STEPS + 1):
        first = (rank < step * rank.size / STEPS)[np.ix_(at, at)][..., None]
        gone.append(np.where(first, blurred, image))
        come.append(np.where(first, image, blurred))
    column = classifier.classes.index(label)
    said = classifier.predict_proba(np.stack(gone + come))[:, column].reshape(2, -1)
    deletion, insertion = (float(np.trapezoid(curve, dx=1 / STEPS)) for curve in said)
    return deletion, insertion


def by_method(name: str, cells: int = library.CELLS) -> Callable[[Classifier, Pixels], Map]:
    """Maps of a method of ours; HiResCAM on a layer of at least so many cells a side."""

    def make(classifier: Classifier, image: Pixels) -> Map:
        before, library.CELLS = library.CELLS, cells
        try:
            return library.explain(classifier, image, method=name, check=False).heat
        finally:
            library.CELLS = before

    return make


def edges(_: Classifier, image: Pixels) -> Map:
    """Where the picture is not smooth."""
    found: Map = gaussian_gradient_magnitude(image.mean(2), len(image) / 24).astype(np.float32)
    return found


def centre(_: Classifier, image: Pixels) -> Map:
    """The nearer to the middle the hotter."""
    y, x = np.mgrid[: len(image), : len(image)] - (len(image) - 1) / 2
    found: Map = -np.hypot(x, y).astype(np.float32)
    return found


def chance(_: Classifier, image: Pixels) -> Map:
    """Smooth noise."""
    noise = np.random.default_rng(int(image.sum())).normal(size=image.shape[:2])
    found: Map = gaussian_filter(noise, len(image) / 12).astype(np.float32)
    return found


MAPS: dict[str, Callable[[Classifier, Pixels], Map]] = {
    "HiResCAM, 4 cells or more": by_method("hires-cam", 4),
    "HiResCAM, 7 cells or more": by_method("hires-cam", 7),
    "HiResCAM, 12 cells or more": by_method("hires-cam", 12),
    "Grad-CAM, last layer": by_method("grad-cam"),
    "integrated gradients": by_method("integrated-gradients"),
    "edges": edges,
    "centre": centre,
    "chance": chance,
}


def main() -> None:
    """Measure every map on the same pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+", help="files or folders")
    parser.add_argument("--count", type=int, default=100, help="drawn by chance")
    arguments = parser.parse_args()
    classifier = Classifier.load(arguments.run)
    paths = list_pictures(arguments.pictures)
    drawn = np.random.default_rng(0).permutation(len(paths))[: arguments.count]
    images = [read_image(paths[i], classifier.card.imgsz) for i in drawn]
    labels = [said.label for said in classifier.predict(np.stack(images))]
    for name, make in MAPS.items():
        areas = np.array(
            [
                area(classifier, image, make(classifier, image), label)
                for image, label in zip(images, labels, strict=True)
            ]
        )
        gain = areas[:, 1] - areas[:, 0]
        row = {"run": arguments.run.name, "net": classifier.card.architecture}
        row |= {"imgsz": classifier.card.imgsz, "n": len(images), "map": name}
        row |= {"deletion": f"{areas[:, 0].mean():.3f}", "insertion": f"{areas[:, 1].mean():.3f}"}
        row |= {"insertion_minus_deletion": f"{gain.mean():.3f}"}
        row |= {"standard_error": f"{gain.std(ddof=1) / len(gain) ** 0.5:.3f}"}
        append_row("explaining", row)


if __name__ == "__main__":
    main()
