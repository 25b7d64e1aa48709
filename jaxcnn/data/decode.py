"""Encoded bytes to the pixels of one view.

One policy for training, evaluation and prediction:

* the format is told from the bytes, never from the file's name (one "JPEG" of ImageNet is a PNG);
* colour comes out as 8-bit RGB: grey is repeated, CMYK converted, alpha dropped, 16 bits shifted
  to 8, and of an animation the first frame is taken;
* the EXIF rotation is ignored, as it was when the papers' images were decoded;
* the rescale is bilinear with antialiasing (Pillow's BILINEAR) unless the view names another of
  Pillow's filters; at the view's border it looks at the image beyond it;
* sizes are read from the header, and more than `MAX_PIXELS` are refused before decoding.

A JPEG is decoded only in the view's window plus the filter's margin. The result equals a full
decode, rescale and crop to within one grey level (two at one value in a million). 'cubic' is further
off at about one value in ten thousand, where Pillow cuts its overshoots between the two passes. Where
the centre of an image's pixel lies exactly on the border of two of the view's, 'area' may count it to
either, and where a view's pixel has its centre exactly between two of the image's, 'nearest' may take
either.
"""

import contextlib
import functools
import io
import math
import os
import struct
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from . import packed, resample
from .crops import View
from .errors import CorruptImage, DataError

MAX_PIXELS = 100_000_000

# Start-of-frame markers: 0xC0..0xCF without DHT (C4), JPG (C8) and DAC (CC).
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM and the restart markers.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_PILLOW_FORMATS = ("PNG", "GIF", "BMP", "WEBP")
# Beyond the filter's reach: chroma upsampling at the window's edge looks at neighbours.
_CHROMA_MARGIN = 4


class _Filter(NamedTuple):
    pillow: Image.Resampling
    reach: float


_FILTERS = {
    "bilinear": _Filter(Image.Resampling.BILINEAR, 1.0),
    "area": _Filter(Image.Resampling.BOX, 0.5),
    "nearest": _Filter(Image.Resampling.NEAREST, 0.5),
    "cubic": _Filter(Image.Resampling.BICUBIC, 2.0),
}


class JpegHeader(NamedTuple):
    height: int
    width: int
    components: int


@functools.cache
def load_tensorflow() -> Any:
    """The tensorflow module, imported on first use, with accelerators hidden from it.

    Raises:
      DataError: TensorFlow was started earlier in this process and holds an accelerator.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Neither TensorFlow nor TFDS shall look for a cloud that is not there.
    os.environ.setdefault("NO_GCE_CHECK", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
    # One image at a time in each of our own threads: more would only take the cores from each other.
    with contextlib.suppress(RuntimeError):  # it has started, with what its user chose
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    for kind in ("GPU", "TPU"):
        try:
            tf.config.set_visible_devices([], kind)
        except RuntimeError as error:
            if tf.config.get_visible_devices(kind):
                raise DataError(
                    f"TensorFlow already holds a {kind} of this process, which JAX needs; import "
                    "jaxcnn.data before any other TensorFlow code, or install tensorflow-cpu"
                ) from error
    return tf


def decode_view(
    data: bytes | memoryview, choose: Callable[[int, int], View]
) -> tuple[UInt8[np.ndarray, "height width 3"], View]:
    """The pixels of the view that `choose(height, width)` asks for, and that view.

    Raises:
      CorruptImage: not an image of a known format, truncated, broken, or too large.
    """
    (pixels,), (view,) = decode_views(data, lambda height, width: [choose(height, width)])
    return pixels, view


def decode_views(
    data: bytes | memoryview, choose: Callable[[int, int], Sequence[View]]
) -> tuple[list[UInt8[np.ndarray, "_ _ 3"]], Sequence[View]]:
    """As `decode_view`, for several views of one image, which is decoded once."""
    if not data:
        raise CorruptImage("the file is empty")
    if data[: len(packed.MAGIC)] == packed.MAGIC:
        stored, views, placed = packed.look(data, choose)
        _check_views(views)
        return [_rescale_stored(stored, view) for view in placed], views
    data = bytes(data)
    image: np.ndarray | Image.Image
    if data[:2] == b"\xff\xd8":
        header = jpeg_header(data)
        _check_size(header.height, header.width)
        views = choose(header.height, header.width)
        _check_views(views)
        # TensorFlow rounds in its own way from CMYK; both know Adobe's inverted inks.
        if header.components != 4:
            image, origin = _decode_jpeg_window(data, views)
            return [_rescale(image, view, origin) for view in views], views
        image = _decode_with_pillow(data, ("JPEG",))
    else:
        image = _decode_with_pillow(data, _PILLOW_FORMATS)
        views = choose(image.height, image.width)
        _check_views(views)
    return [_rescale(image, view, (0, 0)) for view in views], views


def jpeg_header(data: bytes) -> JpegHeader:
    """Size and number of components from a JPEG's frame header, and a check that it is whole.

    Inside the scan data an end marker cannot occur, so a file without one after the first scan's
    start is truncated. The check makes truncation visible whatever part of the image is decoded.

    Raises:
      CorruptImage: no frame header, or no end marker.
    """
    position = 2
    header = None
    while position + 4 <= len(data):
        if data[position] != 0xFF:  # stray bytes between segments; decoders step over them too
            position = data.find(b"\xff", position)
            if position < 0:
                break
            continue
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _BARE_MARKERS:
            position += 2
            continue
        if marker == 0xDA and header is not None:
            if data.rfind(b"\xff\xd9", position) < 0:
                raise CorruptImage("truncated JPEG: no end-of-image marker")
            return header
        if marker in _FRAME_MARKERS and position + 10 <= len(data):
            height, width, components = struct.unpack_from(">HHB", data, position + 5)
            header = JpegHeader(height, width, components)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise CorruptImage("truncated JPEG: the file ends before its first scan")


def _check_size(height: int, width: int) -> None:
    if height <= 0 or width <= 0:
        raise CorruptImage(f"the header gives a size of {width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise CorruptImage(
            f"the header gives {width} x {height} pixels, over the limit of {MAX_PIXELS:,}"
        )


def _check_views(views: Sequence[View]) -> None:
    for view in views:
        if view.size[0] * view.size[1] > MAX_PIXELS:
            raise CorruptImage(
                f"{view.image_width} x {view.image_height} pixels would be rescaled to {view.size[1]} x "
                f"{view.size[0]}, over the limit of {MAX_PIXELS:,} pixels"
            )


def _decode_with_pillow(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    # Pillow's plugins raise a dozen unrelated types on malformed files.
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        _check_size(image.height, image.width)
        image.load()
        return _as_rgb(image)
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


def _decode_jpeg_window(data: bytes, views: Sequence[View]) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of a JPEG that `views` read, and its first (row, column)."""
    tf = load_tensorflow()
    windows = [_window(view) for view in views]
    first_row, first_column = (min(window[i] for window in windows) for i in (0, 1))
    last_row, last_column = (max(window[i] for window in windows) for i in (2, 3))
    window = [first_row, first_column, last_row - first_row, last_column - first_column]
    try:
        pixels = tf.raw_ops.DecodeAndCropJpeg(
            # Given as they are, the call would first fail on its quick way: 60 microseconds an image.
            contents=tf.constant(data),
            crop_window=tf.constant(window, tf.int32),
            channels=3,
            dct_method="INTEGER_ACCURATE",
        ).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise CorruptImage(f"broken JPEG: {str(error).splitlines()[0][:200]}") from error
    return pixels, (first_row, first_column)


def _window(view: View) -> tuple[int, int, int, int]:
    """(first row, first column, last row, last column) of the image's pixels that a view reads."""
    left, top, right, bottom = view.region
    height, width = view.size
    # A filter's reach is in pixels of the view, and at least as many of the image.
    reach = _FILTERS[view.interpolation].reach
    across = math.ceil(reach * max(1.0, (right - left) / width)) + _CHROMA_MARGIN
    down = math.ceil(reach * max(1.0, (bottom - top) / height)) + _CHROMA_MARGIN
    return (
        max(0, math.floor(top) - down),
        max(0, math.floor(left) - across),
        min(view.image_height, math.ceil(bottom) + down),
        min(view.image_width, math.ceil(right) + across),
    )


def _rescale_stored(
    stored: UInt8[np.ndarray, "h w 3"], view: View
) -> UInt8[np.ndarray, "height width 3"]:
    """The view's pixels from a mapped file, of which it copies what the view looks at."""
    top, left, bottom, right = _window(view)
    return _rescale(stored[top:bottom, left:right].copy(), view, (top, left))


def _rescale(
    image: np.ndarray | Image.Image, view: View, origin: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """The view's pixels from an image whose first pixel is pixel `origin` of the whole one."""
    left, top, right, bottom = view.region
    row, column = origin
    box = (left - column, top - row, right - column, bottom - row)
    height, width = view.size
    if (right - left, bottom - top) == (width, height) and left == int(left) and top == int(top):
        first_row, first_column = int(box[1]), int(box[0])
        part = np.asarray(image)[first_row : first_row + height]
        return part[:, first_column : first_column + width]
    if view.interpolation == "bilinear":
        return resample.bilinear(np.asarray(image), box, view.size)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return np.asarray(image.resize((width, height), _FILTERS[view.interpolation].pillow, box=box))
