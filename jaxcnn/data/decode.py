"""Encoded bytes to the pixels of crops: `peek` reads an image's size, `decode` the pixels of a crop.

Training, evaluation and prediction share these rules:

* the bytes give the format, not the file's name (one "JPEG" of ImageNet is a PNG);
* the output is 8-bit RGB: grey is repeated, CMYK converted, alpha dropped, 16 bits shifted to 8; of an
  animation the first frame is decoded;
* the EXIF rotation is ignored, as it was when the papers' images were decoded;
* resizing is bilinear with antialiasing (Pillow's BILINEAR) unless the crop names another of Pillow's
  filters; at the crop's border the filter reads the image's pixels beyond it;
* images of more than `MAX_PIXELS` by their header are refused before decoding.

Only the crop's window of a JPEG, plus the filter's margin, is decoded. The result equals a full decode,
resize and crop to one grey level (two for one value in a million). 'cubic' differs more for about one value
in ten thousand, because Pillow clips overshoots between its two passes. A tie may be broken differently: for
'area' where the centre of an image pixel lies on the border of two output pixels, for 'nearest' where the
centre of an output pixel lies between two image pixels.
"""

import contextlib
import functools
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcnn.data import jpeg
from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.sources import packed
from jaxcnn.data.tensorflow import JpegWindow, load_tensorflow

MAX_PIXELS = 100_000_000

_PILLOW_FORMATS = ("PNG", "GIF", "BMP", "WEBP")
# Added to the filter's reach, because chroma upsampling reads neighbours at the window's edge.
_CHROMA_MARGIN = 4
_JPEG_MAGIC = b"\xff\xd8"

Pixels = UInt8[np.ndarray, "_ _ 3"]
_T = TypeVar("_T")


class DecodeTask(NamedTuple):
    """An encoded image, the crops wanted, and arrays for their pixels; empty `out` makes new arrays."""

    data: bytes | memoryview
    crops: Sequence[ResizedCrop]
    out: Sequence[Pixels] = ()


class _Filter(NamedTuple):
    pillow: Image.Resampling
    reach: float


_FILTERS = {
    "bilinear": _Filter(Image.Resampling.BILINEAR, 1.0),
    "area": _Filter(Image.Resampling.BOX, 0.5),
    "nearest": _Filter(Image.Resampling.NEAREST, 0.5),
    "cubic": _Filter(Image.Resampling.BICUBIC, 2.0),
}


def load_decoders() -> None:
    """Imports TensorFlow and compiles the resize. Call it before threads decode, so that they do not race."""
    load_tensorflow()
    _resize()


@functools.cache
def _resize() -> ModuleType:
    from jaxcnn.data import resize  # imports numba

    resize.compile_kernels()
    return resize


def peek(data: bytes | memoryview) -> tuple[int, int]:
    """Returns (height, width) of an encoded image, read from its header.

    Raises:
      CorruptImage: not an image of a known format, truncated, or too large.
    """
    if not data:
        raise CorruptImage("the file is empty")
    if packed.is_record(data):
        return packed.read_record(data)[0].size
    data = bytes(data)
    if data.startswith(_JPEG_MAGIC):
        size = jpeg.read_header(data)[:2]
        _check_size(*size)
        return size
    with _open_with_pillow(data, _PILLOW_FORMATS) as image:
        return image.height, image.width


def decode(data: bytes | memoryview, crop: ResizedCrop) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the pixels of a crop, which was chosen for the image's size (see `peek`).

    Raises:
      CorruptImage: not an image of a known format, truncated, broken, or too large.
    """
    (decoded,) = decode_many([DecodeTask(data, [crop])])
    if isinstance(decoded, CorruptImage):
        raise decoded
    return decoded[0]


def decode_many(tasks: Iterable[DecodeTask]) -> list[Sequence[Pixels] | CorruptImage]:
    """Decodes several images, JPEGs in groups: the pixels of each task's crops, or what `decode` raises.

    Each image is decoded once.
    """
    tasks = list(tasks)
    opened = [_try(_open, task) for task in tasks]
    decoded = jpeg.decode_windows(one for one in opened if isinstance(one, JpegWindow))
    return [
        _try(_resize_window, task, one, next(decoded)) if isinstance(one, JpegWindow) else one
        for task, one in zip(tasks, opened, strict=True)
    ]


def _try(function: Callable[..., _T], *arguments: Any) -> _T | CorruptImage:
    try:
        return function(*arguments)
    except CorruptImage as error:
        return error


def _open(task: DecodeTask) -> Sequence[Pixels] | JpegWindow:
    """Decodes an image, or gives the window to decode if it is a JPEG for TensorFlow."""
    data, crops, out = task
    _check_crops(crops)
    if packed.is_record(data):
        stored, pixels = packed.read_record(data)
        crops = [stored.place(crop) for crop in crops]
        top, left, height, width = _window(crops)
        # Copy the window, so that the mapped file is read once, sequentially.
        window = pixels[top : top + height, left : left + width].copy()
        return _resize_all(window, crops, (top, left), out)
    data = bytes(data)
    if data.startswith(_JPEG_MAGIC):
        header = jpeg.read_header(data)
        # TensorFlow rounds differently when it converts CMYK. Both handle Adobe's inverted inks.
        if header.components != 4:
            return JpegWindow(data, jpeg.align_to_blocks(_window(crops), header.width))
        formats = ("JPEG",)
    else:
        formats = _PILLOW_FORMATS
    with _open_with_pillow(data, formats) as image:
        image.load()
        rgb = _as_rgb(image)
    return _resize_all(rgb, crops, (0, 0), out)


def _resize_window(
    task: DecodeTask, window: JpegWindow, pixels: Pixels | CorruptImage
) -> Sequence[Pixels]:
    if isinstance(pixels, CorruptImage):
        raise pixels
    return _resize_all(pixels, task.crops, window.box[:2], task.out)


def _check_size(height: int, width: int) -> None:
    if height <= 0 or width <= 0:
        raise CorruptImage(f"the header gives a size of {width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise CorruptImage(
            f"the header gives {width} x {height} pixels, over the limit of {MAX_PIXELS:,}"
        )


def _check_crops(crops: Sequence[ResizedCrop]) -> None:
    for crop in crops:
        if crop.size[0] * crop.size[1] > MAX_PIXELS:
            raise CorruptImage(
                f"{crop.image_width} x {crop.image_height} pixels would be rescaled to {crop.size[1]} x "
                f"{crop.size[0]}, over the limit of {MAX_PIXELS:,} pixels"
            )


@contextlib.contextmanager
def _open_with_pillow(data: bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Opens an image, and turns what fails inside into CorruptImage."""
    # Pillow's plugins raise a dozen unrelated types on malformed files.
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        _check_size(image.height, image.width)
        yield image
    except CorruptImage:
        raise
    except Image.UnidentifiedImageError:
        raise CorruptImage(
            f"not a readable JPEG, PNG, GIF, BMP or WebP image (first bytes: {data[:4].hex(' ')})"
        ) from None
    except Exception as error:
        raise CorruptImage(f"broken {'/'.join(formats)}: {error}") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # 16-bit grey; Pillow's own conversion would clip at 255 instead of shifting.
        wide = np.asarray(image).astype(np.int64)
        image = Image.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _window(crops: Sequence[ResizedCrop]) -> tuple[int, int, int, int]:
    """Returns (top, left, height, width) of the image's pixels that the crops read."""
    tops, lefts, bottoms, rights = zip(*map(_reads, crops), strict=True)
    top, left = min(tops), min(lefts)
    return top, left, max(bottoms) - top, max(rights) - left


def _reads(crop: ResizedCrop) -> tuple[int, int, int, int]:
    """Returns (top, left, bottom, right) of the image's pixels that a crop reads."""
    left, top, right, bottom = crop.region
    height, width = crop.size
    # A filter's reach is in output pixels, and in image pixels where the image is enlarged.
    reach = _FILTERS[crop.interpolation].reach
    across = math.ceil(reach * max(1.0, (right - left) / width)) + _CHROMA_MARGIN
    down = math.ceil(reach * max(1.0, (bottom - top) / height)) + _CHROMA_MARGIN
    return (
        max(0, math.floor(top) - down),
        max(0, math.floor(left) - across),
        min(crop.image_height, math.ceil(bottom) + down),
        min(crop.image_width, math.ceil(right) + across),
    )


def _resize_all(
    image: np.ndarray | Image.Image,
    crops: Sequence[ResizedCrop],
    origin: tuple[int, int],
    out: Sequence[np.ndarray],
) -> Sequence[np.ndarray]:
    out = out or [np.empty((*crop.size, 3), np.uint8) for crop in crops]
    for crop, array in zip(crops, out, strict=True):
        _resize_crop(image, crop, origin, array)
    return out


def _resize_crop(
    image: np.ndarray | Image.Image,
    crop: ResizedCrop,
    origin: tuple[int, int],
    out: UInt8[np.ndarray, "height width 3"],
) -> None:
    """Writes a crop's pixels to `out`; `image` is the window of the whole image that begins at `origin`."""
    left, top, right, bottom = crop.region
    row, column = origin
    box = (left - column, top - row, right - column, bottom - row)
    height, width = crop.size
    if (right - left, bottom - top) == (width, height) and left == int(left) and top == int(top):
        x, y = int(box[0]), int(box[1])
        out[...] = np.asarray(image)[y : y + height, x : x + width]
    elif crop.interpolation == "bilinear":
        _resize().bilinear(np.asarray(image), box, out)
    else:
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        out[...] = image.resize((width, height), _FILTERS[crop.interpolation].pillow, box=box)
