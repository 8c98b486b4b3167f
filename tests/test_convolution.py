"""3×3 convolutions against PyTorch's in float64, by oneDNN and by minimal filtering."""

from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bf16_kernels import features, needs_winograd
from eyebright import compiled, convolution

WAYS = ["onednn", pytest.param("winograd", marks=needs_winograd)]


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    with patch.object(convolution, "winograd_pays", lambda: request.param == "winograd"):
        yield request.param


def filters(out: int, channels: int) -> Tensor:
    return 0.1 * torch.randn(out, channels, 3, 3, generator=torch.Generator().manual_seed(2))


def error(found: Tensor | None, exact: Tensor | None) -> float:
    """Distance of what was found, as a share of what is right."""
    assert found is not None
    assert exact is not None
    return float(((found.double() - exact).norm() / exact.norm()).detach())


SHAPES = [  # pictures, channels in and out, height and width
    *((n, 16, 32, side, side) for side in (15, 7, 4, 3, 1) for n in (20, 7)),
    (200, 24, 40, 3, 3),  # several blocks of tiles, of which the last is not full
    (3, 17, 35, 9, 6),  # channels that fill no vector
    (2, 1, 1, 5, 33),
    (1, 33, 3, 4, 3),
    (5, 3, 70, 2, 8),
    (5, 3, 70, 6, 8),  # some tiles without a fourth row, none without a fourth column
    (3, 20, 30, 31, 14),
    (300, 8, 16, 9, 10),  # of each kind several blocks of tiles, some in the pictures of one block
    (40, 16, 32, 15, 15),
    (150, 192, 176, 9, 9),  # filters so many that their gradient takes larger blocks
]


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_conv3x3_and_its_gradients(shape: tuple[int, ...], way: str) -> None:
    n, channels, out_channels, height, width = shape
    x = features(n, channels, height, width).requires_grad_()
    weight = filters(out_channels, channels).requires_grad_()
    out = convolution.conv3x3(x, weight)
    assert out.shape == (n, out_channels, height, width)
    assert out.is_contiguous(memory_format=torch.channels_last)
    gradient = features(*out.shape, seed=1)
    out.backward(gradient)
    exact = x.detach().double().requires_grad_()
    exact_weight = weight.detach().double().requires_grad_()
    wanted = F.conv2d(exact, exact_weight, padding=1)
    wanted.backward(gradient.double())
    # What bf16 rounds: the result; or filters and features transformed, with larger factors.
    bound = 0.02 if way == "winograd" else 0.01
    assert error(out, wanted) < bound
    assert error(x.grad, exact.grad) < bound
    assert error(weight.grad, exact_weight.grad) < bound


@needs_winograd
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if min(shape[3:]) >= 3], ids=str)
def test_minimal_filtering_and_pooling_at_once(shape: tuple[int, ...]) -> None:
    n, channels, out_channels, height, width = shape
    weight = filters(out_channels, channels).requires_grad_()
    gradient = features(n, out_channels, height // 2, width // 2, seed=1)
    results = []
    with patch.object(convolution, "winograd_pays", lambda: True):
        for pool in (True, False):
            x = features(n, channels, height, width).requires_grad_()
            weight.grad = None
            out = convolution.conv3x3(x, weight, pool)
            pooled = out if pool else F.max_pool2d(out.float(), 2).bfloat16()
            pooled.backward(gradient)
            results.append((pooled, x.grad, weight.grad))
    at_once, apart = results
    assert torch.equal(at_once[0], apart[0])
    # Of two that bf16 makes equal, either may be called the larger one.
    assert error(at_once[1], apart[1]) < 0.1
    assert error(at_once[2], apart[2]) < 0.1


@needs_winograd
def test_a_pooled_gradient_goes_where_the_largest_was() -> None:
    x = features(2, 16, 9, 11).requires_grad_()
    weight = torch.zeros(16, 16, 3, 3)
    weight[:, :, 1, 1] = torch.eye(16)  # each channel as it is
    with patch.object(convolution, "winograd_pays", lambda: True):
        convolution.conv3x3(x, weight, pool=True).backward(features(2, 16, 4, 5, seed=1))
    exact = x.detach().float().requires_grad_()
    F.max_pool2d(exact, 2).backward(features(2, 16, 4, 5, seed=1).float())
    assert x.grad is not None
    assert error(x.grad, exact.grad) < 0.2  # a few ties, and what bf16 rounds


@needs_winograd
@pytest.mark.parametrize("at", [(2, 2), (3, 2), (2, 3), (3, 3), (4, 4), (5, 4), (4, 5), (5, 5)])
def test_pooling_at_once_keeps_what_is_not_a_number(at: tuple[int, int]) -> None:
    x = torch.zeros(1, 1, 6, 6).bfloat16()
    x[0, 0, *at] = float("nan")
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    with patch.object(convolution, "winograd_pays", lambda: True):
        out = convolution.conv3x3(x.contiguous(memory_format=torch.channels_last), weight, True)
    assert out[0, 0, at[0] // 2, at[1] // 2].isnan()


@needs_winograd
@pytest.mark.parametrize("place", [(0, 0), (3, 4), (8, 5), (4, 6)], ids=str)
def test_minimal_filtering_puts_each_filter_where_it_belongs(place: tuple[int, int]) -> None:
    x = torch.zeros(2, 5, 9, 7).bfloat16()
    x[1, 3, *place] = 1
    x = x.contiguous(memory_format=torch.channels_last)
    weight = filters(6, 5)
    with patch.object(convolution, "winograd_pays", lambda: True):
        out = convolution.conv3x3(x, weight)
    torch.testing.assert_close(
        out.float(), F.conv2d(x.float(), weight, padding=1), rtol=0.05, atol=5e-3
    )
    assert not out[0].any()  # the other picture


@needs_winograd
@pytest.mark.parametrize(
    ("height", "width", "products"), [(4, 8, 36), (3, 4, 30), (8, 2, 30), (3, 3, 25), (7, 3, 30)]
)
def test_a_tile_without_a_fourth_row_or_column_takes_fewer_products(
    height: int, width: int, products: int
) -> None:
    x, weight = features(2, 3, height, width), filters(5, 3)
    transformed = convolution._transformed(weight, back=False).view(36, -1)
    taken = 0
    for place in range(36):
        spoilt, out = transformed.clone(), torch.empty(2, height, width, 5, dtype=torch.bfloat16)
        spoilt[place] = float("nan")
        compiled.call("winograd", x, None, spoilt, out, None, 2, height, width, 3, 5)
        taken += bool(out.isnan().any())
    assert taken == products


@needs_winograd
def test_a_picture_is_filtered_alike_in_any_company_and_by_any_number_of_threads() -> None:
    x, weight = features(60, 24, 9, 9), filters(32, 24)
    threads = torch.get_num_threads()
    with patch.object(convolution, "winograd_pays", lambda: True):
        together = convolution.conv3x3(x, weight)
        assert torch.equal(convolution.conv3x3(x[17:30], weight), together[17:30])
        try:
            for count in (1, 3):
                torch.set_num_threads(count)
                assert torch.equal(convolution.conv3x3(x, weight), together)
        finally:
            torch.set_num_threads(threads)


@needs_winograd
def test_minimal_filtering_says_the_same_twice() -> None:
    gradients = []
    for _ in range(2):
        x = features(50, 24, 15, 15).requires_grad_()
        weight = filters(32, 24).requires_grad_()
        with patch.object(convolution, "winograd_pays", lambda: True):
            convolution.conv3x3(x, weight).backward(features(50, 32, 15, 15, seed=1))
        gradients.append((x.grad, weight.grad))
    for one, two in zip(*gradients, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [6, 7])
def test_what_is_not_finite_does_not_get_lost(side: int, value: float, way: str) -> None:
    x = features(3, 8, side, side)
    x[1, 2, 3, 3] = value
    x.requires_grad_()
    weight = filters(4, 8).requires_grad_()
    out = convolution.conv3x3(x, weight)
    assert not out[1, :, 3, 3].isfinite().any()
    assert out[::2].isfinite().all()  # pictures before and after it
    out.sum().backward()
    assert weight.grad is not None
    assert not weight.grad[:, 2].isfinite().all()


@needs_winograd
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("sides", [(4, 8), (9, 7)])
@pytest.mark.parametrize("threads", [1, 3])  # each sums over its pictures
@pytest.mark.parametrize("n", [1, 2, 9])
def test_filters_have_their_gradient_with_any_number_of_threads(
    n: int, threads: int, sides: tuple[int, int], pool: bool
) -> None:
    x, before = features(n, 24, *sides), torch.get_num_threads()
    weight = filters(40, 24).to(memory_format=torch.channels_last).requires_grad_()
    exact = weight.detach().double().requires_grad_()
    try:
        torch.set_num_threads(threads)
        with patch.object(convolution, "winograd_pays", lambda: True):
            convolution.conv3x3(x, weight, pool).sum().backward()
    finally:
        torch.set_num_threads(before)
    wanted = F.conv2d(x.double(), exact, padding=1)
    (F.max_pool2d(wanted, 2) if pool else wanted).sum().backward()
    # Of two that are nearly equal, either may be called the larger one.
    assert error(weight.grad, exact.grad) < (0.1 if pool else 0.02)


@needs_winograd
def test_filters_of_any_type_and_frozen_ones() -> None:
    x, weight = features(3, 8, 6, 6).requires_grad_(), filters(16, 8).bfloat16()
    exact = x.detach().double().requires_grad_()
    with patch.object(convolution, "winograd_pays", lambda: True):
        out = convolution.conv3x3(x, weight)
        out.backward(features(*out.shape, seed=1))
    wanted = F.conv2d(exact, weight.double(), padding=1)
    wanted.backward(features(*out.shape, seed=1).double())
    assert error(out, wanted) < 0.02
    assert error(x.grad, exact.grad) < 0.02
    assert weight.grad is None


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_filters_that_do_not_fit_are_refused(way: str) -> None:
    with pytest.raises(ValueError, match=r"filters \(4, 7, 3, 3\) do not fit"):
        convolution.conv3x3(features(2, 8, 6, 6), filters(4, 7))


@needs_winograd
def test_no_memory_is_said() -> None:
    x, weight = features(2, 8, 4, 4), filters(4, 8)

    def call(name: str, *arguments: object) -> int:
        return -1 if name == "winograd" else 8

    with (
        patch.object(convolution, "winograd_pays", lambda: True),
        patch.object(compiled, "call", call),
        pytest.raises(MemoryError, match="not enough memory"),
    ):
        convolution.conv3x3(x, weight)


@pytest.mark.parametrize(
    ("n", "width", "times"),
    [(500, 7, 4), (500, 3, 20), (125, 3, 5), (500, 15, 1), (7, 7, 1)],
)
def test_pictures_are_laid_side_by_side_where_rows_are_short(
    n: int, width: int, times: int
) -> None:
    assert convolution._side_by_side(n, width) == times
    x = torch.randn(n, 2, 3, width)
    laid = convolution._lay_side_by_side(x, times)
    if times == 1:
        assert laid is x
        return
    assert laid.shape == (n // times, 2, 3, times * (width + 1))
    pieces = laid.unflatten(3, (times, width + 1))
    assert not pieces[..., width].any()
    torch.testing.assert_close(pieces[..., :width].permute(0, 3, 1, 2, 4).reshape(x.shape), x)
