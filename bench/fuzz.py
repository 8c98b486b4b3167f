"""Pictures that are damaged at random, or made to do harm; and whether reading them does any.

    python -m bench.fuzz --count 100000

Small pictures of every format and kind are cut, spliced, and changed bit by bit and field by field,
with checksums made good, so that what was changed gets past them; some say that they are as large
as may be, or larger; some are. Each must be read, or refused with a `DataError`: within two seconds
of a processor's time, and all of them within 1.5 GiB. A row goes into ``results/fuzz.csv``.
"""

import argparse
import faulthandler
import io
import random
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eyebright import images
from eyebright.errors import DataError

SECONDS, MEMORY = 2.0, 1.5 * 2**30
NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 32767, 65535, 2**24, 2**31 - 1, 2**32 - 1)
PNG_START = b"\x89PNG\r\n\x1a\n"


def seeds() -> list[bytes]:
    """Whole pictures, one of each kind."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (41, 50, 3), dtype=np.uint8))
    large = noise.resize((260, 211))  # is halved while decoding
    grey16 = Image.fromarray(rng.integers(0, 65536, (20, 30), dtype=np.uint16))
    alpha = noise.convert("RGBA")
    alpha.putalpha(noise.convert("L"))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (noise, "JPEG", {}),
        (large, "JPEG", {"progressive": True, "exif": turned, "quality": 60}),
        (noise.convert("L"), "JPEG", {"optimize": True}),
        (noise.convert("CMYK"), "JPEG", {}),
        (large, "JPEG", {"subsampling": 2, "restart_marker_blocks": 3}),
        (noise, "PNG", {"exif": turned}),
        (alpha, "PNG", {"compress_level": 0}),
        (alpha.convert("LA"), "PNG", {}),
        (grey16, "PNG", {}),
        (noise.convert("P"), "PNG", {"transparency": 3}),
        (noise.convert("1"), "PNG", {}),
        (noise, "PNG", {"save_all": True, "append_images": [alpha.convert("RGB")]}),
        (noise, "GIF", {}),
        (noise, "GIF", {"save_all": True, "append_images": [alpha.convert("RGB"), noise]}),
        (noise, "WEBP", {}),
        (alpha, "WEBP", {"lossless": True}),
        (alpha, "WEBP", {"save_all": True, "append_images": [noise], "exif": turned}),
        (noise, "BMP", {}),
        (noise.convert("P"), "BMP", {}),
        (noise.convert("1"), "BMP", {}),
        (noise, "PPM", {}),
        (noise.convert("L"), "PPM", {}),
        (grey16, "PPM", {}),
    ]
    found = []
    for picture, form, options in kinds:
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        found.append(buffer.getvalue())
    return [*found, run_length_bmp(), interlaced_png(), b"P3 4 3 255 " + b"9 200 33 " * 12]


def run_length_bmp() -> bytes:
    """20×10 px, runs and single pixels."""
    rows = (b"\x08\x01\x00\x04\x02\x03\x04\x05\x08\x06\x00\x00") * 10 + b"\x00\x01"
    header = struct.pack("<IiiHHIIiiII", 40, 20, 10, 1, 8, 1, len(rows), 0, 0, 256, 256)
    start = b"BM" + struct.pack("<IHHI", 54 + 1024 + len(rows), 0, 0, 54 + 1024)
    return start + header + bytes(range(256)) * 4 + rows


def interlaced_png() -> bytes:
    """8×8 px in seven passes."""
    sizes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    rows = b"".join((b"\0" + bytes(range(3 * w))) * h for w, h in sizes)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return PNG_START + b"".join(chunk(name, data) for name, data in chunks)


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_good_sums(content: bytes) -> bytes:
    """A PNG whose checksums are right again, as far as its parts can be made out."""
    out, at = content[:8], 8
    while at + 8 <= len(content):
        [length] = struct.unpack(">I", content[at : at + 4])
        data = content[at + 8 : at + 8 + length]
        if len(data) < length:
            break
        out += chunk(content[at + 4 : at + 8], data)
        at += 12 + length
    return out + content[at:]


def damaged(rng: random.Random, whole: list[bytes]) -> bytes:
    """One of these pictures with some damage."""
    content = bytearray(rng.choice(whole))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, kind = rng.randrange(len(content)), rng.randrange(8)
        if kind < 2:  # near the beginning, where sizes and tables are
            at = rng.randrange(min(64, len(content)))
        if kind in (0, 2):
            content[at] ^= 1 << rng.randrange(8)
        elif kind in (1, 3):
            content[at] = rng.choice((0, 1, 127, 128, 254, 255, rng.randrange(256)))
        elif kind == 4:
            order = rng.choice(("<H", ">H", "<I", ">I"))
            value = rng.choice((*NUMBERS, len(content))) % 2 ** (8 * struct.calcsize(order))
            content[at : at + struct.calcsize(order)] = struct.pack(order, value)
        elif kind == 5:
            del content[at : at + rng.choice((1, 2, 16, len(content)))]
        elif kind == 6:
            content[at:at] = content[at : at + rng.choice((1, 8, 200))]
        else:
            other = rng.choice(whole)
            content[at:] = other[rng.randrange(len(other)) :]
        content = content or bytearray(1)
    if content.startswith(PNG_START) and rng.random() < 0.7:
        return with_good_sums(bytes(content))
    return bytes(content)


def bomb(rng: random.Random) -> bytes:
    """A small file that says of itself to be large."""
    side = rng.choice((4000, 8191, 8192, 8193, 16_383, 65_500, 2**31 - 1))
    kind = rng.randrange(4)
    if kind == 0:
        depth, colour = rng.choice(((8, 2), (8, 6), (16, 0), (16, 6), (1, 0), (8, 3)))
        header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, rng.randrange(2))
        data = zlib.compress(bytes(1 << rng.randrange(24)), 1)
        parts = [(b"IHDR", header), (b"PLTE", bytes(768)), (b"IDAT", data), (b"IEND", b"")]
        return PNG_START + b"".join(chunk(name, data) for name, data in parts)
    if kind == 1:
        short = min(side, 65_535)
        start = b"GIF89a" + struct.pack("<HHBBB", short, short, 0x80, 0, 0) + bytes(6)
        frame = b"," + struct.pack("<HHHHB", 0, 0, short, short, 0) + b"\x02\x02\x44\x01\x00"
        return start + frame * rng.choice((1, 5000)) + b";"
    if kind == 2:
        header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, rng.randrange(2), 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(2000)
    return f"P{rng.choice((1, 2, 3, 5, 6))} {side} {side} 255\n".encode() + b"7 " * 2000


def wordy(rng: random.Random) -> bytes:
    """A picture with a lot before its pixels: notes, EXIF, profiles, texts, white space."""
    size, kind = rng.choice((100, 65_000, 1 << 20, 8 << 20)), rng.randrange(7)
    buffer = io.BytesIO()
    if kind < 2:
        Image.new("RGB", (8, 8)).save(buffer, "JPEG")
        content = buffer.getvalue()
        # COM, APP1 (EXIF), APP2 (colour profile), APP13 (Photoshop)
        marker, start = rng.choice(
            (
                (0xFE, b""),
                (0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff"),
                (0xE2, b"ICC_PROFILE\0\1\1"),
                (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0"),
            )
        )
        data = (start + rng.randbytes(65_000))[: 65_533 if size > 65_000 else size]
        part = b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data
        return content[:2] + part * max(1, size // len(data)) + content[2:]
    if kind < 5:
        text = b"Comment\0" + bytes(size)
        packed = b"Comment\0\0" + zlib.compress(bytes(size * 8), 1)
        one = rng.choice(
            (
                (b"tEXt", text),
                (b"zTXt", packed),
                (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(size * 8), 1)),
                (b"iCCP", packed),
                (b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(size)),
            )
        )
        parts = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))]
        parts += [one] * rng.choice((1, 1, 900)) if size < 1 << 20 else [one]
        parts += [(b"IDAT", zlib.compress(bytes(25 * 8))), (b"IEND", b"")]
        return PNG_START + b"".join(chunk(name, data) for name, data in parts)
    filling = rng.choice((b"#" + b"a" * size + b"\n", b"\n" * size, b"#\n" * (size // 2)))
    return b"P6 " + filling + b"2 1 255 " + bytes(6)


def largest() -> Iterator[tuple[str, bytes]]:
    """Small files of pictures as large as may be, which are whole: what takes longest."""
    side = int(images.MAX_PIXELS**0.5)
    for depth, colour, values in ((8, 2, 3), (8, 6, 4), (16, 0, 1), (16, 6, 4), (8, 4, 2)):
        pack, row = zlib.compressobj(1), bytes(1 + side * values * depth // 8)
        data = b"".join(pack.compress(row) for _ in range(side)) + pack.flush()
        header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
        yield f"PNG {depth} {colour}", PNG_START + b"".join(chunk(*part) for part in parts)
    others: list[tuple[str, str, dict[str, Any]]] = [
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("GIF", "P", {}),
        ("WEBP", "RGB", {"method": 0}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0}),
    ]
    for form, mode, options in others:
        buffer = io.BytesIO()
        Image.new(mode, (side, side)).save(buffer, form, **options)
        yield f"{form} {mode} {options}", buffer.getvalue()


def made(rng: random.Random, whole: list[bytes]) -> bytes:
    """Any of these: damaged, a bomb (one in a hundred), wordy, or no picture at all."""
    luck = rng.random()
    if luck > 0.99:
        return wordy(rng)
    if luck < 0.01:
        return bomb(rng)
    if luck < 0.02:
        return rng.randbytes(rng.randrange(1, 500))
    return damaged(rng, whole)


def read(content: bytes, imgsz: int) -> bool:
    """Whether a picture is read; if not, it is refused as it should be."""
    try:
        images.read_header(content)
        pixels = images.read_image(content, imgsz)
    except DataError:
        return False
    assert pixels.shape == (imgsz, imgsz, 3)
    assert pixels.dtype == np.uint8
    return True


def peak_memory(process: int | str = "self") -> int:
    """Bytes that a process has had at most; `resource` would count its parent's, too."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def timed(content: bytes, imgsz: int) -> tuple[bool, float]:
    """What `read` says, and the seconds of the processor that it took; a hang shows where it is."""
    faulthandler.dump_traceback_later(20, exit=True)
    begun = time.process_time()
    good = read(content, imgsz)
    seconds = time.process_time() - begun
    faulthandler.cancel_dump_traceback_later()
    return good, seconds


def fuzz(count: int, seed: int) -> dict[str, Any]:
    """Read so many; what came of them.

    Raises:
        AssertionError: too slow, too much memory, or neither read nor refused.
    """
    rng, whole = random.Random(seed), seeds()
    for content in whole:
        assert read(content, 32)
    good, slowest, start = 0, 0.0, time.perf_counter()
    for i in range(count):
        content = made(rng, whole)
        was_good, seconds = timed(content, rng.choice((32, 32, 224)))
        if seconds > SECONDS:
            raise AssertionError(f"picture {i} of seed {seed}: {seconds:.1f} s: {content!r:.99}")
        good, slowest = good + was_good, max(slowest, seconds)
    peak = peak_memory()
    assert peak < MEMORY, f"{peak / 2**20:.0f} MiB"
    return {
        "pictures": count,
        "read": good,
        "refused": count - good,
        "slowest_s": round(slowest, 2),
        "peak_mib": round(peak / 2**20),
        "seed": seed,
        "seconds": round(time.perf_counter() - start),
    }


def read_the_largest() -> dict[str, Any]:
    """What the largest that may be read take.

    Raises:
        AssertionError: one is refused, or they take too much memory.
    """
    longest, which = 0.0, ""
    for name, content in largest():
        good, seconds = timed(content, 32)
        assert good, name
        if seconds > longest:
            longest, which = seconds, name
    peak = peak_memory()
    assert peak < MEMORY, f"{peak / 2**20:.0f} MiB"
    return {"largest_s": round(longest, 2), "largest": which, "largest_mib": round(peak / 2**20)}


def main() -> None:
    """Fuzz, and write the row; with ``--print`` only say it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--print", action="store_true", dest="only_print")
    arguments = parser.parse_args()
    row = fuzz(arguments.count, arguments.seed) | read_the_largest()
    if arguments.only_print:
        print(row)
        return
    from bench.rows import append_row  # which imports torch

    append_row("fuzz", row)


if __name__ == "__main__":
    main()
