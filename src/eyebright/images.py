"""From the bytes of a picture to canonical pixels: the one way, used everywhere.

The policy, in full:

* **Formats**: JPEG, PNG, GIF, WebP, BMP and PPM, by content, whatever the file's ending; HEIC with
  pillow-heif.
* **Orientation**: the camera's EXIF note is applied.
* **Animation**: the first frame.
* **Colour**: RGB, eight bits a channel. Grey is repeated three times. CMYK, YCbCr and palettes are
  converted by Pillow. 16-bit values are scaled to eight (not clipped). Whatever is transparent is
  laid over white.
* **Geometry**: the shorter side is resized to the net's size with antialiased bilinear
  interpolation, then the centre square is cut out. A picture longer than four times its shorter
  side is first cut to its middle, four sides long.
* **Large JPEGs**: the decoder itself halves them, once, twice or three times, as long as no side
  becomes shorter than the net's size; the rest is resized as above. It means averaging blocks of
  pixels, and takes half the time or less.
* **Limits**: pictures of more than `MAX_PIXELS` pixels are refused before they are decoded
  (`limit_pixels` sets another limit), and so are those that would take long for other reasons: a
  JPEG that goes over all its pixels again and again, a large file that only Python can decode.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from eyebright.errors import DataError, install_command
from eyebright.picture_parts import has_more_notes_than, has_more_scans_than

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM")
ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .webp .bmp .dib .ppm .pgm .pbm .pnm "
    ".heic .heif .hif".split()
)
HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
DEFAULT_MAX_PIXELS = 1 << 26  # decoded within two seconds and 1.5 GiB, whatever the format
MAX_PIXELS = DEFAULT_MAX_PIXELS
MOST_BYTES = 1 << 29  # of a file: as many pixels with eight bytes each
MOST_PARTS = 1000  # of a JPEG or PNG that are no pixels; Pillow takes ever longer for each
MOST_COMMENT = 1 << 16  # bytes before the pixels of a Netpbm file; Pillow reads one after the other
MOST_SCANS = 16  # of a JPEG as large as that; a progressive one has about ten
SLOW_DECODERS, MOST_SLOW = ("bmp_rle", "ppm_plain"), 4 << 20  # written in Python; bytes, pixels
LONGEST = 4  # shorter sides; of a longer picture the middle is used
STRIP = 1 << 22  # pixels whose colours are converted at once
POLICY = "JPEG halved while decoding, shorter side antialiased bilinear, centre crop"
"""Written into every model."""

# Pillow has a limit of its own, at which it warns; we refuse, so the warning says nothing new.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Of EXIF blocks that are broken, too: of what is damaged only the pixels count.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

Pixels = NDArray[np.uint8]
SIXTEEN_TO_EIGHT = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)


def limit_after(earlier: int) -> int:
    """The limit that holds where an earlier run had this one: its own, if nobody set another."""
    return earlier if MAX_PIXELS == DEFAULT_MAX_PIXELS and earlier > 0 else MAX_PIXELS


@contextlib.contextmanager
def pixels_limited_to(most: int) -> Iterator[None]:
    """While the block runs, the limit of an earlier run, unless somebody set another one."""
    before = MAX_PIXELS
    limit_pixels(limit_after(most))
    try:
        yield
    finally:
        limit_pixels(before)


def limit_pixels(most: int) -> None:
    """From now on, in this process, refuse pictures of more pixels than this.

    Like Pillow's own limit it is one for all: whoever decodes is not the one who knows.
    """
    global MAX_PIXELS
    MAX_PIXELS = Image.MAX_IMAGE_PIXELS = most


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before it is decoded."""

    width: int
    """Pixels across, before the EXIF orientation is applied."""
    height: int
    mode: str
    """Pillow's name of the colour mode, such as RGB, L, P, CMYK or I;16."""
    animated: bool
    """Of an animation the first frame is used."""


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a picture file.

    Raises:
        DataError: no such file, no permission, nothing in it, or far too much.
    """
    try:
        file = Path(path)
        if file.exists() and not file.is_file():  # reading a pipe would wait for ever
            raise DataError("no regular file")
        if file.stat().st_size > MOST_BYTES:
            raise DataError(f"more than {MOST_BYTES:,} bytes")
        content = file.read_bytes()
    except (OSError, ValueError) as error:  # the second: a name that no file can have
        raise DataError(getattr(error, "strerror", None) or "cannot be read") from None
    if not content:
        raise DataError("the file is empty")
    return content


def _formats_for(content: bytes) -> tuple[str, ...]:
    """Those that may be read; HEIC among them only where the content is that."""
    if content[4:8] != b"ftyp" or content[8:12] not in HEIC_BRANDS:
        return FORMATS
    try:
        import pillow_heif
    except ImportError:
        raise DataError(f"HEIC is read with pillow-heif: {install_command('heif')}") from None
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _open(content: bytes) -> Image.Image:
    formats = _formats_for(content)
    if has_more_notes_than(MOST_PARTS, content):
        raise DataError(f"a picture with more than {MOST_PARTS:,} notes beside its pixels")
    try:
        if content.startswith(b"P"):  # Netpbm, whose header may hold comments of any length
            Image.open(io.BytesIO(content[:MOST_COMMENT]), formats=formats)
        image = Image.open(io.BytesIO(content), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"more than {MAX_PIXELS:,} pixels (--max-pixels)") from None
    except UnidentifiedImageError:
        raise DataError(f"no picture in a format that is read ({', '.join(FORMATS)})") from None
    except Exception as error:  # hostile headers raise whatever they like
        raise DataError(f"damaged ({error})") from None
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}×{image.height}"
        raise DataError(f"{size}: more than {MAX_PIXELS:,} pixels (--max-pixels)")
    slow = bool(image.tile) and image.tile[0][0] in SLOW_DECODERS
    if slow and max(len(content), image.width * image.height) > MOST_SLOW:
        raise DataError(f"slow to decode, and more than {MOST_SLOW:,} pixels or bytes")
    scans = MOST_SCANS * MAX_PIXELS // max(1, image.width * image.height)
    if image.format == "JPEG" and has_more_scans_than(scans, content):
        raise DataError("a JPEG that would take too long (it has too many scans)")
    if image.mode == "F":  # Pillow counts PFM among PPM, but would clip its values
        raise DataError("floating-point pixels are not read")
    return image


def read_header(content: bytes) -> Header:
    """What the picture's header says.

    Raises:
        DataError: not a picture in one of `FORMATS`, or too large.
    """
    image = _open(content)
    try:  # not how many frames there are: to count them takes long
        animated = bool(getattr(image, "is_animated", False))
    except Exception:  # cut short behind its first frame, which `decode` judges
        animated = True
    return Header(image.width, image.height, image.mode, animated)


def decode(content: bytes) -> Pixels:
    """All pixels of an encoded picture, as uint8 RGB of shape (height, width, 3).

    Raises:
        DataError: unreadable, cut short, in no format that is read, or too large.
    """
    return np.asarray(_decode(content))


def _decode(content: bytes, imgsz: int | None = None) -> Image.Image:
    """The picture upright and in RGB; large JPEGs with their shorter side resized to ``imgsz``.

    Raises:
        DataError: as `decode`.
    """
    image = _open(content)
    whole = image.size
    try:
        drafted = image.draft(None, (imgsz, imgsz)) if imgsz else None  # None but for JPEGs
        image.load()
        if not imgsz or drafted is None or image.size == whole:
            _turn_upright(image)
            return _to_rgb(image)
        # The last pixels of a halved row may stand for less than the others: resize would hold
        # them for whole ones, but for the box, which is known before the picture is turned.
        left, top, right, bottom = _middle(whole)
        size = _resized(right - left, bottom - top, imgsz)
        by = whole[0] / drafted[1][2]  # 2, 4 or 8
        box = left / by, top / by, right / by, bottom / by
        image = _to_rgb(image).resize(size, Image.Resampling.BILINEAR, box)
        _turn_upright(image)
        return image
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(f"damaged or cut short ({error})") from None


def _turn_upright(image: Image.Image) -> None:
    # A broken EXIF block says nothing of the orientation; the pixels are fine.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    width, height = image.size
    rows = max(1, STRIP // max(1, width))
    if height <= rows:
        return _convert(image)
    whole = Image.new("RGB", image.size)  # in strips, for what lies between takes much memory
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(height, top + rows)))
        whole.paste(_convert(strip), (0, top))
    return whole


def _convert(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I;16, I;16B, I;16L and I: 16-bit grey
        values = np.asarray(image).clip(0, 65535)
        grey = SIXTEEN_TO_EIGHT[values]
        grey[values == image.info.get("transparency", -1)] = 255  # tRNS: one value is transparent
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def fit(pixels: Pixels, imgsz: int) -> Pixels:
    """The picture resized and cropped to (imgsz, imgsz, 3) by the policy above.

    Args:
        pixels: uint8 RGB (height, width, 3).
        imgsz: side of the square, in pixels.
    """
    if pixels.shape[:2] == (imgsz, imgsz):
        return pixels
    return _square(Image.fromarray(pixels), imgsz)


def _middle(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is used: all, but of very long pictures."""
    width, height = size
    long = LONGEST * min(size)
    left, top = max(0, (width - long) // 2), max(0, (height - long) // 2)
    return left, top, min(width, left + long), min(height, top + long)


def _resized(width: int, height: int, imgsz: int) -> tuple[int, int]:
    short = min(width, height)
    return imgsz * width // short, imgsz * height // short


def _square(image: Image.Image, imgsz: int) -> Pixels:
    if image.size == (imgsz, imgsz):
        return np.asarray(image)
    if (box := _middle(image.size)) != (0, 0, *image.size):
        image = image.crop(box)
    size = _resized(*image.size, imgsz)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - imgsz) / 2), round((size[1] - imgsz) / 2)
    return np.asarray(image.crop((left, top, left + imgsz, top + imgsz)))


def read_image(picture: str | os.PathLike[str] | bytes | Pixels, imgsz: int) -> Pixels:
    """A picture as the net wants it: uint8 RGB of shape (imgsz, imgsz, 3).

    Args:
        picture: a path, the bytes of a file, or uint8 RGB pixels (height, width, 3).
        imgsz: side of the square, in pixels.

    Raises:
        DataError: the picture cannot be read; the message says why, not which.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise DataError("pixels must be uint8 of shape (height, width, 3)")
        if not picture.size:
            raise DataError("a picture without pixels")
        return fit(picture, imgsz)
    content = picture if isinstance(picture, bytes) else read_bytes(picture)
    return _square(_decode(content, imgsz), imgsz)
