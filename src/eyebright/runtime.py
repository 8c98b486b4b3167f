"""Where we run: device, precision, threads, seeds and memory."""

import contextlib
import ctypes
import os
import platform
import random
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch

from eyebright.errors import StorageError, UsageError
from eyebright.machine import available_cores
from eyebright.ranks import from_environment

Precision = Literal["fp32", "bf16"]
NOT_DETERMINISTIC = re.compile(r"(\w+) does not have a deterministic implementation")
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.I)


def choose_device(name: str = "auto") -> torch.device:
    """The device to run on.

    Args:
        name: ``auto`` (cuda:0 if there is one, else Apple's mps, else cpu), ``cpu``, ``cuda``,
            ``cuda:1``, ``mps``. Of several ranks on a machine each has a GPU of its own.

    Raises:
        UsageError: no such device, or this machine has none.
    """
    mine = from_environment().local_rank
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device(f"cuda:{mine % cuda}" if cuda else "mps" if mps else "cpu")
    have = ["cpu", *(["cuda"] if cuda else []), *(f"cuda:{i}" for i in range(cuda))]
    have += ["mps"] if mps else []
    if name not in have:
        raise UsageError(f"this machine has no device '{name}'; it has: {', '.join(have)}")
    return torch.device(f"cuda:{mine % cuda}" if name == "cuda" else name)


def use_own_cores() -> None:
    """Of several ranks on a machine, let torch use this one's share of the cores, not only one."""
    if from_environment().local_size > 1:
        torch.set_num_threads(available_cores())


def choose_precision(name: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """The number format of the training arithmetic: bf16 where the hardware has it, else fp32.

    Evaluation and prediction run in fp32, whatever this says.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False):
        return "bf16"
    return "fp32"


def has_matrix_hardware(device: torch.device) -> bool:
    """Whether there is hardware for matrix products: an NVIDIA GPU, or a processor with AMX."""
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return device.type == "cuda"


def set_up(device: torch.device, threads: int, seed: int, deterministic: bool = False) -> None:
    """Seed every generator, set the threads, and keep memory that was freed.

    Args:
        device: where training will run.
        threads: processor threads; 0: one a core that this process may use.
        seed: for Python, NumPy and torch.
        deterministic: on a GPU, only kernels that always give the same last digits.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - users' own nets may draw from it
    torch.manual_seed(seed)
    torch.set_num_threads(threads or available_cores())
    exact_fp32()
    if device.type == "cuda":
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins
            torch.use_deterministic_algorithms(True)
    else:
        keep_freed_memory()


def exact_fp32() -> None:
    """Let fp32 mean fp32, on tensor cores too, where torch would take shortened factors."""
    torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]  # set by __setattr__


@contextlib.contextmanager
def older_flags() -> Iterator[None]:
    """While the block runs, torch's older flags of fp32 can be read, which `exact_fp32` forbids.

    `torch.export` reads and sets them; afterwards fp32 is exact as before.
    """
    parts: Any = torch.backends.cudnn
    torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
    parts.conv.fp32_precision = parts.rnn.fp32_precision = "tf32"  # as torch has them at first
    try:
        yield
    finally:  # once they were set, they no longer follow the one for all
        parts.conv.fp32_precision = parts.rnn.fp32_precision = "ieee"
        exact_fp32()


@contextlib.contextmanager
def timed_kernels() -> Iterator[None]:
    """While the block runs, a GPU's kernels are chosen by timing them, unless all are to be alike.

    That takes some tenths of a second, which training is worth and a look at some pictures is not.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def explained(advice: Callable[[], str]) -> Iterator[None]:
    """Turn what torch says of too little memory, or of a missing kernel, into one line.

    Args:
        advice: asked what to do where memory ran out, after it was given back.

    Raises:
        StorageError: out of memory, with this advice.
        UsageError: a kernel that always gives the same last digits was wanted, and there is none.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if no_kernel := NOT_DETERMINISTIC.search(str(error)):
            raise UsageError(
                f"--deterministic: {no_kernel[1]}, which this net needs, has no such kernel"
            ) from None
        if not is_out_of_memory(error):
            raise
        free_what_it_held(error)
        raise StorageError(f"out of memory; {advice()}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of a processor or a GPU ran out."""
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(str(error)))


def free_what_it_held(error: BaseException) -> None:
    """Give back the memory of everything that an error broke off."""
    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Tell glibc to keep large blocks that are freed, instead of giving them back at once.

    A step frees and allocates the same activations again and again; fresh pages from the kernel
    must each be faulted in and cleared, which took 38 % of a step's time (`bench/notes.md`).
    Elsewhere than on glibc nothing happens.
    """
    trim_threshold, mmap_max = -1, -4  # names of <malloc.h>
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def memory_format(
    batch_size: int, imgsz: int, precision: str, device: torch.device
) -> torch.memory_format:
    """How pictures and filters lie in memory: channels last, but for tiny batches on a processor.

    Args:
        batch_size: pictures a batch.
        imgsz: their side, in pixels.
        precision: of the arithmetic; only fp32 has kernels that do without oneDNN.
        device: where training runs.
    """
    tiny = batch_size * imgsz**2 <= 16 * 32 * 32
    tiny = tiny and precision == "fp32" and device.type == "cpu"
    return torch.contiguous_format if tiny else torch.channels_last


@contextlib.contextmanager
def onednn_for(layout: torch.memory_format) -> Iterator[None]:
    """While the block runs, tiny batches are convolved without oneDNN.

    What it sets up at each call costs more than it saves on four small pictures
    (`bench/notes.md`).

    Args:
        layout: what `memory_format` said.
    """
    if layout == torch.channels_last or not torch.backends.mkldnn.is_available():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of TF32, which no processor has
        switch = torch.backends.mkldnn.flags(enabled=False)
        switch.__enter__()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            switch.__exit__(None, None, None)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Layers in bf16, where a run's precision is that."""
    # A step on a GPU is recorded, and must cast its weights each time: they are not kept.
    kept = device.type != "cuda"
    return torch.autocast(device.type, torch.bfloat16, precision == "bf16", cache_enabled=kept)


def records_steps(device: torch.device) -> bool:
    """Whether a step is recorded and replayed (`eyebright.graphs`), so all of it lies there."""
    return device.type == "cuda"


def fuses_optimizers(device: torch.device) -> bool:
    """Whether torch's optimizers are one kernel there, which counts its steps on the device.

    The others ask for the number at every step.
    """
    return device.type in ("cpu", "cuda")


def describe(device: torch.device) -> dict[str, Any]:
    """What ``env.json`` holds: versions, device, threads, command line and git state."""
    packages = ["eyebright", "torch", "torchvision", "timm", "numpy", "pillow", "safetensors"]
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "system": platform.platform(),
        "device": str(device),
        "device_name": device_name(device),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "command": [os.fsencode(word).decode("utf-8", "backslashreplace") for word in sys.argv],
        "git": _git_state(),
    }


def device_name(device: torch.device) -> str:
    """What the maker calls a device; of a processor, where the system says so."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git_state() -> dict[str, Any] | None:
    """Commit and cleanness of the folder that the command was given in; None outside git."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", *words], capture_output=True, text=True, timeout=5, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changes)}
