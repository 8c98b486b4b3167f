"""The nets, and the one table to put another into.

Every net takes normalised float pictures of shape (batch, 3, height, width) and gives logits of
shape (batch, classes): no softmax at its end, because cross-entropy brings its own log-softmax.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyebright.errors import UsageError


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


class Norm(nn.BatchNorm2d):
    """Batch normalisation with a bias but no scale: the next filters can learn the scale."""

    def __init__(self, channels: int):
        # Short runs see few steps: statistics must follow within a few of them.
        super().__init__(channels, eps=1e-5, momentum=0.4)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape, each channel with mean 0 and deviation 1 over the batch."""
        if self.training and x.numel() > x.shape[1]:
            return super().forward(x)
        # One value a channel has no deviation: the running statistics stand in, as in evaluation.
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class Stage(nn.Module):
    """Convolution, halving by max-pooling, norm, activation; convolution, norm, activation.

    Pooling comes before norm and activation, so that these touch a quarter of the values.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm1 = Norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = Norm(channels_out)
        for conv in (self.conv1, self.conv2):
            # The first filters pass their input on unchanged (partial Dirac), the rest are random.
            nn.init.dirac_(conv.weight[:channels_in])

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, channels_out, height / 2, width / 2)."""
        x = self.conv1(x)
        # Sides under 7 round up, so that small pictures (8 px) never shrink to nothing.
        x = F.max_pool2d(x, 2, ceil_mode=x.shape[-1] < 7)
        x = F.gelu(self.norm1(x))
        return F.gelu(self.norm2(self.conv2(x)))


class WhiteNet(nn.Module):
    """A small net whose first layer whitens 2×2 patches, followed by three stages.

    After the nets of tysam's hlb-CIFAR10 (2023) and Keller Jordan's airbench (2024,
    arXiv:2404.00498). The whitening filters are computed from training pictures by
    `whiten` and stay fixed; only their bias is learned. Takes pictures from 4 px up.
    """

    def __init__(self, num_classes: int, imgsz: int = 32, widths: tuple[int, int, int] = (0, 0, 0)):
        super().__init__()
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad_(False)
        self.stages = nn.Sequential(
            Stage(24, widths[0]), Stage(widths[0], widths[1]), Stage(widths[1], widths[2])
        )
        self.head = nn.Linear(widths[2], num_classes, bias=False)
        # Small logits at first: the net starts neutral, with a loss of ln(classes).
        nn.init.normal_(self.head.weight, std=1 / widths[2])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of pictures (batch, 3, height, width)."""
        x = F.gelu(self.whitening(x))
        x = self.stages(x)
        logits: Tensor = self.head(x.amax((2, 3)))
        return logits

    @torch.no_grad()
    def whiten(self, images: Tensor, eps: float = 5e-4) -> None:
        """Set the first filters from the eigenvectors of the 2×2 patches of training pictures.

        Each of the 12 whitening filters appears twice, with both signs, because the activation
        after it lets only one sign through.

        Args:
            images: normalised pictures, float (n, 3, height, width); a few thousand are plenty.
            eps: added to the eigenvalues, so that flat directions are not blown up to noise.
        """
        patches = images.float().unfold(2, 2, 1).unfold(3, 2, 1)
        patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
        covariance = (patches.T @ patches / len(patches)).double().cpu()
        values, vectors = torch.linalg.eigh(covariance)
        filters = (vectors / (values + eps).sqrt()).T.reshape(12, 3, 2, 2).float()
        self.whitening.weight.copy_(torch.cat((filters, -filters)))
        nn.init.zeros_(self.whitening.bias)  # type: ignore[arg-type]


# name -> factory(num_classes=..., imgsz=...). A new net is a new line here.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "lesson": LessonNet,
    "white16": partial(WhiteNet, widths=(16, 32, 64)),
    "white32": partial(WhiteNet, widths=(32, 128, 128)),
    "white64": partial(WhiteNet, widths=(64, 256, 256)),
}


def check_name(name: str) -> None:
    """See that there is a net of this name.

    Raises:
        UsageError: there is none; the message names those there are.
    """
    if name not in MODELS:
        raise UsageError(f"no net is called '{name}'; choose one of: {', '.join(MODELS)}")


def create_model(name: str, num_classes: int, imgsz: int = 32) -> nn.Module:
    """A new net from the table `MODELS`, with random weights.

    Args:
        name: a key of `MODELS`.
        num_classes: how many logits it gives.
        imgsz: side of the square pictures that it takes, in pixels.

    Raises:
        UsageError: no such net, or the pictures are too small for it.
    """
    check_name(name)
    return MODELS[name](num_classes=num_classes, imgsz=imgsz)
