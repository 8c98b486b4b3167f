"""Optimizers against references in float64, and who moves which parameter."""

import pytest
import torch
from torch import Tensor, nn

from eyebright.config import TrainConfig
from eyebright.errors import UsageError
from eyebright.models import MODELS, create_model
from eyebright.optim import (
    Muon,
    Schedule,
    create_optimizers,
    keep_lr_on,
    orthogonalize,
    orthogonalize_filters,
    set_lr,
)

SGD = TrainConfig(optimizer="sgd", lr=0.1, momentum=0.9)
MUON = TrainConfig(optimizer="muon", lr=0.1, momentum=0.6, rest_lr=0.01)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_spectrum(rows: int, columns: int, low: float) -> Tensor:
    """A random matrix with singular values from ``low`` to 1."""
    left, _, right = torch.linalg.svd(normal(rows, columns), full_matrices=False)
    return left @ torch.diag(torch.linspace(low, 1, min(rows, columns))) @ right


MATRICES = {
    "wide": normal(32, 216),
    "wider": normal(8, 1000),
    "tall": normal(256, 64),
    "taller": normal(500, 10),
    "square": with_spectrum(64, 64, 0.2),
    "filters": with_spectrum(128, 1152, 0.3),
    "row": normal(1, 50),
    "tiny": 1e-4 * normal(32, 216),
    "huge": 1e6 * normal(32, 216),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_orthogonalize_evens_out_the_singular_values(kind: str) -> None:
    result = orthogonalize(MATRICES[kind])
    assert result.shape == MATRICES[kind].shape
    values = torch.linalg.svdvals(result.double())
    assert values.min() >= 0.3
    assert values.max() <= 1.4


@pytest.mark.parametrize("kind", MATRICES)
def test_orthogonalize_keeps_the_direction(kind: str) -> None:
    left, _, right = torch.linalg.svd(MATRICES[kind].double(), full_matrices=False)
    nearest = left @ right
    result = orthogonalize(MATRICES[kind]).double()
    cosine = (result * nearest).sum() / (result.norm() * nearest.norm())
    assert cosine > 0.95
    # It has the same singular vectors: between them nothing but a diagonal is left.
    middle = left.T @ result @ right.T
    assert (middle - torch.diag(middle.diag())).abs().max() < 1e-3


def test_orthogonalize_does_not_mind_the_scale() -> None:
    matrix = MATRICES["wide"]
    torch.testing.assert_close(orthogonalize(1000 * matrix), orthogonalize(matrix))
    assert not orthogonalize(torch.zeros(4, 9)).any()


def muon_in_float64(weights: Tensor, gradients: list[Tensor], lr: float, momentum: float) -> Tensor:
    """Muon as its page writes it: momentum, Nesterov, Newton-Schulz; weights of fixed norm."""
    w, velocity = weights.double().flatten(1), 0.0
    for gradient in gradients:
        g = gradient.double().flatten(1)
        velocity = momentum * velocity + g
        x = g + momentum * velocity
        x = x / torch.linalg.matrix_norm(x)
        for _ in range(3):
            x = 3.4445 * x - 4.775 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
        w = w * (len(w) ** 0.5 / torch.linalg.matrix_norm(w)) - lr * x
    return w.view(weights.shape)


@pytest.mark.parametrize("shape", [(16, 24, 3, 3), (64, 6, 2, 2), (8, 3, 1, 1)])
def test_muon_equals_a_reference_in_float64(shape: tuple[int, ...]) -> None:
    start = normal(*shape, seed=1)
    p = nn.Parameter(start.clone())
    gradients = [normal(*shape, seed=seed) for seed in (2, 3, 4, 5)]
    optimizer = Muon([p], lr=0.2, momentum=0.6)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
    wanted = muon_in_float64(start, gradients, lr=0.2, momentum=0.6)
    torch.testing.assert_close(p.detach().double(), wanted, rtol=1e-4, atol=1e-5)


def test_muon_does_not_mind_channels_last() -> None:
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        p = nn.Parameter(normal(16, 8, 3, 3).to(memory_format=layout))
        p.grad = normal(16, 8, 3, 3, seed=1).to(memory_format=layout)
        Muon([p], lr=0.1, momentum=0.5).step()
        results.append(p.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_muon_keeps_the_norm_of_the_weights(scale: float) -> None:
    p = nn.Parameter(scale * normal(32, 16, 3, 3))
    optimizer = Muon([p], lr=0.1, momentum=0.6)
    for seed in range(20):
        p.grad = normal(32, 16, 3, 3, seed=seed)
        optimizer.step()
        assert p.norm().item() == pytest.approx(32**0.5, rel=0.15)  # to within a step's length


def test_muon_moves_by_its_learning_rate_whatever_the_gradient() -> None:
    for scale in (1e-3, 1.0, 1e3):
        p = nn.Parameter(normal(32, 16, 3, 3))
        p.grad = scale * normal(32, 16, 3, 3, seed=1)
        before = p.detach() * (32**0.5 / p.norm())
        Muon([p], lr=0.05, momentum=0.6).step()
        step = (p - before).norm().item()
        assert step == pytest.approx(0.05 * 32**0.5, rel=0.25)


def test_filters_that_start_at_zero_stay_finite() -> None:
    p = nn.Parameter(torch.zeros(8, 3, 3, 3))
    p.grad = normal(8, 3, 3, 3)
    Muon([p], lr=0.1, momentum=0.6).step()
    assert p.isfinite().all()
    assert p.any()


def test_muon_leaves_parameters_without_gradient_alone() -> None:
    p = nn.Parameter(normal(8, 3, 3, 3))
    Muon([p], lr=0.1, momentum=0.6).step()
    assert torch.equal(p, normal(8, 3, 3, 3))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("config", [SGD, MUON], ids=["sgd", "muon"])
def test_every_trainable_parameter_is_moved_by_one_optimizer(
    name: str, config: TrainConfig
) -> None:
    net = create_model(name, 10)
    groups = [g for optimizer in create_optimizers(net, config) for g in optimizer.param_groups]
    moved = [id(p) for group in groups for p in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in net.parameters() if p.requires_grad)


def test_muon_moves_filters_and_nothing_else() -> None:
    net = create_model("white16", 10)
    muon, rest = create_optimizers(net, MUON)
    assert isinstance(muon, Muon)
    assert {p.ndim for p in muon.param_groups[0]["params"]} == {4}
    assert 4 not in {p.ndim for group in rest.param_groups for p in group["params"]}
    assert {group["lr"] for group in muon.param_groups} == {0.1}
    assert {group["lr"] for group in rest.param_groups} == {0.01}


@pytest.mark.parametrize("config", [SGD, MUON], ids=["sgd", "muon"])
@pytest.mark.parametrize(
    "net", [nn.Conv2d(3, 2, 3, bias=False), nn.Linear(4, 2)], ids=["filters", "linear"]
)
def test_nets_with_one_kind_of_parameter_can_be_trained(
    net: nn.Module, config: TrainConfig
) -> None:
    (optimizer,) = create_optimizers(net, config)
    before = [p.detach().clone() for p in net.parameters()]
    for i, p in enumerate(net.parameters()):
        p.grad = normal(*p.shape, seed=i)
    optimizer.step()
    assert not any(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("config", [SGD, MUON], ids=["sgd", "muon"])
def test_frozen_parameters_are_not_touched(config: TrainConfig) -> None:
    torch.manual_seed(0)
    net = create_model("white16", 10)
    net.stages[1].conv2.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizers = create_optimizers(net, config)
    for seed in range(2):
        net(normal(8, 3, 16, 16, seed=seed)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    parameters = dict(net.named_parameters())
    frozen = {name for name, p in parameters.items() if not p.requires_grad}
    assert {"whitening.weight", "stages.1.conv2.weight", "stages.0.norm1.weight"} <= frozen
    for name, p in parameters.items():
        assert torch.equal(p, before[name]) == (name in frozen), name


def test_the_lessons_sgd_equals_a_reference_in_float64() -> None:
    net = nn.Linear(5, 3)
    start = net.weight.detach().double().clone()
    (optimizer,) = create_optimizers(net, TrainConfig(optimizer="sgd", lr=0.001, momentum=0.9))
    velocity = torch.zeros(3, 5, dtype=torch.float64)
    for seed in range(5):
        for p in net.parameters():
            p.grad = normal(*p.shape, seed=seed)
        optimizer.step()
        velocity = 0.9 * velocity + normal(3, 5, seed=seed).double()
        start -= 0.001 * velocity
    torch.testing.assert_close(net.weight.detach().double(), start, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("config", [SGD, MUON], ids=["sgd", "muon"])
def test_a_net_without_parameters_is_refused(config: TrainConfig) -> None:
    with pytest.raises(UsageError, match="no parameters"):
        create_optimizers(nn.Flatten(), config)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UsageError, match="no parameters"):
        create_optimizers(frozen, config)


def test_the_learning_rate_follows_its_schedule() -> None:
    constant, linear = Schedule("constant", 4), Schedule("linear", 4)
    assert [constant.share(step) for step in range(4)] == [1, 1, 1, 1]
    assert [linear.share(step) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]


def test_a_schedule_that_is_changed_goes_on_from_where_it_is() -> None:
    schedule = Schedule("linear", 10)
    schedule.change(4, 8)
    assert schedule.total_steps == 8
    assert [schedule.share(step) for step in (4, 6, 8)] == pytest.approx([0.6, 0.3, 0])
    schedule.change(6, 12)
    assert [schedule.share(step) for step in (6, 9, 12)] == pytest.approx([0.3, 0.15, 0])
    schedule.change(9, 3)  # it cannot end before now
    assert schedule.total_steps == 9


def test_filters_are_orthogonalised_together_as_each_alone() -> None:
    shapes = [(16, 24, 3, 3), (16, 16, 3, 3), (64, 6, 2, 2), (8, 3, 1, 1), (16, 27)]
    filters = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    together = orthogonalize_filters(filters, torch.float32)
    for one, result in zip(filters, together, strict=True):
        assert result.shape == one.shape
        matrix = one.flatten(1)
        tall = len(matrix) > matrix.shape[1]
        alone = orthogonalize(matrix.T).T if tall else orthogonalize(matrix)
        torch.testing.assert_close(result.flatten(1), alone, rtol=1e-4, atol=1e-5)
    rough = orthogonalize_filters(filters, torch.bfloat16)
    for one, result in zip(together, rough, strict=True):
        assert result.dtype == torch.float32
        assert (one - result).norm() < 0.03 * one.norm()


def test_set_lr_gives_a_share_of_the_first_rate_each_time() -> None:
    optimizers = create_optimizers(create_model("white16", 10), MUON)
    for share in (1.0, 0.5, 0.5, 0.1, 1.0):
        set_lr(optimizers, share)
        rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        assert rates == pytest.approx([0.1 * share, 0.01 * share])


def test_sgd_for_the_rest_has_airbenchs_rates() -> None:
    net = create_model("white16", 10)
    config = TrainConfig(model="white16", batch_size=2000, rest="sgd", rest_lr=0.053)
    _, sgd = create_optimizers(net, config)
    head, biases = sgd.param_groups
    assert [p.shape for p in head["params"]] == [(10, 64)]
    # Of the mean loss of 2000 pictures, where airbench takes the sum.
    assert biases["lr"] == pytest.approx(0.053 * 2000)
    assert head["lr"] == pytest.approx(0.67 / 64**2 * 2000, rel=0.01)
    for group in head, biases:
        assert group["lr"] * group["weight_decay"] == pytest.approx(2e-6 * 2000)
    every = {id(p) for p in net.parameters() if p.requires_grad and p.ndim != 4}
    assert {id(p) for group in sgd.param_groups for p in group["params"]} == every


def test_rates_on_a_device_are_changed_where_they_lie() -> None:
    net = create_model("white16", 10)
    optimizers = create_optimizers(net, TrainConfig(model="white16"))
    keep_lr_on(torch.device("cpu"), optimizers)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    before = [rate.item() for rate in rates]
    set_lr(optimizers, 0.5)
    assert [rate.item() for rate in rates] == pytest.approx([rate / 2 for rate in before])
