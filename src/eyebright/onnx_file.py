"""What an ONNX file holds, before anything is made of it. Without the package onnx.

The format is Protocol Buffers: fields of a number and a value, nested. Only what matters for trust
is looked at: metadata, tensors that would be read from other files, and what may run for ever.
"""

from collections.abc import Iterator

MOST_BYTES = (1 << 31) - 1  # as many as the format allows
MOST_FIELDS = 2_000_000  # the largest net of timm has about a tenth
DEEPEST = 16  # messages within each other
REPEATS = frozenset(("If", "Loop", "Scan", "SequenceMap"))  # our own graphs need no branch
DOMAINS = frozenset((b"", b"ai.onnx", b"com.microsoft"))

# message -> field -> message: the parts of onnx.proto3 that hold tensors or nodes.
NESTED = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
    "training": {},
}  # fmt: skip
METADATA = 14  # of a model
OP_TYPE, DOMAIN = 4, 7  # of a node
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of a tensor


def read_metadata(content: bytes) -> dict[str, str]:
    """The metadata of an ONNX model that is complete in itself and ends.

    Raises:
        ValueError: it is none, or holds what no model of ours does; says what.
    """
    metadata: dict[str, str] = {}
    waiting = [("model", memoryview(content), 0)]
    count = 0
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError("nested too deeply")
        if kind in ("training", "function"):  # functions that call each other never end
            raise ValueError(f"it holds a {kind} graph of its own")
        for number, value in _fields(message):
            count += 1
            if count > MOST_FIELDS:
                raise ValueError("too many parts")
            if kind == "tensor" and (
                number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)
            ):
                raise ValueError("its weights would be read from other files")
            if isinstance(value, int):
                continue
            if kind == "model" and number == METADATA:
                key, text = _entry(value)
                if key in metadata:
                    raise ValueError("metadata that say two things")
                metadata[key] = text
            elif kind == "node" and number == OP_TYPE and str(value, "ascii") in REPEATS:
                raise ValueError(f"it branches or repeats ({str(value, 'ascii')})")
            elif kind == "node" and number == DOMAIN and bytes(value) not in DOMAINS:
                raise ValueError("it needs operators of somebody else")
            elif number in NESTED[kind]:
                waiting.append((NESTED[kind][number], value, depth + 1))
    return metadata


def _entry(message: memoryview) -> tuple[str, str]:
    """Key and value of one entry of the metadata."""
    found = {n: str(value, "utf-8") for n, value in _fields(message) if not isinstance(value, int)}
    return found.get(1, ""), found.get(2, "")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: an integer, or bytes that may be text or a message.

    Raises:
        ValueError: cut short, or no message.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("no ONNX file, or damaged")
        if at + length > end:
            raise ValueError("no ONNX file, or cut short")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("no ONNX file, or cut short")
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("no ONNX file, or damaged")
