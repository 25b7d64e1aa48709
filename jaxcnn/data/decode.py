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

import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcnn.data import jpeg, resize
from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.sources import packed

MAX_PIXELS = 100_000_000

_PILLOW_FORMATS = ("PNG", "GIF", "BMP", "WEBP")
# Beyond the filter's reach: chroma upsampling at the window's edge looks at neighbours.
_CHROMA_MARGIN = 4


# (image height, image width) -> the views wanted.
ChooseCrop = Callable[[int, int], Sequence[ResizedCrop]]
# The pixels of the views, and the views.
Decoded = tuple[Sequence[UInt8[np.ndarray, "_ _ 3"]], Sequence[ResizedCrop]]
_Result = TypeVar("_Result")


class Request(NamedTuple):
    """An encoded image, its views, and the arrays to write their pixels to; new ones if none are given."""

    data: bytes | memoryview
    choose: ChooseCrop
    places: Sequence[UInt8[np.ndarray, "_ _ 3"]] = ()


class _Waiting(NamedTuple):
    """A JPEG whose views are known and whose pixels are not."""

    views: Sequence[ResizedCrop]
    places: Sequence[np.ndarray]
    window: jpeg.Window


class _Filter(NamedTuple):
    pillow: Image.Resampling
    reach: float


_FILTERS = {
    "bilinear": _Filter(Image.Resampling.BILINEAR, 1.0),
    "area": _Filter(Image.Resampling.BOX, 0.5),
    "nearest": _Filter(Image.Resampling.NEAREST, 0.5),
    "cubic": _Filter(Image.Resampling.BICUBIC, 2.0),
}


def decode_view(
    data: bytes | memoryview, choose: Callable[[int, int], ResizedCrop]
) -> tuple[UInt8[np.ndarray, "height width 3"], ResizedCrop]:
    """The pixels of the view that `choose(height, width)` asks for, and that view.

    Raises:
      CorruptImage: not an image of a known format, truncated, broken, or too large.
    """
    (pixels,), (view,) = decode_views(data, lambda height, width: [choose(height, width)])
    return pixels, view


def decode_views(data: bytes | memoryview, choose: ChooseCrop) -> Decoded:
    """As `decode_view`, for several views of one image, which is decoded once."""
    (decoded,) = decode_many([Request(data, choose)])
    if isinstance(decoded, CorruptImage):
        raise decoded
    return decoded


def decode_many(requests: Iterable[Request]) -> list[Decoded | CorruptImage]:
    """What `decode_views` gives or raises, of several images, whose JPEGs are decoded together."""
    opened = [_try(_open, request) for request in requests]
    windows = [one.window for one in opened if isinstance(one, _Waiting)]
    pixels = jpeg.decode_windows(windows)
    return [
        _try(_finish, one, next(pixels)) if isinstance(one, _Waiting) else one for one in opened
    ]


def _try(function: Callable[..., _Result], *arguments: Any) -> _Result | CorruptImage:
    try:
        return function(*arguments)
    except CorruptImage as error:
        return error


def _open(request: Request) -> Decoded | _Waiting:
    data, choose, places = request
    if not data:
        raise CorruptImage("the file is empty")
    if data[: len(packed.MAGIC)] == packed.MAGIC:
        stored, views, placed = packed.look(data, choose)
        _check_views(views)
        top, left, height, width = _window(placed)
        # A copy, so that what is mapped is read once, in its order.
        part = stored[top : top + height, left : left + width].copy()
        return _rescale_all(part, placed, (top, left), places), views
    data = bytes(data)
    if data[:2] == b"\xff\xd8":
        header = jpeg.read_header(data)
        _check_size(header.height, header.width)
        views = choose(header.height, header.width)
        _check_views(views)
        # TensorFlow rounds in its own way from CMYK; both know Adobe's inverted inks.
        if header.components != 4:
            window = jpeg.Window(data, jpeg.align(_window(views), header.width))
            return _Waiting(views, places, window)
        image = _decode_with_pillow(data, ("JPEG",))
    else:
        image = _decode_with_pillow(data, _PILLOW_FORMATS)
        views = choose(image.height, image.width)
        _check_views(views)
    return _rescale_all(image, views, (0, 0), places), views


def _finish(waiting: _Waiting, pixels: np.ndarray | CorruptImage) -> Decoded:
    if isinstance(pixels, CorruptImage):
        raise pixels
    views, origin = waiting.views, waiting.window.box[:2]
    return _rescale_all(pixels, views, origin, waiting.places), views


def _check_size(height: int, width: int) -> None:
    if height <= 0 or width <= 0:
        raise CorruptImage(f"the header gives a size of {width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise CorruptImage(
            f"the header gives {width} x {height} pixels, over the limit of {MAX_PIXELS:,}"
        )


def _check_views(views: Sequence[ResizedCrop]) -> None:
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


def _window(views: Sequence[ResizedCrop]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the image's pixels that views read."""
    tops, lefts, bottoms, rights = zip(*map(_reads, views), strict=True)
    top, left = min(tops), min(lefts)
    return top, left, max(bottoms) - top, max(rights) - left


def _reads(view: ResizedCrop) -> tuple[int, int, int, int]:
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


def _rescale_all(
    image: np.ndarray | Image.Image,
    views: Sequence[ResizedCrop],
    origin: tuple[int, int],
    places: Sequence[np.ndarray],
) -> Sequence[np.ndarray]:
    places = places or [np.empty((*view.size, 3), np.uint8) for view in views]
    for view, place in zip(views, places, strict=True):
        _rescale(image, view, origin, place)
    return places


def _rescale(
    image: np.ndarray | Image.Image,
    view: ResizedCrop,
    origin: tuple[int, int],
    out: UInt8[np.ndarray, "height width 3"],
) -> None:
    """Writes the view's pixels, of an image whose first pixel is pixel `origin` of the whole one."""
    left, top, right, bottom = view.region
    row, column = origin
    box = (left - column, top - row, right - column, bottom - row)
    height, width = view.size
    if (right - left, bottom - top) == (width, height) and left == int(left) and top == int(top):
        x, y = int(box[0]), int(box[1])
        out[...] = np.asarray(image)[y : y + height, x : x + width]
    elif view.interpolation == "bilinear":
        resize.bilinear(np.asarray(image), box, out)
    else:
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        out[...] = image.resize((width, height), _FILTERS[view.interpolation].pillow, box=box)
