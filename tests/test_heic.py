"""HEIC, the format of telephones: read with pillow-heif, named where it is not installed."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from eyebright.data import load
from eyebright.errors import DataError, install_command
from eyebright.images import decode, read_header, read_image

Make = Callable[..., bytes]


@pytest.fixture
def heif() -> ModuleType:
    """What reads and writes HEIC."""
    module: ModuleType = pytest.importorskip("pillow_heif")
    return module


@pytest.fixture
def heic(heif: ModuleType) -> Make:
    """Makes the bytes of a HEIC whose left half is red: `heic(width, height)`."""

    def make(width: int = 64, height: int = 32, mode: str = "RGB", **options: object) -> bytes:
        image = Image.new("RGB", (width, height), "blue")
        image.paste("red", (0, 0, width // 2, height))
        buffer = io.BytesIO()
        heif.from_pillow(image.convert(mode)).save(buffer, **({"quality": 95} | options))
        return buffer.getvalue()

    return make


def is_red_then_blue(pixels: np.ndarray) -> bool:
    width = pixels.shape[1]
    left, right = pixels[:, : width // 2 - 8], pixels[:, width // 2 + 8 :]
    return bool(
        np.abs(left.astype(int) - [255, 0, 0]).mean() < 12
        and np.abs(right.astype(int) - [0, 0, 255]).mean() < 12
    )


def test_a_heic_is_read(heic: Make) -> None:
    content = heic()
    header = read_header(content)
    assert (header.width, header.height, header.mode, header.animated) == (64, 32, "RGB", False)
    pixels = decode(content)
    assert pixels.shape == (32, 64, 3)
    assert is_red_then_blue(pixels)
    assert read_image(content, 16).shape == (16, 16, 3)


def test_the_orientation_is_applied_once(heic: Make) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: a quarter turn to the right
    pixels = decode(heic(exif=exif.tobytes()))
    assert pixels.shape == (64, 32, 3)
    assert is_red_then_blue(np.rot90(pixels))


def test_transparent_pixels_are_laid_over_white(heif: ModuleType) -> None:
    buffer = io.BytesIO()
    heif.from_pillow(Image.new("RGBA", (32, 32), (0, 0, 0, 0))).save(buffer, quality=-1)
    assert decode(buffer.getvalue()).min() > 250


def test_a_folder_of_them(heic: Make, tmp_path: Path) -> None:
    for i, name in enumerate(("a/0.heic", "a/1.HEIC", "b/0.heif", "b/1.hif", "b/2.jpg")):
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(heic(40 + 2 * i, 40))
    data = load(tmp_path / "d")
    assert data.ids == ["a/0.heic", "a/1.HEIC", "b/0.heif", "b/1.hif", "b/2.jpg"]
    assert data.sizes[:, 0].tolist() == [40, 42, 44, 46, 48]


def test_cut_short_or_damaged_it_is_refused_or_read(heic: Make) -> None:
    content = heic()
    for part in range(1, 10):
        with pytest.raises(DataError):
            decode(content[: len(content) * part // 10])
    for position in range(12, len(content), 37):
        damaged = content[:position] + bytes(4) + content[position + 4 :]
        try:
            assert decode(damaged).ndim == 3
        except DataError as error:
            assert str(error)  # noqa: PT017


def test_too_many_pixels(heic: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyebright.images.MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="64×32: more than 1,000 pixels"):
        decode(heic())


# The first bytes of a telephone's picture; no more of it is looked at without pillow-heif.
BEGIN = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_without_pillow_heif_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a/0.heic", "b/0.heic"):
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        (tmp_path / "d" / name).write_bytes(BEGIN)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "d")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{tmp_path / 'd/a/0.heic'}: HEIC is read with pillow-heif: ")
    assert install_command("heif") in lines[0]
    assert lines[-1].startswith("2 of 2 pictures cannot be read")


def test_pillow_heif_is_not_asked_about_other_pictures(
    picture: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    assert decode(buffer.getvalue()).shape == (32, 32, 3)
    with pytest.raises(DataError, match="no picture in a format that is read"):
        decode(b"\0\0\0\x18ftypmp42\0\0\0\0isommp42")
