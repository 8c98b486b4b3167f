"""The nets, and the one table to put another into.

Every net takes normalised float pictures of shape (batch, 3, height, width) and gives logits of
shape (batch, classes): no softmax at its end, because cross-entropy brings its own log-softmax.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise, starmap
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyebright import kernels
from eyebright.console import nearest
from eyebright.errors import UsageError
from eyebright.layers import Conv3x3, NormGelu, halve

MOST_WHITENING = 48  # filters of the first layer


class LessonNet(nn.Module):
    """The net of PyTorch's lesson "Training a classifier", after LeNet-5 (LeCun et al. 1998).

    Two 5×5 convolutions (6 and 16 filters), each followed by ReLU and 2×2 max-pooling, then fully
    connected layers of 120, 84 and ``num_classes``. Attribute names are the lesson's.
    """

    def __init__(self, num_classes: int, imgsz: int = 32):
        super().__init__()
        side = ((imgsz - 4) // 2 - 4) // 2
        if side < 1:
            raise UsageError(
                f"the net 'lesson' needs pictures of at least 16 px, not {imgsz}; use --imgsz 32"
            )
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of pictures (batch, 3, imgsz, imgsz)."""
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class Stage(nn.Module):
    """Convolution, halving by max-pooling, norm and activation; convolution, norm, activation."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv1 = Conv3x3(channels_in, channels_out)
        self.norm1 = NormGelu(channels_out)
        self.conv2 = Conv3x3(channels_out, channels_out)
        self.norm2 = NormGelu(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, channels_out, height / 2, width / 2)."""
        x = halve(x, self.conv1, self.norm1)
        return self.norm2(self.conv2(x))  # type: ignore[no-any-return]


class DeepStage(Stage):
    """A stage with a third convolution, whose last two are added to what comes before them.

    So a deeper net learns as easily as a shallow one (He et al. 2016).
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out)
        self.conv3 = Conv3x3(channels_out, channels_out)
        self.norm3 = NormGelu(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, channels_out, height / 2, width / 2)."""
        x = halve(x, self.conv1, self.norm1)
        return x + self.norm3(self.conv3(self.norm2(self.conv2(x))))  # type: ignore[no-any-return]


class WhiteNet(nn.Module):
    """A small net whose first layer whitens patches of the picture, followed by stages.

    After the nets of tysam's hlb-CIFAR10 (2023) and Keller Jordan's airbench (2024,
    arXiv:2404.00498). The whitening filters are computed from training pictures by
    `whiten` and stay fixed; only their bias is learned. Takes pictures from 4 px up.

    Args:
        num_classes: how many logits it gives.
        imgsz: side of its pictures, in pixels; it takes any.
        widths: channels of each stage; each halves height and width.
        patch: side of the patches, in pixels.
        stride: pixels from one patch to the next; 2 makes everything after it four times cheaper.
        learn_bias: of the whitening filters; in very short runs it is not worth its time.
        stage: what the stages are.
    """

    def __init__(
        self,
        num_classes: int,
        imgsz: int = 32,
        widths: tuple[int, ...] = (),
        patch: int = 2,
        stride: int = 1,
        learn_bias: bool = True,
        stage: type[Stage] = Stage,
    ):
        super().__init__()
        self.patch, self.stride = patch, stride
        filters = min(2 * 3 * patch**2, MOST_WHITENING)
        self.whitening = nn.Conv2d(3, filters, patch, stride)
        self.whitening.weight.requires_grad_(False)
        assert self.whitening.bias is not None
        self.whitening.bias.requires_grad_(learn_bias)
        self.stages = nn.Sequential(*starmap(stage, pairwise((filters, *widths))))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        # Small logits at first: the net starts neutral, with a loss of ln(classes).
        nn.init.normal_(self.head.weight, std=1 / widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of pictures (batch, 3, height, width)."""
        x = F.conv2d(x, self.whitening.weight, stride=self.stride)
        bias = self.whitening.bias
        assert bias is not None
        if kernels.ready(x) and not x.requires_grad:
            x = kernels.bias_gelu(x, bias)
        else:
            x = F.gelu(x + bias[:, None, None])
        x = self.stages(x)
        logits: Tensor = self.head(x.amax((2, 3)))
        return logits

    @torch.no_grad()
    def whiten(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the first filters from the eigenvectors of the patches of training pictures.

        The filters of the largest eigenvalues are taken, each twice, with both signs, because the
        activation after it lets only one sign through.

        Args:
            images: normalised pictures, float (n, 3, height, width); a few thousand are plenty.
            eps: added to the eigenvalues, so that flat directions are not blown up to noise.
        """
        size, half = self.patch, len(self.whitening.weight) // 2
        patches = images.float().unfold(2, size, self.stride).unfold(3, size, self.stride)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * size**2)
        covariance = (patches.T @ patches / len(patches)).double().cpu()
        values, vectors = torch.linalg.eigh(covariance)  # in ascending order
        filters = (vectors / (values + eps).sqrt()).T[-half:].float().reshape(half, 3, size, size)
        self.whitening.weight.copy_(torch.cat((filters, -filters)))
        nn.init.zeros_(self.whitening.bias)  # type: ignore[arg-type]


# name -> factory(num_classes=..., imgsz=...). A new net is a new line here.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "lesson": LessonNet,
    "patch48": partial(WhiteNet, widths=(48, 48), patch=4, stride=2, learn_bias=False),
    "white16": partial(WhiteNet, widths=(16, 32, 64)),
    "white32": partial(WhiteNet, widths=(32, 128, 128)),
    "white64": partial(WhiteNet, widths=(64, 256, 256)),
    "wide32": partial(WhiteNet, widths=(32, 128, 256)),
    "wide64": partial(WhiteNet, widths=(64, 256, 512)),
    "deep32": partial(WhiteNet, widths=(32, 96, 192), stage=DeepStage),
    "deep64": partial(WhiteNet, widths=(64, 192, 384), stage=DeepStage),
    "deep128": partial(WhiteNet, widths=(128, 384, 512), stage=DeepStage),
}


def is_backbone(name: str) -> bool:
    """Whether it is one of timm's nets, with or without the tag of certain weights."""
    if name in MODELS:
        return False
    import timm

    if not timm.is_model(name):
        return False
    with contextlib.suppress(RuntimeError):  # a tag that timm does not know
        timm.get_pretrained_cfg(name, allow_unregistered=True)
        return True
    return False


def check_name(name: str) -> None:
    """See that there is a net of this name.

    Raises:
        UsageError: there is none; the message names those there are.
    """
    if name in MODELS or is_backbone(name):
        return
    import timm

    meant = nearest(name, MODELS) or nearest(name, timm.list_models())
    raise UsageError(
        f"no net is called '{name}'{meant}; choose one of: {', '.join(MODELS)}, "
        "or a backbone of timm, such as tf_efficientnet_lite0 or resnet18"
    )


def create_model(name: str, num_classes: int, imgsz: int = 32) -> nn.Module:
    """A new net from the table `MODELS` or a backbone of timm, with random weights.

    Args:
        name: a key of `MODELS`, or a name that timm knows.
        num_classes: how many logits it gives.
        imgsz: side of the square pictures that it takes, in pixels.

    Raises:
        UsageError: no such net, or the pictures are too small for it.
    """
    check_name(name)
    if name in MODELS:
        return MODELS[name](num_classes=num_classes, imgsz=imgsz)
    return create_backbone(name, num_classes, imgsz)


def create_backbone(
    name: str,
    num_classes: int,
    imgsz: int,
    pretrained: bool = False,
    state_dict: dict[str, Tensor] | None = None,
) -> nn.Module:
    """A net of timm (Wightman 2019), which can say what its last layer is.

    Args:
        name: one that timm knows.
        num_classes: how many logits it gives.
        imgsz: side of its pictures, in pixels.
        pretrained: load the weights that timm names, or those of ``state_dict``.
        state_dict: weights, by timm's names or those that timm can translate.

    Raises:
        UsageError: it does not take pictures of this size.
        Exception: whatever timm raises where weights are to be loaded.
    """
    import timm

    options: dict[str, Any] = {"num_classes": num_classes, "pretrained": pretrained}
    if state_dict is not None:
        options["pretrained_cfg_overlay"] = {"state_dict": dict(state_dict)}
    if getattr(timm.get_pretrained_cfg(name, allow_unregistered=True), "fixed_input_size", False):
        options["img_size"] = imgsz
    try:
        net: nn.Module = timm.create_model(name, **options)
        if head_of(net).out_features != num_classes:
            raise UsageError(f"the last layer of {name} is not what tells the classes apart")
    except (AssertionError, ValueError, TypeError) as error:
        if pretrained:
            raise
        raise UsageError(f"{name} cannot be made for pictures of {imgsz} px ({error})") from None
    return net


def head_of(net: nn.Module) -> nn.Linear:
    """The last layer of a net, which turns its features into logits.

    Raises:
        UsageError: it is not linear.
    """
    known = getattr(net, "get_classifier", None)  # timm's nets know
    layers = [m for m in net.modules() if isinstance(m, nn.Linear)]
    head = known() if callable(known) else layers[-1] if layers else None
    if not isinstance(head, nn.Linear):
        raise UsageError(f"{type(net).__name__}: its last layer is not a linear one")
    return head
