"""Pictures that are made to do harm, or damaged at random: refused, or read like any other."""

import ast
import io
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from bench.fuzz import PNG_START, chunk, made, run_length_bmp, seeds
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from eyebright import images
from eyebright.data import load
from eyebright.errors import DataError
from eyebright.images import ENDINGS, decode, limit_pixels, read_bytes, read_header

NOISE = np.random.default_rng(0).integers(0, 256, (24, 37, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_a_jpeg_that_goes_over_its_pixels_again_and_again_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = encoded(Image.fromarray(NOISE), "JPEG", progressive=True)
    first = content.index(b"\xff\xda")
    second = content.index(b"\xff\xc4", first)
    again = content[:second] + content[first:second] * 50 + content[second:]
    assert decode(again).shape == (24, 37, 3)  # small as it is, no harm is done
    monkeypatch.setattr(images, "MAX_PIXELS", 3 * 24 * 37)
    with pytest.raises(DataError, match="too many scans"):
        decode(again)
    assert decode(content).shape == (24, 37, 3)
    beside = content + b"\xff\xda" * 1000  # as in a film that some phones append
    assert np.array_equal(decode(beside), decode(content))


@pytest.mark.parametrize(
    "content",
    [b"P3 3000 1000 255 " + b"9 " * 9_000_000, run_length_bmp() + bytes(5 << 20)],
    ids=["PPM", "BMP"],
)
def test_large_pictures_that_only_python_decodes_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="slow to decode"):
        decode(content)
    assert decode(run_length_bmp()).shape == (10, 20, 3)


def test_a_netpbm_picture_with_a_long_comment_is_refused() -> None:
    pixels = b"2 1 255 " + bytes(6)
    assert decode(b"P6 #" + b"a" * 1000 + b"\n" + pixels).shape == (1, 2, 3)
    for comment in (b"#" + b"a" * (8 << 20) + b"\n", b"\n" * (8 << 20), b"#\n" * (4 << 20)):
        with pytest.raises(DataError, match="damaged"):
            decode(b"P6 " + comment + pixels)


def with_notes(form: str, count: int) -> bytes:
    """A picture with so many notes before its pixels."""
    content = encoded(Image.fromarray(NOISE), form)
    if form == "PNG":
        notes = chunk(b"tEXt", b"a\0b") * count
        return content[:33] + notes + content[33:]
    return content[:2] + b"\xff\xe1\x00\x0aExif\0\0ab" * count + content[2:]


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_pictures_with_too_many_notes_are_refused(form: str) -> None:
    assert decode(with_notes(form, 500)).shape == (24, 37, 3)
    with pytest.raises(DataError, match="notes beside its pixels"):
        decode(with_notes(form, 1001))


def test_what_is_no_file_or_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(images.MOST_BYTES + 1)
    with pytest.raises(DataError, match="more than 536,870,912 bytes"):
        read_bytes(tmp_path / "large.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="no regular file"):
        read_bytes(tmp_path / "pipe.png")


def test_frames_are_not_counted() -> None:
    content = encoded(
        Image.fromarray(NOISE), "GIF", save_all=True, append_images=[Image.fromarray(255 - NOISE)]
    )
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 2
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GifImageFile, "n_frames", property(lambda self: calls.append(1)))
        assert read_header(content).animated
    assert not calls


def test_the_limit_on_pixels_can_be_set() -> None:
    content = encoded(Image.fromarray(NOISE), "PNG")
    limit_pixels(24 * 37 - 1)
    with pytest.raises(DataError, match=r"more than 887 pixels \(--max-pixels\)"):
        decode(content)
    limit_pixels(24 * 37)
    assert decode(content).shape == (24, 37, 3)
    limit_pixels(10**10)
    header = 2 * (20_000).to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    with pytest.raises(DataError, match="cut short"):
        decode(PNG_START + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


@pytest.mark.slow
def test_5000_fuzzed_pictures() -> None:
    """In a process of its own, whose memory is measured, and which a crash would end."""
    words = [sys.executable, "-W", "error", "-m", "bench.fuzz", "--count", "5000", "--print"]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    row = ast.literal_eval(done.stdout)
    assert row["read"] > 500
    assert row["refused"] > 500
    assert row["slowest_s"] <= 2
    assert max(row["peak_mib"], row["largest_mib"]) <= 1536


def test_a_folder_of_fuzzed_pictures_with_wrong_endings(tmp_path: Path) -> None:
    rng, whole = random.Random(1), seeds()
    for label in ("a", "b"):
        (tmp_path / "d" / label).mkdir(parents=True)
        for i in range(200):
            ending = rng.choice(sorted(ENDINGS))
            (tmp_path / "d" / label / f"{i}{ending}").write_bytes(made(rng, whole))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of broken EXIF blocks
        data = load(tmp_path / "d", imgsz=32, skip_bad=True)
    assert 50 < len(data) < 350
    assert data.images.shape[1:] == (32, 32, 3)
