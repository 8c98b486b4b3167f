"""Where the time of a training step goes, and how near it comes to the convolutions' peak.

    python -m bench.profile --recipe fast

Prints the parts of a step by torch's profiler and appends a row to ``results/profile.csv``: images
a second, arithmetic an image, the share of the peak that 3×3 convolutions reach on this machine in
the same minute, and the share of the step that data take.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from unittest.mock import patch

import torch
import torch.nn.functional as F
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from bench.rows import append_row
from eyebright import kernels
from eyebright.batches import Normalization, train_batches
from eyebright.choices import decide
from eyebright.config import TrainConfig
from eyebright.console import out
from eyebright.data import Dataset, load
from eyebright.losses import cross_entropy
from eyebright.prepare import prepare_net
from eyebright.recipes import recipe_config
from eyebright.runtime import choose_device, set_up
from eyebright.training import fit

# (channels in, channels out, side): shapes that nets for small pictures have
PEAK_SHAPES = [(32, 128, 16), (64, 128, 16), (64, 256, 16), (128, 128, 16), (256, 256, 14)]
PARTS = {  # which operations make up a part of the step
    "convolutions, backward": ("aten::convolution_backward", "_WinogradBackward"),
    "convolutions, forward": ("aten::mkldnn_convolution", "aten::convolution", "_Winograd"),
    "pooling, norm, GELU": ("_NormGelu", "_BiasGelu", "aten::gelu", "aten::max_pool", "batch_norm"),
    "Newton-Schulz products": ("aten::bmm", "aten::baddbmm"),
    "copies and fills": ("aten::copy_", "aten::fill_", "aten::index", "aten::flip", "aten::where"),
}


def seconds_of(work: Callable[[], object], times: int = 5) -> float:
    """The median of a few runs, after two to get warm."""
    seconds = []
    for i in range(times + 2):
        start = time.perf_counter()
        work()
        if i > 1:
            seconds.append(time.perf_counter() - start)
    return median(seconds)


def convolution_peak(precision: str) -> float:
    """GFLOP/s of the best of some 3×3 convolutions, forward and backward, batches of 256."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for channels_in, channels_out, side in PEAK_SHAPES:
        x = torch.randn(256, channels_in, side, side, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels_out, channels_in, 3, 3, dtype=dtype)
        weight = weight.contiguous(memory_format=torch.channels_last).requires_grad_()
        gradient = torch.randn_like(F.conv2d(x, weight, padding=1))

        def work(x: torch.Tensor = x, w: torch.Tensor = weight, g: torch.Tensor = gradient) -> None:
            torch.autograd.grad(F.conv2d(x, w, padding=1), (x, w), g)

        operations = 3 * 2 * x.numel() * channels_out * 9
        best = max(best, operations / seconds_of(work) / 1e9)
    return best


def count_operations(
    net: torch.nn.Module, data: Dataset, config: TrainConfig, normalization: Normalization
) -> float:
    """GFLOP of convolutions and products for one picture, forward and backward."""
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    [(pictures, targets), *_] = train_batches(images, labels, config, normalization, 1)
    counter = FlopCounterMode(display=False)
    # Without our kernels, whose pictures side by side have zeros between them.
    with counter, patch.object(kernels, "ready", lambda features: False):
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            logits = net(pictures)
        cross_entropy(logits, targets).backward()
    net.zero_grad()
    return float(counter.get_total_flops()) / len(pictures) / 1e9


def part_of(operation: str) -> str:
    """Which part of the step an operation belongs to."""
    for part, names in PARTS.items():
        if any(name in operation for name in names):
            return part
    return "everything else"


def main() -> None:
    """Measure, print, write the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    device = choose_device("cpu")
    whole = load("cifar10")
    config = recipe_config(arguments.recipe)
    config = decide(config, {}, whole, len(whole), device)
    config = config.replace(max_steps=arguments.steps)
    set_up(device, config.threads, config.seed)
    net, normalization = prepare_net(None, config, whole, whole)
    data = whole.subset(range(min(len(whole), config.batch_size * arguments.steps)))
    operations = count_operations(net, data.subset(range(config.batch_size)), config, normalization)
    peak = convolution_peak(config.precision)

    def train() -> float:
        *_, last = fit(net, data, None, config, normalization, None)
        return last.seconds / last.step

    train()
    step_seconds = median(train() for _ in range(3))
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)

    def prepare() -> None:
        for _ in train_batches(images, labels, config, normalization, 1):
            pass

    data_seconds = seconds_of(prepare, 3) / arguments.steps
    with torch.profiler.profile() as profile:
        train()
    table = Table(title=f"a step of {arguments.recipe}: {1000 * step_seconds:.0f} ms")
    table.add_column("part")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    spent: dict[str, float] = {}
    for event in profile.key_averages():
        part = part_of(event.key)
        spent[part] = spent.get(part, 0.0) + event.self_cpu_time_total / arguments.steps / 1000
    total = sum(spent.values())
    for part, milliseconds in sorted(spent.items(), key=lambda item: -item[1]):
        table.add_row(part, f"{milliseconds:.1f}", f"{100 * milliseconds / total:.0f} %")
    out.print(table)
    speed = config.batch_size / step_seconds
    append_row(
        "profile",
        {
            "recipe": arguments.recipe,
            "model": config.model,
            "batch_size": config.batch_size,
            "precision": config.precision,
            "images_per_second": round(speed),
            "gflop_per_image": round(operations, 4),
            "gflops": round(speed * operations),
            "convolution_peak_gflops": round(peak),
            "share_of_peak": round(speed * operations / peak, 3),
            "data_share": round(data_seconds / step_seconds, 4),
        },
    )


if __name__ == "__main__":
    main()
