"""The nets: shapes, starting points and what they refuse."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyebright.errors import UsageError
from eyebright.models import MODELS, LessonNet, WhiteNet, create_model

WHITE = [name for name in MODELS if name.startswith("white")]


def smooth_pictures(n: int, size: int, seed: int = 0) -> Tensor:
    """Normalised pictures whose neighbouring pixels are alike, as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, max(2, size // 4), max(2, size // 4), generator=generator)
    pictures = F.interpolate(coarse, (size, size), mode="bilinear")
    pictures += 0.3 * torch.randn(pictures.shape, generator=generator)
    return (pictures - pictures.mean((0, 2, 3), True)) / pictures.std((0, 2, 3), keepdim=True)


def started(name: str, classes: int, size: int) -> nn.Module:
    torch.manual_seed(0)
    net = create_model(name, classes, size)
    if isinstance(net, WhiteNet):
        net.whiten(smooth_pictures(32, size))
    return net


def test_the_lesson_net_has_the_lessons_layers() -> None:
    net = create_model("lesson", 10)
    assert {name: tuple(p.shape) for name, p in net.named_parameters()} == {
        "conv1.weight": (6, 3, 5, 5),
        "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5),
        "conv2.bias": (16,),
        "fc1.weight": (120, 400),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (10, 84),
        "fc3.bias": (10,),
    }
    assert sum(p.numel() for p in net.parameters()) == 62_006
    assert all(p.requires_grad for p in net.parameters())


def test_the_lesson_net_computes_what_the_lesson_writes() -> None:
    net = create_model("lesson", 10)
    x = pictures = smooth_pictures(3, 32)
    for conv in (net.conv1, net.conv2):
        x = F.max_pool2d(torch.relu(F.conv2d(x, conv.weight, conv.bias)), 2)
    x = torch.flatten(x, 1)
    for layer in (net.fc1, net.fc2):
        x = torch.relu(x @ layer.weight.T + layer.bias)
    torch.testing.assert_close(net(pictures), x @ net.fc3.weight.T + net.fc3.bias)


@pytest.mark.parametrize("imgsz", [4, 8, 15])
def test_pictures_too_small_for_the_lesson_net_are_refused(imgsz: int) -> None:
    with pytest.raises(UsageError, match=rf"'lesson'.*16 px, not {imgsz}"):
        create_model("lesson", 10, imgsz)


@pytest.mark.parametrize(
    ("name", "imgsz"),
    [
        (name, imgsz)
        for name in MODELS
        for imgsz in (4, 8, 16, 28, 32, 64)
        if name != "lesson" or imgsz >= 16
    ],
)
def test_every_net_gives_a_logit_a_class(name: str, imgsz: int) -> None:
    net = started(name, 7, imgsz)
    for training in (True, False):
        logits = net.train(training)(smooth_pictures(2, imgsz, seed=1))
        assert logits.shape == (2, 7)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_the_end_of_every_net_is_no_softmax(name: str) -> None:
    logits = started(name, 10, 32)(smooth_pictures(8, 32))
    assert logits.min() < 0
    assert not torch.allclose(logits.sum(1), torch.ones(8), atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_decides_the_weights(name: str) -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(nn.utils.parameters_to_vector(create_model(name, 10).parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def first_layer(net: WhiteNet, pictures: Tensor) -> Tensor:
    """Outputs of the first filters, a row a patch."""
    return net.whitening(pictures).permute(0, 2, 3, 1).reshape(-1, 24).double()


@pytest.mark.parametrize("name", WHITE)
def test_the_first_layer_whitens_patches(name: str) -> None:
    pictures = smooth_pictures(400, 16)
    net = create_model(name, 10, 16)
    net.whiten(pictures)
    out = first_layer(net, pictures)
    covariance = out[:, :12].T @ out[:, :12] / len(out)
    # The eigenvalues of these patches are 0.03 and more, so eps = 5e-4 takes under 2 %.
    torch.testing.assert_close(covariance, torch.eye(12).double(), rtol=0, atol=0.02)
    # Both signs, because the activation after it lets only one through.
    torch.testing.assert_close(out[:, 12:], -out[:, :12])


def test_flat_pictures_are_not_blown_up() -> None:
    net = create_model(WHITE[0], 10, 16)
    pictures = torch.ones(50, 3, 16, 16)
    net.whiten(pictures)
    assert first_layer(net, pictures).abs().max() < 1.01


def test_whitening_is_a_function_of_the_pictures_alone() -> None:
    pictures = smooth_pictures(50, 8)
    nets = [create_model(WHITE[0], 10, 8) for _ in range(2)]
    for net in nets:
        net.whiten(pictures)
    assert torch.equal(nets[0].whitening.weight, nets[1].whitening.weight)
    assert not nets[0].whitening.bias.any()
    assert nets[0].whitening.bias.requires_grad
    assert not nets[0].whitening.weight.requires_grad


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_battery_35_the_net_starts_neutral(name: str, classes: int) -> None:
    net = started(name, classes, 16)
    labels = torch.arange(100) % classes
    with torch.no_grad():
        loss = F.cross_entropy(net(smooth_pictures(100, 16, seed=1)), labels).item()
    assert loss == pytest.approx(math.log(classes), rel=0.05)


def test_an_unknown_net_names_the_choices() -> None:
    with pytest.raises(UsageError, match="'resnet5'") as caught:
        create_model("resnet5", 10)
    assert all(name in str(caught.value) for name in MODELS)
    assert caught.value.exit_code == 2


def test_the_table_makes_the_nets_it_names() -> None:
    assert isinstance(create_model("lesson", 10), LessonNet)
    assert WHITE
    assert all(isinstance(create_model(name, 10), WhiteNet) for name in WHITE)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_float64(name: str) -> None:
    torch.manual_seed(0)
    net = create_model(name, 10, 32)
    exact = copy.deepcopy(net).double()
    pictures, labels = smooth_pictures(16, 32), torch.arange(16) % 10
    F.cross_entropy(net(pictures), labels).backward()
    F.cross_entropy(exact(pictures.double()), labels).backward()
    for (key, p), q in zip(net.named_parameters(), exact.parameters(), strict=True):
        if q.grad is None:
            assert p.grad is None
            continue
        scale = q.grad.abs().max()
        assert (p.grad.double() - q.grad).abs().max() <= 1e-3 * scale + 1e-7, key
