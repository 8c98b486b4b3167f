"""Predicting any number of picture files: few are in memory at once, and none stops the rest."""

import contextlib
import glob
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from eyebright.answers import NOT_SURE, Predictor, prediction_of
from eyebright.answers import Outcome as Outcome
from eyebright.calibration import Promises
from eyebright.console import counted, notices, progress_bar, shown
from eyebright.data.folders import each_picture
from eyebright.data.rows import ENDINGS as TABLES
from eyebright.data.rows import each_value
from eyebright.data.tables import PATH
from eyebright.errors import DataError
from eyebright.images import Pixels, read_bytes, read_header, read_image
from eyebright.machine import available_cores
from eyebright.picture_parts import JPEG

CHUNK_BYTES = 64 << 20  # of decoded pictures that go through the net one batch after the other
MOST_CHUNK, LEAST_CHUNK = 2048, 16  # pictures
PART = 16  # picture files that a thread decodes before it takes others
SMALL = 8192  # bytes of a file
NAMED = 3  # unreadable pictures, in messages
STDIN, LINES = Path("-"), ".txt"


class Tally:
    """What is seen of outcomes that go by.

    Args:
        promises: what answers are to keep.
        keep: the answers, in `answers`.
    """

    def __init__(self, promises: Promises, keep: bool = False):
        self.promises, self.keep = promises, keep
        self.n, self.bad = 0, 0
        self.classes = Counter[str]()
        self.first_bad: list[str] = []
        self.answers: list[tuple[Path, str | None]] = []
        """Pictures with their class; None: not sure."""

    def watch(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """The same outcomes, counted."""
        for one in outcomes:
            self.n += 1
            if one.prediction is None:
                self.bad += 1
                if len(self.first_bad) < NAMED:
                    self.first_bad.append(f"{shown(one.picture)}: {one.error}")
            else:
                said = one.prediction.answers(self.promises)
                answer = said.get("answer", one.prediction.label)
                self.classes[NOT_SURE if answer is None else answer] += 1
                if self.keep:
                    self.answers.append((one.picture, answer))
            yield one

    def line(self) -> str:
        """How many there were of each class."""
        counts = [f"{shown(label)} {count:,}" for label, count in self.classes.most_common()]
        return ", ".join(counts + [f"unreadable {self.bad:,}"] * bool(self.bad))

    def check(self) -> None:
        """See that all could be read.

        Raises:
            DataError: some could not; names the first.
        """
        if self.bad:
            named = "; ".join(self.first_bad) + "; ..." * (self.bad > NAMED)
            raise DataError(
                f"{self.bad:,} of {counted(self.n, 'picture')} cannot be read (--skip-bad): {named}"
            )


def find_pictures(words: Sequence[Path], lines: TextIO) -> tuple[Iterable[Path], int | None]:
    """The picture files that somebody names.

    Args:
        words: as in `each_named`.
        lines: the text that - stands for, which may go on for ever.

    Returns:
        The files, and how many they are; None where nobody knows yet.

    Raises:
        DataError: nothing there, or a folder without pictures.
    """
    files = each_named(words, lines)
    if STDIN in words:
        return files, None
    found = list(files)
    return found, len(found)


def each_named(words: Sequence[Path], lines: TextIO) -> Iterator[Path]:
    """The picture files that somebody names, of which few are in memory at once.

    Args:
        words: files, folders of them, patterns such as ``photos/*.jpg``, tables with a column
            ``path``, texts (.txt) with a path a line, or ``-``, which stands for such lines.
        lines: those.

    Yields:
        Them, in an order that is the same at each call.

    Raises:
        DataError: nothing there, or a folder without pictures; at once where - is not alone.
    """
    if STDIN in words:
        if len(words) > 1:
            raise DataError("- stands for all pictures there are: name no others beside it")
        return _of_lines(lines)
    return chain.from_iterable(map(_of_word, words))


def _of_word(word: Path) -> Iterator[Path]:
    ending = word.suffix.lower()
    if ending in TABLES and word.is_file():
        return (word.parent / path for path in each_value(word, PATH))
    if ending == LINES and word.is_file():
        return _of_text(word)
    if glob.has_magic(str(word)) and not os.path.lexists(word):
        if not (matches := sorted(glob.glob(str(word), recursive=True))):  # noqa: PTH207 - Path.glob takes no absolute pattern
            raise DataError(f"{shown(word)}: nothing is called so")
        return each_picture(map(Path, matches))
    return each_picture([word])


def _of_text(file: Path) -> Iterator[Path]:
    nothing = True
    try:
        with file.open(encoding="utf-8", errors="surrogateescape") as lines:
            for path in _of_lines(lines):
                nothing = False
                yield path
    except OSError as error:
        raise DataError(f"{shown(file)}: {error.strerror or error}") from None
    if nothing:
        raise DataError(f"{shown(file)}: no paths in it")


def _of_lines(lines: TextIO) -> Iterator[Path]:
    return (Path(line.rstrip("\r\n")) for line in lines if line.strip())


def predict_files(
    classifier: Predictor,
    files: Iterable[Path],
    workers: int | None = None,
    total: int | None = None,
    title: str | None = "predicting",
    most: int | None = None,
) -> Iterator[Outcome]:
    """What a model says of picture files, one after the other.

    A chunk of them is decoded by threads, then goes through the net. On a processor the two take
    turns, because both take all its cores; with a GPU the next chunk is decoded meanwhile.

    Args:
        classifier: the model.
        files: read as they are needed.
        workers: threads that decode; None: one a core.
        total: how many files there are, for the progress bar; None: nobody knows.
        title: of that bar; None: show none.
        most: pictures that the first outcome may have to wait for; None: as many as is fastest.

    Yields:
        An outcome for each file, in order.

    Raises:
        StorageError: memory ran out.
    """
    imgsz = classifier.card.imgsz
    chunk = max(LEAST_CHUNK, min(most or MOST_CHUNK, MOST_CHUNK, CHUNK_BYTES // (3 * imgsz**2)))
    ahead = 1 if classifier.leaves_cores_free else 0
    waiting: deque[list[Future[_Decoded]]] = deque()
    files = iter(files)
    pool = ThreadPoolExecutor(max(1, available_cores() if workers is None else workers))
    animations = 0
    with progress_bar(title or "", total, quiet=title is None) as bar:
        try:
            more = True
            while more or waiting:
                paths = list(islice(files, chunk)) if more else []
                if more := bool(paths):
                    size = len(paths) if _are_small(paths) else PART
                    parts = [paths[start : start + size] for start in range(0, len(paths), size)]
                    waiting.append([pool.submit(_decode, part, imgsz) for part in parts])
                if waiting and (len(waiting) > ahead or not more):
                    decoded = []
                    for part in waiting.popleft():
                        decoded.append(part.result())
                        bar.advance(len(decoded[-1].paths))
                    animations += sum(part.animations for part in decoded)
                    yield from _predict(classifier, decoded)
        finally:
            pool.shutdown(cancel_futures=True)
    if animations:
        notices.warning("%s: the first frame of each is used", counted(animations, "animation"))


def _are_small(paths: list[Path]) -> bool:
    """Whether one thread decodes them sooner than several, which would wait for each other.

    Of small files the most is Python, and only one thread at a time may run that.
    """
    sizes = []
    for path in paths[:: max(1, len(paths) // 10)]:
        with contextlib.suppress(OSError, ValueError):
            sizes.append(path.stat().st_size)
    return bool(sizes) and sum(sizes) < SMALL * len(sizes)


@dataclass(frozen=True)
class _Decoded:
    paths: list[Path]
    images: list[Pixels | None]
    errors: list[str]
    animations: int


def _decode(paths: list[Path], imgsz: int) -> _Decoded:
    images: list[Pixels | None] = []
    errors, animations = [], 0
    for path in paths:
        try:
            content = read_bytes(path)
            images.append(read_image(content, imgsz))
            errors.append("")
            # JPEGs have one frame, and a second look would cost as much as small ones take.
            animations += not content.startswith(JPEG) and read_header(content).animated
        except DataError as error:
            images.append(None)
            errors.append(str(error))
    return _Decoded(paths, images, errors, animations)


def _predict(classifier: Predictor, decoded: list[_Decoded]) -> Iterator[Outcome]:
    images = [image for part in decoded for image in part.images if image is not None]
    probabilities: Iterator[NDArray[np.float64]] = iter(())
    if images:
        probabilities = iter(classifier.predict_proba(np.stack(images)))
    for part in decoded:
        for path, image, error in zip(part.paths, part.images, part.errors, strict=True):
            found = (
                None if image is None else prediction_of(classifier.classes, next(probabilities))
            )
            yield Outcome(path, found, error)
