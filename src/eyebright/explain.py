"""Which pixels mattered: a heat map for one picture and one class, checked by a second method.

Two kinds of method, both from captum. Those that look at a late layer (Grad-CAM, Selvaraju et al.
2017; HiResCAM, Draelos and Carin 2020, arXiv:2011.08891) weigh the features at each place by what
the class gains from them; on a last layer that is averaged over places, both are the same, and add
up to the class's logit. They need features that lie side by side, and stay where their pixels are;
the tokens of a transformer lie so, but attention has mixed them. Integrated gradients (Sundararajan
et al. 2017) look at the pixels alone, whatever the net: they add up the gradient on the way from a
picture of the average colour to this one.
"""

import copy
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eyebright.attribution import Laid, blurred, find_layer, integrated_gradients, layer_map
from eyebright.classifier import FEWER, Classifier, Picture
from eyebright.console import nearest, shown
from eyebright.errors import DataError, UsageError, install_command
from eyebright.images import Pixels, read_image
from eyebright.runtime import explained

METHODS = {
    "grad-cam": "Grad-CAM",
    "hires-cam": "HiResCAM",
    "integrated-gradients": "integrated gradients",
}
SMALL = 64  # px of a side
CELLS = 7  # a side that HiResCAM's layer has at least: 3×3 of a small net say little of where
PATCHES = 8  # a side, over which two methods are compared
STRONGEST = 0.85  # opacity of the heat
# Matplotlib's inferno, whose lightness only rises: it reads in grey and to colour-blind eyes.
RAMP = np.array([(20, 11, 52), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])


@dataclass(frozen=True)
class Explanation:
    """What spoke for a class in a picture."""

    label: str
    """The class that is explained."""
    probability: float
    """Of that class."""
    image: Pixels
    """What the net saw, uint8 (imgsz, imgsz, 3)."""
    heat: NDArray[np.float32]
    """What speaks for the class, 0 to 1, (imgsz, imgsz); all 0 where nothing does."""
    method: str
    """Its name, for people."""
    agreement: float | None
    """Spearman's rank correlation, over 8×8 patches, of the two kinds of method.

    Integrated gradients and a layer's map (HiResCAM, where it is not Grad-CAM that was asked for),
    both with their signs: what speaks against the class counts too. None where nothing speaks for
    it, where the net has no such layer, or where nobody wanted to know.
    """

    def share(self, of: float = 0.5) -> float:
        """The smallest share of the picture that holds such a share of the heat; 0 without any."""
        parts = np.sort(self.heat, axis=None)[::-1].cumsum(dtype=np.float64)
        if not parts[-1]:
            return 0.0
        return float(np.searchsorted(parts, of * parts[-1]) + 1) / parts.size

    def picture(self, side: int) -> Image.Image:
        """What the net saw, resized: small pictures as their pixels are."""
        small = self.image.shape[0] * 2 <= side
        how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        return Image.fromarray(self.image).resize((side, side), how)

    def overlay(self, side: int = 384) -> Image.Image:
        """The picture in grey with the heat laid over it, ``side`` pixels wide and high."""
        grey = self.picture(side).convert("L").convert("RGBA")
        return Image.alpha_composite(grey, self._coloured(side)).convert("RGB")

    def heat_png(self) -> bytes:
        """The heat alone as an RGBA PNG, (imgsz, imgsz), the stronger the less transparent."""
        file = io.BytesIO()
        self._coloured(self.heat.shape[0]).save(file, "PNG")
        return file.getvalue()

    def _coloured(self, side: int) -> Image.Image:
        heat = np.asarray(Image.fromarray(self.heat).resize((side, side), Image.Resampling.BICUBIC))
        heat = heat.clip(0, 1)
        at = np.linspace(0, 1, len(RAMP))
        layers = [np.interp(heat, at, channel) for channel in RAMP.T]
        layers.append(255 * STRONGEST * np.sqrt(heat))
        return Image.fromarray(np.stack(layers, axis=2).astype(np.uint8), "RGBA")


def explain(
    classifier: Classifier,
    picture: Picture,
    label: str | None = None,
    method: str = "auto",
    check: bool = True,
) -> Explanation:
    """Which pixels of a picture spoke for a class.

    ``auto`` is HiResCAM on the last layer with at least 7×7 places, and integrated gradients where
    places are too few (pictures up to 64 px) or do not stay in place (attention carries what a
    token has seen to others; nets without such layers). Where predictions are averaged with
    mirror images, so is what is explained: both sides, laid upon each other.

    It works on a copy of the net that shares its weights, so the net itself is left as it is, and
    several threads may explain and predict with it at the same time.

    Args:
        classifier: the model.
        picture: a path, encoded bytes or uint8 RGB pixels.
        label: the class to explain. Default: the likeliest.
        method: ``auto``, or one of `METHODS`.
        check: see how far the two kinds of method agree, which takes longer.

    Raises:
        UsageError: no captum, no such class or method, or a method that the net has no layer for.
        DataError: a picture that cannot be read; the message names it.
    """
    check_method(method)
    if label is not None:
        classifier.column(label)
    card = classifier.card
    image = _read(picture, card.imgsz)
    net = _twin(classifier.model)
    twin = Classifier(net, card, str(classifier.device))
    said = twin.predict([image])[0]
    label = said.label if label is None else label
    target = card.classes.index(label)
    with torch.inference_mode(False), torch.enable_grad(), explained(lambda: FEWER):
        x = card.normalization(torch.tensor(image[None]).to(classifier.device))
        # What is averaged when predicting is averaged here: a sum has the sum of their maps.
        sides = torch.cat((x, x.flip(3))) if card.tta == "mirror" else x
        if method == "auto" and card.imgsz <= SMALL:
            method = "integrated-gradients"
        layer = None
        if check or method != "integrated-gradients":
            layer = find_layer(net, sides, target, 2 if method == "grad-cam" else CELLS)
        if layer is None and method not in ("auto", "integrated-gradients"):
            raise UsageError(
                f"{type(classifier.model).__name__} has no layer of features side by side, as "
                f"{METHODS[method]} needs; use --method integrated-gradients"
            )
        if method == "auto":
            mixed = layer is None or any(isinstance(module, Laid) for module in net.modules())
            method = "integrated-gradients" if mixed else "hires-cam"
        by_pixel = by_place = None
        if check or method == "integrated-gradients":
            by_pixel = blurred(integrated_gradients(net, sides, target))
        if layer is not None:
            how = method if method == "grad-cam" else "hires-cam"
            places = layer_map(net, layer, sides, target, how)[None, None]
            by_place = F.interpolate(places, (card.imgsz,) * 2, mode="bicubic")[0, 0]
        signed = by_pixel if method == "integrated-gradients" else by_place
        assert signed is not None, "made just now"
        heat = signed.clamp_min(0)
        heat = heat / heat.max() if heat.max() > 0 else heat
        agreement = None
        if by_pixel is not None and by_place is not None and heat.any():
            agreement = rank_correlation(by_place, by_pixel)
    found = heat.float().cpu().numpy()
    return Explanation(label, said.probabilities[label], image, found, METHODS[method], agreement)


def rank_correlation(one: Tensor, other: Tensor) -> float | None:
    """Spearman's correlation of two maps (height, width), each averaged over 8×8 patches.

    None where one of them is the same everywhere.
    """
    from scipy.stats import rankdata

    side = min(PATCHES, *one.shape, *other.shape)
    ranks = [
        rankdata(F.adaptive_avg_pool2d(m[None].double().cpu(), side).numpy()) for m in (one, other)
    ]
    if any(np.ptp(r) == 0 for r in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def check_method(method: str) -> None:
    """See that there is such a method, and captum.

    Raises:
        UsageError: there is not.
    """
    if method not in ("auto", *METHODS):
        choices, guess = ", ".join(["auto", *METHODS]), nearest(method, METHODS)
        raise UsageError(f"no method is called '{shown(method)}'{guess}; choose one of: {choices}")
    try:
        import captum.attr  # noqa: F401 - whether it is there is all that is asked
    except ImportError:
        raise UsageError(
            f"which pixels mattered is found with captum: {install_command('explain')}"
        ) from None


def _read(picture: Picture, imgsz: int) -> Pixels:
    try:
        return read_image(picture, imgsz)
    except DataError as error:
        name = "the picture" if isinstance(picture, bytes | np.ndarray) else shown(picture)
        raise DataError(f"{name}: {error}") from None


def _twin(net: nn.Module) -> nn.Module:
    """A copy that shares parameters and buffers, to hang hooks on that nobody else meets."""
    shared: dict[int, Any] = {id(t): t for t in (*net.parameters(), *net.buffers())}
    try:
        return copy.deepcopy(net, shared).eval()
    except (TypeError, RuntimeError) as error:
        name = type(net).__name__
        raise UsageError(f"{name} cannot be copied, so it cannot be explained ({error})") from None
