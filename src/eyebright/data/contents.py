"""What lies where in the shards of a part: a safetensors file, checked before anything rests on it.

It has the numbers of the part's pictures (shard, offset, length, label, size, SHA-256) in the order
of their source, and their ids. It cannot hold code, and is read within limits.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyebright.console import shown
from eyebright.data.index import INDEX, Index, Part
from eyebright.data.streams import BLOCK, Members, OpenFiles
from eyebright.errors import DataError
from eyebright.files import read_safetensors, write_file
from eyebright.images import MOST_BYTES

NUMBERS = {
    "shard": np.int32, "offset": np.int64, "length": np.int64, "label": np.int32,
    "width": np.int32, "height": np.int32, "mode": np.int16,
}  # fmt: skip
"""One of each a picture."""
MOST_TEXT = 4096  # bytes of an id and of each column of a picture, on average

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Contents:
    """The pictures of a part, in the order of their source."""

    members: Members
    labels: NDArray[np.int64]
    sizes: NDArray[np.int32]
    modes: NDArray[np.int16]
    ids: list[int | str]
    columns: dict[str, list[str]]


def numbers_file(part: str) -> str:
    """What the file with the numbers of a part's pictures is called."""
    return f"{part}.safetensors"


def write_numbers(
    folder: Path,
    part: str,
    numbers: Arrays,
    ids: list[int | str],
    columns: dict[str, list[str]],
) -> str:
    """Write the file with the numbers of a part's pictures.

    Args:
        folder: of the shards.
        part: its name.
        numbers: `NUMBERS`, and ``digest``, uint8 (n, 32).
        ids: one a picture.
        columns: n texts each.

    Returns:
        The SHA-256 of the file.
    """
    from safetensors.numpy import save as save_arrays

    arrays = dict(numbers)
    if ids and all(type(one) is int for one in ids):
        arrays["numbered"] = np.array(ids, np.int64)
    else:
        arrays["ids"], arrays["ids.ends"] = _pack([str(one) for one in ids])
    for i, values in enumerate(columns.values()):
        arrays[f"column{i}"], arrays[f"column{i}.ends"] = _pack(values)
    content = save_arrays({name: np.ascontiguousarray(a) for name, a in arrays.items()})
    write_file(folder / numbers_file(part), content)
    return hashlib.sha256(content).hexdigest()


def _pack(texts: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts one behind the other, and where each ends; names that are no UTF-8 keep their bytes."""
    coded = [text.encode("utf-8", "surrogateescape") for text in texts]
    ends = np.cumsum([len(one) for one in coded], dtype=np.int64)
    return np.frombuffer(b"".join(coded), np.uint8), ends


def _unpack(blob: NDArray[np.uint8], ends: NDArray[np.int64], n: int) -> list[str]:
    if blob.dtype != np.uint8 or ends.dtype != np.int64 or blob.ndim != 1 or ends.shape != (n,):
        raise ValueError("texts of another kind")
    starts = np.concatenate(([0], ends[:-1]))
    if (starts > ends).any() or ends[-1] != len(blob) or starts[0] != 0 or (ends < 0).any():
        raise ValueError("texts that do not fit together")
    coded = blob.tobytes()
    return [
        coded[start:end].decode("utf-8", "surrogateescape")
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def read_contents(folder: Path, index: Index, name: str) -> Contents:
    """The pictures of a part, every number of them checked, and its shards looked at.

    Of each shard its length and the headers of its first and last picture are compared; the bytes
    of a picture are, with its SHA-256, each time that it is read.

    Raises:
        DataError: missing, damaged or changed; names the file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    part, path = index.parts[name], folder / numbers_file(name)
    n = part.pictures
    most = n * (sum(np.dtype(kind).itemsize for kind in NUMBERS.values()) + 32)
    most += n * (1 + len(part.columns)) * (MOST_TEXT + 8)
    try:
        content = read_safetensors(path, most)
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise ValueError(f"not the file that {INDEX} knows")
        arrays = load_arrays(content)
        numbers = {key: _numbers(arrays[key], (n,), kind) for key, kind in NUMBERS.items()}
        digest = _numbers(arrays["digest"], (n, 32), np.uint8)
        ids: list[int | str]
        if "numbered" in arrays:
            ids = [*_numbers(arrays["numbered"], (n,), np.int64).tolist()]
        else:
            ids = [*_unpack(arrays["ids"], arrays["ids.ends"], n)]
        columns = {
            column: _unpack(arrays[f"column{i}"], arrays[f"column{i}.ends"], n)
            for i, column in enumerate(part.columns)
        }
        _check_numbers(numbers, index, part)
    except OSError as error:
        raise DataError(f"{shown(path)}: {error.strerror or error}") from None
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{shown(path)}: no index of these shards ({error})") from None
    members = Members(
        tuple(folder / shard.name for shard in part.shards),
        numbers["shard"], numbers["offset"], numbers["length"], digest, OpenFiles(),
    )  # fmt: skip
    _check_shards(members, part)
    sizes = np.stack((numbers["width"], numbers["height"]), 1)
    labels = numbers["label"].astype(np.int64)
    return Contents(members, labels, sizes, numbers["mode"], ids, columns)


def _numbers(found: NDArray[Any], shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    if found.shape != shape or found.dtype != kind:
        raise ValueError(f"{found.dtype} of shape {found.shape} in place of {shape}")
    return found


def _check_numbers(numbers: Arrays, index: Index, part: Part) -> None:
    """See that every number lies within what there is.

    Raises:
        ValueError: one does not.
    """
    ends = np.array([shard.bytes for shard in part.shards])
    within = {
        "shard": (0, len(part.shards) - 1),
        "label": (0, len(index.classes) - 1),
        "mode": (0, len(index.modes) - 1),
        "width": (1, 2**31 - 1),
        "height": (1, 2**31 - 1),
        "length": (1, MOST_BYTES),
        "offset": (BLOCK, int(ends.max())),
    }
    for name, (least, most) in within.items():
        if numbers[name].min() < least or numbers[name].max() > most:
            raise ValueError(f"{name} of a picture lies outside {least:,} to {most:,}")
    if (numbers["offset"] + numbers["length"] > ends[numbers["shard"]]).any():
        raise ValueError("a picture lies behind the end of its shard")
    found = np.bincount(numbers["shard"], minlength=len(ends))
    if found.tolist() != [shard.pictures for shard in part.shards]:
        raise ValueError("its counts of pictures")


def _check_shards(members: Members, part: Part) -> None:
    """See that each shard is there, as long as it was, and has pictures where they should be.

    Raises:
        DataError: it has not; names the shard.
    """
    order = np.lexsort((members.offset, members.file))
    ends = np.cumsum([shard.pictures for shard in part.shards])
    for path, shard, end in zip(members.files, part.shards, ends.tolist(), strict=True):
        try:
            if not path.is_file():
                raise DataError(f"{shown(path)}: missing; convert again, or put it back")
            size = path.stat().st_size
            if size != shard.bytes:
                raise DataError(
                    f"{shown(path)}: {size:,} bytes, and {shard.bytes:,} when it was written; "
                    "it was changed or cut short: convert again"
                )
            for i in {int(order[end - shard.pictures]), int(order[end - 1])}:
                header = members.opened.read(path, int(members.offset[i]) - BLOCK, BLOCK)
                if not _is_header_of(header, int(members.length[i])):
                    raise DataError(
                        f"{shown(path)}: no picture where its index has one; it was changed: "
                        "convert again"
                    )
        except OSError as error:
            raise DataError(f"{shown(path)}: {error.strerror or error}") from None


def _is_header_of(header: bytes, length: int) -> bool:
    try:
        return header[257:262] == b"ustar" and int(header[124:135], 8) == length
    except ValueError:
        return False
