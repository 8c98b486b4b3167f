"""One way from bytes to pixels: colours, orientation, frames, geometry, and what is refused."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from eyebright import images
from eyebright.data import load
from eyebright.errors import DataError
from eyebright.images import decode, fit, read_bytes, read_header, read_image

NOISE = np.random.default_rng(0).integers(0, 256, (24, 37, 3), dtype=np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, (24, 37, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, depth: int, colour: int, row: bytes, *extra: bytes) -> bytes:
    """A PNG of one row, written by hand."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(b"\0" + row))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def grey(*values: int) -> list[list[list[int]]]:
    return [[[value] * 3 for value in values]]


def palette_gif() -> bytes:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    return encoded(image, "GIF", transparency=1)


SIXTEEN = struct.pack(">6H", 0, 255, 256, 32768, 65535, 60000)
PALETTE = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))

GOLDEN = {
    # 16 bits: scaled (60,000 is not white), not clipped
    "grey 16": (png(6, 16, 0, SIXTEEN), grey(0, 1, 1, 128, 255, 233)),
    "grey 16 PGM": (b"P5\n6 1\n65535\n" + SIXTEEN, grey(0, 1, 1, 128, 255, 233)),
    "grey 16, one value transparent": (
        png(6, 16, 0, SIXTEEN, chunk(b"tRNS", struct.pack(">H", 0))),
        grey(255, 1, 1, 128, 255, 233),
    ),
    "RGB 16": (png(2, 16, 2, SIXTEEN), [[[0, 0, 1], [128, 255, 234]]]),
    "RGBA 16": (
        png(2, 16, 6, struct.pack(">8H", 1000, 40000, 65535, 65535, 0, 0, 0, 0)),
        [[[3, 156, 255], [255, 255, 255]]],
    ),
    # transparency: over white
    "LA": (png(3, 8, 4, bytes([100, 0, 100, 255, 0, 128])), grey(255, 100, 127)),
    "RGBA": (
        png(3, 8, 6, bytes([9, 8, 7, 0, 9, 8, 7, 255, 255, 0, 0, 51])),
        [[[255, 255, 255], [9, 8, 7], [255, 204, 204]]],
    ),
    "palette": (
        png(3, 8, 3, bytes([2, 0, 1]), PALETTE),
        [[[70, 80, 90], [10, 20, 30], [40, 50, 60]]],
    ),
    "palette, transparent PNG": (
        png(3, 8, 3, bytes([0, 1, 2]), PALETTE, chunk(b"tRNS", bytes([255, 0, 51]))),
        [[[10, 20, 30], [255, 255, 255], [218, 220, 222]]],
    ),
    "palette, transparent GIF": (palette_gif(), [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]),
    "grey 8, one value transparent": (
        png(3, 8, 0, bytes([0, 128, 200]), chunk(b"tRNS", struct.pack(">H", 128))),
        grey(0, 255, 200),
    ),
    "RGB 8, one colour transparent": (
        png(2, 8, 2, bytes([1, 2, 3, 4, 5, 6]), chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))),
        [[[255, 255, 255], [4, 5, 6]]],
    ),
    # few bits
    "1 bit": (png(3, 1, 0, b"\xa0"), grey(255, 0, 255)),
    "2 bits": (png(4, 2, 0, b"\x1b"), grey(0, 85, 170, 255)),
    "grey 8": (png(3, 8, 0, bytes([0, 7, 255])), grey(0, 7, 255)),
    "RGB 8": (png(2, 8, 2, bytes([1, 2, 3, 4, 5, 6])), [[[1, 2, 3], [4, 5, 6]]]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_battery_08_every_colour_mode_has_its_golden_pixels(name: str) -> None:
    content, pixels = GOLDEN[name]
    decoded = decode(content)
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == pixels


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("RGB", (200, 30, 60), (200, 30, 60)),  # stored as YCbCr
        ("L", 77, (77, 77, 77)),
    ],
)
def test_jpeg_colours(mode: str, colour: object, expected: tuple[int, int, int]) -> None:
    content = encoded(Image.new(mode, (16, 16), colour), "JPEG", quality=95)
    assert read_header(content).mode == mode
    decoded = decode(content)
    assert decoded.shape == (16, 16, 3)
    assert np.abs(decoded.astype(int) - expected).max() <= 2


def test_battery_08_sixteen_bit_grey_is_scaled_to_the_nearest_value() -> None:
    values = np.arange(0, 65536, 97)[:600].astype(">u2")
    decoded = decode(png(600, 16, 0, values.tobytes()))[0, :, 0]
    assert np.array_equal(decoded, np.rint(values / 257).astype(np.uint8))


def test_floating_point_pixels_are_refused() -> None:
    content = b"Pf\n2 1\n-1.0\n" + struct.pack("<2f", 0.25, 1.0)
    for read in (read_header, decode):
        with pytest.raises(DataError, match="floating-point"):
            read(content)


UNTURN: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # from upright pixels to stored ones
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def turned(upright: np.ndarray, orientation: int, form: str = "PNG", **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(UNTURN[orientation](upright))
    return encoded(Image.fromarray(stored), form, exif=exif, **options)


@pytest.mark.parametrize("orientation", UNTURN)
def test_battery_07_all_orientations_give_the_same_upright_pixels(orientation: int) -> None:
    assert np.array_equal(decode(turned(NOISE, orientation)), NOISE)
    assert np.array_equal(decode(turned(NOISE, orientation, "WEBP", lossless=True)), NOISE)


@pytest.mark.parametrize("orientation", UNTURN)
def test_orientation_of_a_jpeg(orientation: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16], upright[16:, 32:] = (250, 0, 0), (0, 0, 250)
    decoded = decode(turned(upright, orientation, "JPEG", quality=95, subsampling=0))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).max() <= 6


def test_file_bytes_and_class_folders_give_the_same_pixels(tmp_path: Path) -> None:
    """Training (a class folder), evaluation and prediction (a path, bytes) see one picture."""
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        for orientation in UNTURN:
            (tmp_path / name / f"{orientation}.png").write_bytes(turned(NOISE, orientation))
    data = load(tmp_path, imgsz=16)
    expected = fit(NOISE, 16)
    assert len(data) == 16
    assert all(np.array_equal(pixels, expected) for pixels in data.images)
    for orientation in UNTURN:
        path = tmp_path / "left" / f"{orientation}.png"
        assert np.array_equal(read_image(path, 16), expected)
        assert np.array_equal(read_image(str(path), 16), expected)
        assert np.array_equal(read_image(path.read_bytes(), 16), expected)


def photograph(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth, as photographs are, with an edge: what halving twice and once can be compared on."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    pixels[: height // 3, : width // 4] = (250, 240, 10)
    return pixels


def resized_whole(content: bytes, imgsz: int) -> np.ndarray:
    return fit(decode(content), imgsz)


LARGE = [(64, 64), (127, 129), (128, 300), (333, 251), (1001, 667), (640, 100), (515, 2100)]


@pytest.mark.parametrize(("width", "height"), LARGE)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_halved_while_decoding_looks_the_same(
    width: int, height: int, mode: str, progressive: bool
) -> None:
    image = Image.fromarray(photograph(width, height)).convert(mode)
    content = encoded(image, "JPEG", quality=92, progressive=progressive)
    for imgsz in (32, 63, 64, 65, 224):
        seen = read_image(content, imgsz)
        difference = np.abs(seen.astype(int) - resized_whole(content, imgsz))
        assert seen.shape == (imgsz, imgsz, 3)
        assert difference.mean() < 2, (imgsz, difference.mean())
        if min(width, height) < 2 * imgsz:
            assert difference.max() == 0, "too small to be halved"


@pytest.mark.parametrize("orientation", UNTURN)
def test_a_jpeg_halved_while_decoding_is_upright(orientation: int) -> None:
    upright = photograph(500, 400)
    content = turned(upright, orientation, "JPEG", quality=92, subsampling=0)
    difference = np.abs(read_image(content, 64).astype(int) - fit(upright, 64))
    assert difference.mean() < 3
    assert (read_header(content).width, read_header(content).height) == (
        (500, 400) if orientation < 5 else (400, 500)
    )


@pytest.mark.parametrize("side", [60, 61, 63, 64])
@pytest.mark.parametrize("times", [1, 2, 3, 4, 7, 8, 9, 16])
def test_no_side_becomes_shorter_than_the_net_wants_it(
    monkeypatch: pytest.MonkeyPatch, side: int, times: int
) -> None:
    decoded: list[tuple[int, int]] = []
    to_rgb = images._to_rgb
    monkeypatch.setattr(
        images, "_to_rgb", lambda image: decoded.append(image.size) or to_rgb(image)
    )
    for short in (side * times - 1, side * times, side * times + 1):
        read_image(encoded(Image.new("L", (short + 50, short)), "JPEG"), side)
        halved = 1 << min(3, max(1, short // side).bit_length() - 1)
        assert decoded.pop() == (-(-(short + 50) // halved), -(-short // halved))
        assert min(short, side) <= -(-short // halved)


def test_a_folder_gives_the_very_pixels_that_prediction_sees(tmp_path: Path) -> None:
    """Large JPEGs too: what was halved while decoding for training is halved for prediction."""
    contents = {
        "plain.jpg": encoded(Image.fromarray(photograph(700, 500)), "JPEG"),
        "turned.jpg": turned(photograph(900, 640), 6, "JPEG"),
        "long.jpg": encoded(Image.fromarray(photograph(1800, 200)), "JPEG"),
        "grey.jpg": encoded(Image.fromarray(photograph(400, 600)).convert("L"), "JPEG"),
        "inks.jpg": encoded(Image.fromarray(photograph(400, 600)).convert("CMYK"), "JPEG"),
        "drawn.png": encoded(Image.fromarray(photograph(400, 300)), "PNG"),
        "small.jpg": encoded(Image.fromarray(photograph(60, 50)), "JPEG"),
    }
    tmp_path /= "data"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir(parents=True)
        for name, content in contents.items():
            (tmp_path / folder / name).write_bytes(content)
    for imgsz in (32, 96, 224):
        for _ in range(2):  # decoded, and from the cache
            data = load(tmp_path, imgsz=imgsz)
            for name, pixels in zip(data.ids, data.images, strict=True):
                assert np.array_equal(read_image(tmp_path / str(name), imgsz), pixels)
                content = (tmp_path / str(name)).read_bytes()
                assert np.array_equal(read_image(content, imgsz), pixels)


def test_a_large_jpeg_cut_short_is_refused_or_whole() -> None:
    content = encoded(Image.fromarray(photograph(700, 500)), "JPEG", quality=92)
    whole = read_image(content, 64)
    for offset in range(0, len(content) - 2, len(content) // 12):
        with pytest.raises(DataError):
            read_image(content[:offset], 64)
    with contextlib.suppress(DataError):
        assert np.array_equal(read_image(content[:-1], 64), whole)


def test_a_broken_exif_block_leaves_the_pixels_alone() -> None:
    content = encoded(Image.fromarray(NOISE), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1\x12")
    assert np.array_equal(decode(content), NOISE)


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {})]
)
def test_battery_09_an_animation_gives_its_first_frame(
    form: str, options: dict[str, object]
) -> None:
    frames = [Image.fromarray(pixels) for pixels in (NOISE, OTHER, NOISE)]
    if form == "GIF":  # 256 colours each, so that nothing is lost
        frames = [frame.convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames]
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert read_header(content).animated
    assert np.array_equal(decode(content), np.asarray(frames[0].convert("RGB")))


def test_a_still_picture_has_one_frame() -> None:
    header = read_header(encoded(Image.fromarray(NOISE), "PNG"))
    assert (header.width, header.height, header.mode, header.animated) == (37, 24, "RGB", False)


SIZES = [(37, 24), (24, 37), (33, 33), (500, 333), (101, 199), (7, 5), (64, 17), (1, 4), (225, 224)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("imgsz", [4, 31, 32, 224])
def test_geometry_is_that_of_torchvision(
    picture: Callable[..., Image.Image], width: int, height: int, imgsz: int
) -> None:
    image = picture(width, height)
    policy = Compose([Resize(imgsz, InterpolationMode.BILINEAR, antialias=True), CenterCrop(imgsz)])
    assert np.array_equal(fit(np.asarray(image), imgsz), np.asarray(policy(image)))


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    square = NOISE[:24, :24]
    assert np.array_equal(fit(square, 24), square)


@pytest.mark.parametrize("size", [(3, 200_000), (200_000, 3)])
def test_a_very_long_picture_is_cut_to_its_middle_first(size: tuple[int, int]) -> None:
    """Resized whole, it would be 224 by 15 million pixels."""
    long = np.zeros((*size, 3), np.uint8)
    middle = slice(100_000 - 6, 100_000 + 6)
    centre = long[middle] if size[0] > size[1] else long[:, middle]
    centre[:] = np.random.default_rng(0).integers(0, 256, centre.shape)
    assert np.array_equal(fit(long, 224), fit(centre.copy(), 224))


def huge_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 20_000, 2_000_000_000])
def test_bombs_are_refused_by_their_header(side: int) -> None:
    """The file holds no pixels: had decoding begun, it would be called cut short."""
    for read in (read_header, decode):
        with pytest.raises(DataError, match=r"more than 67,108,864 pixels"):
            read(huge_png(side, side))


def test_the_limit_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 37)
    content = encoded(Image.fromarray(NOISE), "PNG")
    assert np.array_equal(decode(content), NOISE)
    monkeypatch.setattr(images, "MAX_PIXELS", 24 * 37 - 1)
    with pytest.raises(DataError, match="37×24"):
        decode(content)


@pytest.mark.parametrize("form", ["TIFF", "ICO", "TGA", "PCX", "JPEG2000", "EPS"])
def test_other_formats_are_refused_whatever_they_are_called(form: str, tmp_path: Path) -> None:
    path = tmp_path / "renamed.png"
    path.write_bytes(encoded(Image.fromarray(NOISE), form))
    with Image.open(path) as image:
        assert image.format == form, "Pillow itself could read it"
    with pytest.raises(DataError, match="no picture in a format that is read"):
        read_image(path, 32)
    with pytest.raises(DataError, match="no picture in a format that is read"):
        read_header(path.read_bytes())


def test_the_content_counts_not_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(encoded(Image.fromarray(NOISE), "PNG"))
    assert np.array_equal(read_image(path, 16), fit(NOISE, 16))


def frames_of(form: str, **options: object) -> bytes:
    frames = [Image.fromarray(NOISE), Image.fromarray(OTHER)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)


WHOLE = {
    "JPEG": encoded(Image.fromarray(NOISE), "JPEG"),
    "progressive JPEG": encoded(Image.fromarray(NOISE), "JPEG", progressive=True),
    "PNG": encoded(Image.fromarray(NOISE), "PNG"),
    "GIF": encoded(Image.fromarray(NOISE), "GIF"),
    "WebP": encoded(Image.fromarray(NOISE), "WEBP"),
    "BMP": encoded(Image.fromarray(NOISE), "BMP"),
    "PPM": encoded(Image.fromarray(NOISE), "PPM"),
    "animated PNG": frames_of("PNG"),
    "animated GIF": frames_of("GIF"),
    "animated WebP": frames_of("WEBP"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_short_picture_is_refused_or_whole(name: str) -> None:
    """At ten offsets, and at the last bytes: never other pixels than the whole file's."""
    content = WHOLE[name]
    whole = decode(content)
    refused = 0
    tenths = [len(content) * i // 10 for i in range(10)]
    for offset in [*tenths, len(content) - 9, len(content) - 2, len(content) - 1]:
        try:
            decoded = decode(content[:offset])
        except DataError:
            refused += 1
        else:
            assert np.array_equal(decoded, whole), f"cut at {offset}"
    # An animation that lost only later frames still has its first one.
    assert refused >= (5 if name.startswith("animated") else 10)


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_short_header_is_refused_or_read(name: str) -> None:
    content = WHOLE[name]
    for offset in range(0, len(content), 7):
        try:
            header = read_header(content[:offset])
        except DataError:
            continue
        assert (header.width, header.height) == (37, 24)
        assert header.animated or not name.startswith("animated") or offset < len(content) * 0.6


@pytest.mark.parametrize("name", WHOLE)
def test_damaged_bytes_raise_nothing_but_data_errors(name: str) -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(WHOLE[name])
        for position in generator.integers(0, len(damaged), 3):
            damaged[position] = generator.integers(256)
        for read in (read_header, decode):
            with contextlib.suppress(DataError):
                read(bytes(damaged))


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"This is a note, not a picture.\n", b"\xff\xd8\xff"]
)
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    for read in (read_header, decode, lambda c: read_image(c, 32)):
        with pytest.raises(DataError):
            read(content)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(DataError, match="the file is empty"):
        read_bytes(tmp_path / "empty.jpg")
    with pytest.raises(DataError, match="No such file"):
        read_bytes(tmp_path / "missing.jpg")
    with pytest.raises(DataError, match="no regular file"):
        read_bytes(tmp_path)


def test_pixels_are_fitted_too_if_they_are_rgb_bytes() -> None:
    assert np.array_equal(read_image(NOISE, 16), fit(NOISE, 16))
    for wrong in (NOISE.astype(np.float32), NOISE[..., 0], NOISE[..., :2], NOISE[None], NOISE[:0]):
        with pytest.raises(DataError, match="pixels"):
            read_image(wrong, 16)


@pytest.mark.parametrize("name", GOLDEN)
def test_strips_have_the_same_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = GOLDEN[name][0]
    whole = decode(content)
    monkeypatch.setattr(images, "STRIP", 1)  # a row
    assert np.array_equal(decode(content), whole)
