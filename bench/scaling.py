"""What a second rank gives, and what it costs: compute, bytes of gradients, and waiting.

    python -m bench.scaling

Two ranks of one core each train a net between them, over a link of a known speed: two network
namespaces joined by a cable, with a token bucket at both ends (needs root and iproute2). Beside it
both do the same work at once without telling each other anything, which is what computing takes
there; and one rank does it with the machine to itself. Rows go into ``results/scaling.csv``;
`bench.simulate_scale` fits a model of the time of a step to them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist

from bench.rows import append_row
from eyebright import distributed
from eyebright.batches import Normalization
from eyebright.config import TrainConfig
from eyebright.data import Dataset
from eyebright.models import create_model
from eyebright.training import fit

CASES = (("lesson", 64), ("white16", 64), ("white16", 256), ("white32", 64), ("white64", 32))
"""A net, and pictures of 32 px a rank and step."""
LINKS = (None, 1000, 300, 100)
"""Mbit/s; None: as fast as the kernel copies."""
BURST = 256_000
"""Bytes that pass a limited link at once, whatever its speed."""
STEPS, EPOCHS = 8, 4  # the first epoch is for warming up
NAMES = "bench-a", "bench-b"
ADDRESSES = "10.78.0.1", "10.78.0.2"


def step_seconds(model: str, batch: int) -> float:
    """Median over the epochs of the mean time of a step, of this many pictures in all ranks."""
    torch.manual_seed(0)
    net = create_model(model, 10, 32)
    rng = np.random.default_rng(0)
    n = STEPS * batch
    data = Dataset(
        rng.integers(0, 256, (n, 32, 32, 3), np.uint8), rng.integers(0, 10, n), "abcdefghij"
    )
    config = TrainConfig(
        model=model, batch_size=batch, epochs=EPOCHS, precision="fp32", optimizer="sgd", lr=1e-3,
        augment="mirror+shift",
    )  # fmt: skip
    normalization = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    ends = [one.seconds for one in fit(net, data, None, config, normalization, None)]
    return float(np.median(np.diff(ends))) / STEPS


def work(cases: list[list[Any]], threads: int) -> list[dict[str, float]]:
    """What a rank measures of each case: together with the other, and beside it."""
    torch.set_num_threads(threads)
    distributed.join()
    size, found = distributed.size(), []
    for model, batch in cases:
        exchanges = 0.0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*words: Any, **options: Any) -> Any:
                nonlocal exchanges
                exchanges += 1
                return real(*words, **options)

            return call

        with (
            patch.object(dist, "all_reduce", counted(dist.all_reduce)),
            patch.object(dist, "all_gather", counted(dist.all_gather)),
        ):
            together = step_seconds(model, batch * size)
        distributed.wait()
        with (
            patch.object(distributed, "size", lambda: 1),
            patch.object(distributed, "rank", lambda: 0),
        ):
            beside = step_seconds(model, batch)
        distributed.wait()
        exchanges /= STEPS * EPOCHS
        found.append({"together": together, "beside": beside, "exchanges": exchanges})
    distributed.leave()
    return found


@contextmanager
def cable() -> Iterator[None]:
    """Two namespaces that are joined."""
    for name in NAMES:
        ip("netns", "add", name)
    try:
        ip("-n", NAMES[0], *f"link add cable type veth peer name cable netns {NAMES[1]}".split())
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name], check=False)


@contextmanager
def limited_to(mbits: int | None) -> Iterator[None]:
    """Both directions of the cable carry no more than this."""
    if mbits is None:
        yield
        return
    ends = [["ip", "netns", "exec", name, "tc", "qdisc"] for name in NAMES]
    limit = f"root tbf rate {mbits}mbit burst {BURST} latency 100ms".split()
    for end in ends:
        subprocess.run([*end, "add", "dev", "cable", *limit], check=True)
    try:
        yield
    finally:
        for end in ends:
            subprocess.run([*end, "delete", "dev", "cable", "root"], check=True)


def ip(*words: str) -> None:
    """Tell the kernel of a network."""
    subprocess.run(["ip", *words], check=True)


def ranks_find(
    size: int, port: int, cases: list[list[Any]], threads: int = 1
) -> list[dict[str, float]]:
    """What so many ranks find of the cases, the slowest counting."""
    command = [sys.executable, "-m", "bench.scaling", "--threads", str(threads), "--work"]
    ranks = []
    for rank in range(size):
        here = {
            "RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": ADDRESSES[0],
            "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "cable",
            "OMP_NUM_THREADS": str(threads),
        }  # fmt: skip
        inside = ["ip", "netns", "exec", NAMES[rank], *command, json.dumps(cases)]
        ranks.append(subprocess.Popen(inside, env=os.environ | here, stdout=subprocess.PIPE))
    said = [json.loads(rank.communicate()[0]) for rank in ranks]
    return [
        {key: max(one[key] for one in case) for key in case[0]} for case in zip(*said, strict=True)
    ]


def main() -> None:
    """Measure each case over each link, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=json.loads, help="what one of the ranks does")
    parser.add_argument("--threads", type=int, default=1, help="of a rank")
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.work, options.threads)))
        return
    cases = [list(case) for case in CASES]
    with cable():
        alone = ranks_find(1, 29500, cases)
        both_cores = ranks_find(1, 29500, [[model, 2 * batch] for model, batch in CASES], 2)
        for number, link in enumerate(LINKS):
            with limited_to(link):
                print(f"{link or 'unlimited'} Mbit/s", time.strftime("%H:%M:%S"), file=sys.stderr)
                pairs = ranks_find(2, 29501 + number, cases)
            for (model, batch), one, both, two in zip(CASES, alone, both_cores, pairs, strict=True):
                gradient = sum(4 * p.numel() for p in create_model(model, 10, 32).parameters())
                append_row("scaling", {
                    "model": model,
                    "batch_per_rank": batch,
                    "link_mbit_per_s": link or "",
                    "gradient_bytes": gradient,
                    "exchanges_per_step": round(two["exchanges"], 2),
                    "one_rank_ms": round(1e3 * one["together"], 2),
                    "one_rank_two_cores_ms": round(1e3 * both["together"], 2),
                    "two_ranks_ms": round(1e3 * two["together"], 2),
                    "compute_ms": round(1e3 * two["beside"], 2),
                    "wait_ms": round(1e3 * (two["together"] - two["beside"]), 2),
                    "efficiency": round(one["together"] / two["together"], 3),
                })  # fmt: skip


if __name__ == "__main__":
    main()
