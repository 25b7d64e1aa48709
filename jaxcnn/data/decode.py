"""Encoded bytes to the pixels of crops: `peek` reads an image's size, `decode` the pixels of a crop.

Training, evaluation and prediction share these rules:

* the bytes give the format, not the file's name (one "JPEG" of ImageNet is a PNG);
* the output is 8-bit RGB: grey is repeated, CMYK converted, alpha dropped, 16 bits shifted to 8; of an
  animation the first frame is decoded;
* the EXIF rotation is ignored, as it was when the papers' images were decoded;
* resizing is bilinear with antialiasing (Pillow's BILINEAR) unless the crop names another of Pillow's
  filters; at the crop's border the filter reads the image's pixels beyond it;
* images of more bytes, pixels or scans than limits.py allows are refused before decoding;
* a JPEG that lacks only its end marker is whole.

Only the crop's window of a JPEG, plus the filter's margin, is decoded. The result equals a full decode,
resize and crop to one grey level (two for one value in a million). 'cubic' differs more for about one value
in ten thousand, because Pillow clips overshoots between its two passes. 'area' and 'nearest' may break ties
differently, where a pixel's centre lies exactly between two pixels.
"""

import contextlib
import functools
import math
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcnn.data import jpeg, pillow
from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.limits import MAX_PIXELS, OUT_OF_MEMORY, check_bytes
from jaxcnn.data.sources import packed_record
from jaxcnn.data.tensorflow import JpegWindow, load_decoder

# Added to the filter's reach, because chroma upsampling reads neighbours at the window's edge.
_CHROMA_MARGIN = 4

Pixels = UInt8[np.ndarray, "_ _ 3"]


class Encoded(NamedTuple):
    """An encoded image, its (height, width) and a JPEG's header. A JPEG has an end marker."""

    data: bytes | memoryview
    size: tuple[int, int]
    header: jpeg.JpegHeader | None = None


class DecodeTask(NamedTuple):
    """An encoded image, the crops wanted, and arrays for their pixels; empty `out` makes new arrays.

    `header` is what `examine` found; without it, a JPEG's header is read again.
    """

    data: bytes | memoryview
    crops: Sequence[ResizedCrop]
    out: Sequence[Pixels] = ()
    header: jpeg.JpegHeader | None = None


# By interpolation: Pillow's filter, and its reach in output pixels.
_FILTERS = {
    "bilinear": (Image.Resampling.BILINEAR, 1.0),
    "area": (Image.Resampling.BOX, 0.5),
    "nearest": (Image.Resampling.NEAREST, 0.5),
    "cubic": (Image.Resampling.BICUBIC, 2.0),
}


def load_decoders() -> None:
    """Imports TensorFlow and compiles the resize. Call it before threads decode, so that they do not race."""
    load_decoder()
    pillow.silence_warnings()
    _resize()


@functools.cache
def _resize() -> ModuleType:
    from jaxcnn.data import resize  # imports numba

    resize.compile_kernels()
    return resize


def peek(data: bytes | memoryview) -> tuple[int, int]:
    """Returns (height, width) of an encoded image, read from its header. Raises what `examine` raises."""
    return examine(data).size


def examine(data: bytes | memoryview) -> Encoded:
    """Reads the header of an encoded image.

    Raises:
      CorruptImage: not an image of a known format, truncated, or too large.
    """
    if not data:
        raise CorruptImage("the file is empty")
    if packed_record.is_record(data):
        return Encoded(data, packed_record.read_record(data)[0].size)
    try:
        data, header = _read_header(data)
        if header is not None:
            return Encoded(data, (header.height, header.width), header)
        with pillow.open_image(data) as image:
            return Encoded(data, (image.height, image.width))
    except MemoryError:
        raise CorruptImage(OUT_OF_MEMORY) from None


def _read_header(data: bytes | memoryview) -> tuple[bytes, jpeg.JpegHeader | None]:
    """Returns the bytes, of a JPEG with an end marker, and a JPEG's header."""
    check_bytes(len(data))
    data = bytes(data)
    if not is_jpeg(data):
        return data, None
    header = jpeg.read_header(data)
    return jpeg.complete(data, header), header


def is_jpeg(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8")


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
    windows = [one for one in opened if isinstance(one, JpegWindow)]
    results = []
    with contextlib.closing(jpeg.decode_windows(windows)) as decoded:
        for task, one in zip(tasks, opened, strict=True):
            if isinstance(one, JpegWindow):
                one = _finish(next(decoded), task, one.box[:2])
            results.append(one)
    return results


def _finish(
    pixels: Pixels | CorruptImage, task: DecodeTask, corner: tuple[int, int]
) -> Sequence[Pixels] | CorruptImage:
    """Returns the crops of a JPEG's window, or why there are none."""
    if isinstance(pixels, CorruptImage):
        return pixels
    try:
        return _resize_all(pixels, task, corner)
    except MemoryError:
        return CorruptImage(OUT_OF_MEMORY)


def _open(task: DecodeTask) -> Sequence[Pixels] | JpegWindow | CorruptImage:
    """Decodes an image, or gives the window to decode if it is a JPEG for TensorFlow."""
    try:
        _check_crops(task.crops)
        if packed_record.is_record(task.data):
            return _decode_packed(task)
        if task.header is None:
            data, header = _read_header(task.data)
        else:
            data, header = bytes(task.data), task.header
        formats = pillow.FORMATS
        if header is not None:
            # TensorFlow rounds differently when it converts CMYK. Both handle Adobe's inverted inks.
            if header.components != 4:
                return jpeg.window(data, header, _window(task.crops))
            formats = ("JPEG",)
        with pillow.decoded_image(data, formats) as rgb:
            return _resize_all(rgb, task, (0, 0))
    except CorruptImage as error:
        return error
    except MemoryError:
        return CorruptImage(OUT_OF_MEMORY)


def _decode_packed(task: DecodeTask) -> Sequence[Pixels]:
    stored, pixels = packed_record.read_record(task.data)
    crops = [stored.place(crop) for crop in task.crops]
    top, left, height, width = _window(crops)
    # Copy the window, so that the mapped file is read once, sequentially.
    window = pixels[top : top + height, left : left + width].copy()
    return _resize_all(window, task._replace(crops=crops), (top, left))


def _check_crops(crops: Sequence[ResizedCrop]) -> None:
    for crop in crops:
        if crop.size[0] * crop.size[1] > MAX_PIXELS:
            raise CorruptImage(
                f"{crop.image_width} x {crop.image_height} pixels would be rescaled to {crop.size[1]} x "
                f"{crop.size[0]}, over the limit of {MAX_PIXELS:,} pixels"
            )


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
