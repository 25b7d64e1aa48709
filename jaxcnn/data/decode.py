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
in ten thousand, because Pillow clips overshoots between its two passes. 'area' and 'nearest' may break ties
differently, where a pixel's centre lies exactly between two pixels.
"""

import contextlib
import functools
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

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


class DecodeTask(NamedTuple):
    """An encoded image, the crops wanted, and arrays for their pixels; empty `out` makes new arrays."""

    data: bytes | memoryview
    crops: Sequence[ResizedCrop]
    out: Sequence[Pixels] = ()


# By interpolation: Pillow's filter, and its reach in output pixels.
_FILTERS = {
    "bilinear": (Image.Resampling.BILINEAR, 1.0),
    "area": (Image.Resampling.BOX, 0.5),
    "nearest": (Image.Resampling.NEAREST, 0.5),
    "cubic": (Image.Resampling.BICUBIC, 2.0),
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
    opened = [_open(task) for task in tasks]
    decoded = jpeg.decode_windows(one for one in opened if isinstance(one, JpegWindow))
    results = []
    for task, one in zip(tasks, opened, strict=True):
        if isinstance(one, JpegWindow):
            pixels, corner = next(decoded), one.box[:2]
            one = pixels if isinstance(pixels, CorruptImage) else _resize_all(pixels, task, corner)
        results.append(one)
    return results


def _open(task: DecodeTask) -> Sequence[Pixels] | JpegWindow | CorruptImage:
    """Decodes an image, or gives the window to decode if it is a JPEG for TensorFlow."""
    try:
        _check_crops(task.crops)
        if packed.is_record(task.data):
            return _decode_packed(task)
        data = bytes(task.data)
        formats = _PILLOW_FORMATS
        if data.startswith(_JPEG_MAGIC):
            header = jpeg.read_header(data)
            # TensorFlow rounds differently when it converts CMYK. Both handle Adobe's inverted inks.
            if header.components != 4:
                return JpegWindow(data, jpeg.align_to_blocks(_window(task.crops), header.width))
            formats = ("JPEG",)
        with _open_with_pillow(data, formats) as image:
            image.load()
            rgb = _as_rgb(image)
        return _resize_all(rgb, task, (0, 0))
    except CorruptImage as error:
        return error


def _decode_packed(task: DecodeTask) -> Sequence[Pixels]:
    stored, pixels = packed.read_record(task.data)
    crops = [stored.place(crop) for crop in task.crops]
    top, left, height, width = _window(crops)
    # Copy the window, so that the mapped file is read once, sequentially.
    window = pixels[top : top + height, left : left + width].copy()
    return _resize_all(window, task._replace(crops=crops), (top, left))


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
    _, reach = _FILTERS[crop.interpolation]
    across = math.ceil(reach * max(1.0, (right - left) / width)) + _CHROMA_MARGIN
    down = math.ceil(reach * max(1.0, (bottom - top) / height)) + _CHROMA_MARGIN
    return (
        max(0, math.floor(top) - down),
        max(0, math.floor(left) - across),
        min(crop.image_height, math.ceil(bottom) + down),
        min(crop.image_width, math.ceil(right) + across),
    )


def _resize_all(
    image: np.ndarray | Image.Image, task: DecodeTask, origin: tuple[int, int]
) -> Sequence[Pixels]:
    """Returns the pixels of the crops; `image` is the window of the whole image that begins at `origin`."""
    arrays = task.out or [np.empty((*crop.size, 3), np.uint8) for crop in task.crops]
    for crop, out in zip(task.crops, arrays, strict=True):
        left, top, right, bottom = crop.region
        row, column = origin
        box = (left - column, top - row, right - column, bottom - row)
        height, width = crop.size
        scaled = (right - left, bottom - top) != (width, height)
        if not scaled and left == int(left) and top == int(top):
            x, y = int(box[0]), int(box[1])
            out[...] = np.asarray(image)[y : y + height, x : x + width]
        elif crop.interpolation == "bilinear":
            _resize().bilinear(np.asarray(image), box, out)
        else:
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            pillow, _ = _FILTERS[crop.interpolation]
            out[...] = image.resize((width, height), pillow, box=box)
    return arrays
