"""The process that has the net, and what runs in it.

Two threads of one Python take turns; a net whose every step waited for a busy server's turn would
take ten times as long. So the net has a process of its own, which also may die of a picture without
taking the server along: another one is started.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from eyebright.calibration import Promises
from eyebright.console import notices, shown
from eyebright.errors import DataError, EyebrightError, StorageError
from eyebright.images import Pixels, limit_pixels, read_image
from eyebright.machine import available_cores

HUNG = 120.0  # seconds after which a net that does not answer is given up
Result = TypeVar("Result")
Row = NDArray[np.float64] | DataError
"""The probability of each class, or why the picture cannot be read."""


@dataclass(frozen=True)
class Wanted:
    """What the process is to load."""

    run: Path
    device: str = "auto"
    threads: int = 0
    """Of the net; 0: one for every two cores, since those that share a core wait for each other."""
    risk: float | None = None
    coverage: float | None = None
    most_pixels: int = 0
    heat_maps: bool = True


@dataclass(frozen=True)
class Loaded:
    """What the server knows of the model."""

    about: dict[str, Any]
    promises: Promises
    imgsz: int
    seconds: float
    """That one picture takes the net."""


_classifier: Any = None  # of this process


def load(wanted: Wanted) -> Loaded:
    """Load the model into this process, and see how fast it is.

    Raises:
        EyebrightError: it cannot be, for whatever reason.
    """
    global _classifier
    import torch

    from eyebright.run import Run
    from eyebright.serve.about import describe, usual_promises

    limit_pixels(wanted.most_pixels)
    torch.set_num_threads(wanted.threads or max(1, available_cores() // 2))
    run = Run(wanted.run)
    _classifier = run.classifier(wanted.device)
    promises = usual_promises(run, wanted.risk, wanted.coverage)
    imgsz = _classifier.card.imgsz
    black = np.zeros((1, imgsz, imgsz, 3), np.uint8)
    _classifier.predict_proba(black)  # the first one takes longer
    started = time.monotonic()
    _classifier.predict_proba(black)
    seconds = time.monotonic() - started
    can_explain = wanted.heat_maps and find_spec("captum") is not None
    about = describe(run, _classifier, promises) | {"explain": can_explain}
    return Loaded(about, promises, imgsz, seconds)


def predict(pictures: Sequence[bytes | Pixels]) -> tuple[float, list[Row]]:
    """Seconds that it took, and probabilities of pictures, encoded or decoded."""
    started = time.monotonic()
    imgsz = _classifier.card.imgsz
    decoded = [read(one, imgsz) if isinstance(one, bytes) else one for one in pictures]
    images = [one for one in decoded if not isinstance(one, DataError)]
    found = iter(_classifier.predict_proba(np.stack(images)) if images else [])
    rows = [one if isinstance(one, DataError) else next(found) for one in decoded]
    return time.monotonic() - started, rows


def read(content: bytes, imgsz: int) -> Pixels | DataError:
    """A picture decoded, or why it cannot be."""
    try:
        return read_image(content, imgsz)
    except DataError as error:
        return error


def explain(picture: Pixels, label: str | None) -> bytes:
    """The heat map of a picture, as a PNG.

    Raises:
        UsageError: the net cannot be explained.
    """
    from eyebright import explain as library  # captum takes a second, which can wait

    return library.explain(_classifier, picture, label, check=False).heat_png()


def _begin() -> None:
    """In the new process: signals are the server's business, and without it there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_it() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


class Net:
    """The net in its process.

    Args:
        wanted: what to load.
    """

    def __init__(self, wanted: Wanted):
        self.wanted = wanted
        self.is_there = False
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, _begin)

    def load(self) -> Loaded:
        """Wait until the model is there.

        Raises:
            EyebrightError: it cannot be loaded, or the process died of it.
        """
        try:
            loaded = self._pool.submit(load, self.wanted).result()
        except BrokenExecutor:
            raise StorageError(
                f"{shown(self.wanted.run)}: the process that loads the model died; is there memory?"
            ) from None
        self.is_there = True
        return loaded

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Do something with the model, when it has done what was asked for before.

        Raises:
            StorageError: the process died; another one is on its way.
            EyebrightError: whatever the function raises.
        """
        pool = self._pool
        try:
            job = asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
            async with asyncio.timeout(HUNG):
                return await job
        except (BrokenExecutor, TimeoutError):
            if pool is self._pool:  # the first one to notice
                notices.error("the net's process died; another one is started")
                self.is_there = False
                self._kill()
                self._start()
                threading.Thread(target=self._load_again, daemon=True).start()
            raise StorageError("the net is gone; it will be back in some seconds") from None

    def _load_again(self) -> None:
        try:
            self.load()
        except EyebrightError as error:
            notices.error("the model cannot be loaded again: %s", error)

    def close(self) -> None:
        """End the process, whatever it is at."""
        self._kill()
        # Its thread closes the pipes: were Python's own end to come first, it would write into one.
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _kill(self) -> None:
        for process in multiprocessing.active_children():
            process.kill()
