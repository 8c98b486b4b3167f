"""The parts that a JPEG or PNG is made of, counted before anything of it is decoded."""

import re
from collections.abc import Iterator
from itertools import islice, takewhile

JPEG = b"\xff\xd8"  # what such a file begins with
PNG = b"\x89PNG"
SCAN, END = b"\xff\xda", b"\xff\xd9"
# What begins a part of a JPEG; between parts, 0xff stands before these others only.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)


def has_more_notes_than(most: int, content: bytes) -> bool:
    """Whether a picture has more parts than this that are no pixels; of other formats: no."""
    notes: Iterator[bytes]
    if content.startswith(PNG):
        notes = (name for name in _parts_of_png(content) if name != b"IDAT")
    elif content.startswith(JPEG):
        notes = takewhile(lambda marker: marker != SCAN, _parts_of_jpeg(content))
    else:
        return False
    return any(True for _ in islice(notes, most, None))


def has_more_scans_than(most: int, content: bytes) -> bool:
    """Whether a JPEG goes over its pixels more often than this."""
    if content.count(SCAN) <= most:  # most have no more than a thumbnail's beside their own
        return False
    return sum(marker == SCAN for marker in _parts_of_jpeg(content)) > most


def _parts_of_png(content: bytes) -> Iterator[bytes]:
    """The names of its parts."""
    at = 8
    while at + 8 <= len(content):
        yield content[at + 4 : at + 8]
        at += 12 + int.from_bytes(content[at : at + 4], "big")


def _parts_of_jpeg(content: bytes) -> Iterator[bytes]:
    """What its parts begin with, up to its end."""
    at = 2
    while (match := MARKER.search(content, at)) and match[0] != END:
        yield match[0]
        at = match.end() + int.from_bytes(content[match.end() : match.end() + 2], "big")
