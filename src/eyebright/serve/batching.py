"""Pictures that wait for the net: a short queue, from which it takes as many as there are.

While the net works, pictures gather, so that batches grow by themselves when there is much to do.
The queue is bounded by the time that the last one would wait, as measured, so that whoever is let
in is answered soon, and whoever is not knows at once.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic

from eyebright.errors import DataError
from eyebright.images import Pixels, read_header
from eyebright.machine import available_cores
from eyebright.picture_parts import JPEG
from eyebright.serve.net import Row, read

LINGER = 0.002  # seconds that the first of a batch waits for others, where the net is idle
PATIENCE = 0.03  # seconds that nobody should wait longer than for those before
LEAST_WAITING = 16  # pictures that may wait, however slow the net
LEAST_BATCH, MOST_BATCH = 8, 64  # pictures that may go through the net at once
BATCH_SECONDS = 0.02  # and no more than take so long: who comes meanwhile waits for all of them
IN_FLIGHT = 2  # batches that are with the net, so that it need not wait for the next one
SMALL, FEW = 8192, 256 * 256  # bytes and pixels of a picture that the net's own process decodes
PROGRESSIVE = b"\xff\xc2"  # what such a JPEG has among its parts
LARGE = 1 << 23  # pixels of a picture that is decoded while no other such is, for want of memory
FADING = 0.9  # weight of what was measured before, in a mean time

Predict = Callable[[Sequence[bytes | Pixels]], Awaitable[tuple[float, list[Row]]]]
"""Seconds that a batch took the net, and its answers."""


class FullError(Exception):
    """No more may wait."""

    def __init__(self, seconds: int):
        super().__init__(seconds)
        self.seconds = seconds
        """After which it is worth to ask again."""


@dataclass
class Load:
    """How busy the net is."""

    net: float = 0.0
    """Seconds that a picture takes the net, on average."""
    decoding: float = 0.0
    """Seconds that decoding adds."""
    waiting: int = 0
    """Pictures that wait, those with the net included."""

    @property
    def ahead(self) -> float:
        """Seconds that a picture would wait for those before it."""
        return self.waiting * (self.net + self.decoding)

    @property
    def is_full(self) -> bool:
        """Whether another one would have to wait too long."""
        return self.waiting >= LEAST_WAITING and self.ahead > PATIENCE

    @property
    def seconds_to_wait(self) -> int:
        """After which it is worth to ask again."""
        return max(1, math.ceil(self.ahead))

    def at_once(self, seconds: float) -> int:
        """How many pictures are done in such a time."""
        return max(LEAST_BATCH, int(seconds / max(self.net + self.decoding, 1e-6)))

    @property
    def batch(self) -> int:
        """How many pictures to take at once."""
        return max(LEAST_BATCH, min(MOST_BATCH, int(BATCH_SECONDS / max(self.net, 1e-6))))


def faded(mean: float, new: float) -> float:
    """A mean of which the newest counts most."""
    return FADING * mean + (1 - FADING) * new if mean else new


@dataclass(frozen=True)
class Waiting:
    """A picture that waits."""

    picture: bytes | Pixels
    """Decoded, where it was large."""
    answer: asyncio.Future[Row]


def is_small(content: bytes) -> bool:
    """Whether it is decoded in no time: a few bytes may hold millions of pixels."""
    if len(content) > SMALL:
        return False
    if content.startswith(JPEG) and PROGRESSIVE not in content:
        return True  # each of its blocks takes bits, so that these bytes cannot hold many
    try:
        header = read_header(content)
    except DataError:
        return True  # which the net's process says again, at once
    return header.width * header.height <= FEW


class Batcher:
    """Predicts encoded pictures that arrive one by one.

    Args:
        predict: gives the net's answers to a batch.
        imgsz: side of the pictures that the net takes.
        seconds: that a picture takes the net, as far as is known.
    """

    def __init__(self, predict: Predict, imgsz: int, seconds: float):
        self.predict, self.imgsz = predict, imgsz
        self.load = Load(seconds)
        self._queue: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        threads = available_cores()
        self._decoders = ThreadPoolExecutor(threads, "decoder")
        self._free_decoder = asyncio.Semaphore(threads)
        self._decoding: set[asyncio.Task[None]] = set()
        self._one_large = threading.Lock()

    def submit(self, pictures: Sequence[bytes]) -> list[asyncio.Future[Row]]:
        """Let pictures wait for the net: all or none.

        Args:
            pictures: encoded.

        Returns:
            A future for each. Where it is cancelled before its turn, the picture is dropped.

        Raises:
            FullError: too many wait already.
        """
        if self.load.is_full:
            raise FullError(self.load.seconds_to_wait)
        loop = asyncio.get_running_loop()
        answers = []
        for content in pictures:
            answers.append(answer := loop.create_future())
            self.load.waiting += 1
            answer.add_done_callback(self._leave)
            if is_small(content):
                self._let_wait(content, answer)
            else:
                self._decoding.add(task := loop.create_task(self._decode(content, answer)))
                task.add_done_callback(self._decoding.discard)
        return answers

    def _leave(self, _: asyncio.Future[Row]) -> None:
        self.load.waiting -= 1

    def _let_wait(self, picture: bytes | Pixels, answer: asyncio.Future[Row]) -> None:
        self._queue.append(Waiting(picture, answer))
        self._arrived.set()

    async def decode(self, content: bytes) -> Pixels | DataError:
        """A picture decoded apart from the others, which it may not hold up."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoders, self._read, content)

    async def _decode(self, content: bytes, answer: asyncio.Future[Row]) -> None:
        """Decode a picture, then let it wait."""
        async with self._free_decoder:  # whoever is gone when his turn comes costs nothing
            if answer.done():
                return
            started = monotonic()
            picture = await self.decode(content)
            seconds = monotonic() - started
        self.load.decoding = faded(self.load.decoding, seconds / available_cores())
        if answer.done():
            return
        if isinstance(picture, DataError):
            answer.set_result(picture)
        else:
            self._let_wait(picture, answer)

    def _read(self, content: bytes) -> Pixels | DataError:
        try:
            header = read_header(content)
        except DataError as error:
            return error
        if header.width * header.height <= LARGE:
            return read(content, self.imgsz)
        with self._one_large:
            return read(content, self.imgsz)

    async def work(self) -> None:
        """Predict what waits, for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._queue) < self.load.batch:
                await asyncio.sleep(LINGER)
            batch = self._next()
            if not self._queue:
                self._arrived.clear()
            if not batch:
                continue
            try:
                seconds, rows = await self.predict([one.picture for one in batch])
            except Exception as error:
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            self.load.net = faded(self.load.net, seconds / len(batch))
            for one, row in zip(batch, rows, strict=True):
                if not one.answer.done():
                    one.answer.set_result(row)

    def _next(self) -> list[Waiting]:
        """The next ones; whoever has gone away meanwhile is passed over."""
        batch: list[Waiting] = []
        while self._queue and len(batch) < self.load.batch:
            one = self._queue.popleft()
            if not one.answer.done():
                batch.append(one)
        return batch

    def close(self) -> None:
        """Let the threads end."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
