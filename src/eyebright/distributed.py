"""Many processes that train one net: where they meet, over torch.distributed.

Started by torchrun, every process (a rank) runs the same program on its part of each batch. What
they must have in common goes through the functions here; in a process of its own each of them
gives back what it is given.
"""

import atexit
import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from eyebright.console import shown
from eyebright.errors import ModelError, StorageError, UsageError
from eyebright.files import read_json
from eyebright.ranks import Ranks, from_environment

TIMEOUT = 300.0  # seconds that a rank waits for another one before it gives up
PATIENT = timedelta(days=1)  # while the first rank of a machine reads the pictures
LOST = re.compile(r"gloo|nccl|closed by peer|reset by peer|timed? ?out|TCPStore|DistStore", re.I)
T = TypeVar("T")

_patient: Any = None  # the group of all ranks, for waits that may take long


def join() -> None:
    """Meet the other ranks, where torchrun started some.

    Raises:
        UsageError: ``EYEBRIGHT_TIMEOUT`` is no number of seconds.
        StorageError: they are not to be reached.
    """
    global _patient
    ranks = from_environment()
    if dist.is_initialized() or ranks.size < 2:
        return
    try:
        timeout = timedelta(seconds=float(os.environ.get("EYEBRIGHT_TIMEOUT", TIMEOUT)))
    except (ValueError, OverflowError):
        raise UsageError("EYEBRIGHT_TIMEOUT must be a number of seconds") from None
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus:
        torch.cuda.set_device(ranks.local_rank % gpus)
    with explained():
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        if (store := _fresh_store(ranks, timeout)) is None:
            dist.init_process_group(backend, timeout=timeout)
        else:
            dist.init_process_group(
                backend, timeout=timeout, store=store, rank=ranks.rank, world_size=ranks.size
            )
        _patient = dist.new_group(backend="gloo", timeout=PATIENT)
    atexit.register(leave)


def _fresh_store(ranks: Ranks, timeout: timedelta) -> Store | None:
    """A part of torchrun's store that nobody has written to; None without torchrun.

    torchrun keeps its store over its restarts, and what ranks that are gone left in it would be
    taken for the addresses of living ones. So the first rank makes up a name, which each of the
    others asks for by a name of its own.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, timeout=timeout)
    if ranks.rank:
        me = uuid.uuid4().hex
        store.set(f"asks/{ranks.rank}", me)
        name = store.get(f"told/{me}").decode()
        store.add(f"heard/{name}", 1)
        return PrefixStore(name, store)
    others = range(1, ranks.size)
    name, until = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    while store.add(f"heard/{name}", 0) < len(others):
        for other in others:
            if store.check([f"asks/{other}"]):
                store.set(f"told/{store.get(f'asks/{other}').decode()}", name)
        if time.monotonic() > until:
            raise StorageError("timed out: not all ranks came")
        time.sleep(0.02)
    return PrefixStore(name, store)


def leave() -> None:
    """Part from the other ranks."""
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what torch says of a rank that is gone into one line.

    Raises:
        StorageError: another rank is gone, or did not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        why = str(error).strip().splitlines()[0]
        raise StorageError(
            f"another rank is gone, or no longer answers ({why}); torchrun --max-restarts goes on"
        ) from None


def rank() -> int:
    """The number of this process; 0 if it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def part(n: int, of: int | None = None) -> slice:
    """Which of n things are this rank's, or another's; parts differ by one at most."""
    of = rank() if of is None else of
    return slice(n * of // size(), n * (of + 1) // size())


def told(value: T) -> T:
    """What the first rank says."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def said_by_all(value: T) -> list[T]:
    """What each rank says, in their order."""
    if size() == 1:
        return [value]
    box: list[Any] = [None] * size()
    dist.all_gather_object(box, value)
    return box


def total(values: Tensor) -> Tensor:
    """The sum over all ranks, without gradient."""
    if size() == 1:
        return values
    values = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(values)
    return values


def collected(values: Tensor) -> Tensor:
    """(ranks, ...): what each rank has, without gradient."""
    if size() == 1:
        return values[None]
    parts = [torch.empty_like(values) for _ in range(size())]
    dist.all_gather(parts, values)
    return torch.stack(parts)


def average(values: Tensor) -> Tensor:
    """The mean over all ranks, without gradient."""
    return total(values) / size()


def joined(mine: Tensor, n: int) -> Tensor:
    """All n rows, of which each rank has those of its `part`."""
    if size() == 1:
        return mine
    longest = -(-n // size())
    padded = mine.new_zeros((longest, *mine.shape[1:]))
    padded[: len(mine)] = mine
    shares = [part(n, of) for of in range(size())]
    pairs = zip(collected(padded), shares, strict=True)
    return torch.cat([rows[: share.stop - share.start] for rows, share in pairs])


@contextlib.contextmanager
def first_of_machine() -> Iterator[None]:
    """The first rank of each machine goes through the block before the others, which wait.

    So pictures are decoded once, and the others find them in the cache.
    """
    is_first_here = from_environment().local_rank == 0
    if size() > 1 and not is_first_here:
        dist.barrier(group=_patient)
    yield
    if size() > 1 and is_first_here:
        dist.barrier(group=_patient)


def wait() -> None:
    """Go on when all ranks are here."""
    if size() > 1:
        dist.barrier(group=_patient)


def launch() -> str | None:
    """What this start by torchrun, with all its restarts, is called; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return None
    # Without a name of its own (--rdzv-id) it is known by the agent, which outlives its ranks.
    return name if name != "none" else f"{socket.gethostname()}:{os.getppid()}"


def was_restarted() -> bool:
    """Whether torchrun has started any of the ranks again."""
    counts = said_by_all(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return any(one != "0" for one in counts)


def find_begun(runs: Path, asked: str, restarted: bool) -> Path | None:
    """The run that this start of torchrun began before one of its ranks was lost; None: none.

    Args:
        runs: the folder of runs.
        asked: what is to be trained, as ``env.json`` has it: a program may train several, and a
            name (``--rdzv-id``) may be used again.
        restarted: take one that came to its end too.
    """
    name = launch()
    if name is None:
        return None
    found = []
    for path in runs.glob("*/env.json"):
        with contextlib.suppress(ModelError):  # whoever else's run is damaged
            said = read_json(path)
            same = (said.get("launch"), said.get("asked")) == (name, asked)
            left = restarted or not said.get("finished")
            if same and left and (path.parent / "config.json").exists():
                found.append(path.parent)
    return max(found, key=lambda folder: (folder / "env.json").stat().st_mtime, default=None)


def check_alike(what: str, value: Any) -> None:
    """See that all ranks have the same before them.

    Raises:
        StorageError: they have not.
    """
    if any(one != value for one in said_by_all(value)):
        raise StorageError(
            f"{what}: not every rank sees the same; all machines need the same files"
        )


def check_seen(folder: Path) -> None:
    """See that all ranks see the run folder.

    Raises:
        StorageError: this one does not.
    """
    if not folder.is_dir():
        raise StorageError(
            f"{shown(folder)}: rank {rank()} does not see it; all machines need the same --runs"
        )
