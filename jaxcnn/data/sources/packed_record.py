"""One record of a packed data set: the pixels of an image, and which part of it they are."""

import functools
import logging
import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.errors import CorruptImage, DataError

_LOGGER = logging.getLogger(__name__)

_MAGIC = b"\x89JCNNP1\n"
_HEADER = struct.Struct("<8s8I")
# Edges closer than this to a whole pixel count as whole: the rounding error of two divisions.
_ROUNDING = 1e-6


class PackedImage(NamedTuple):
    """What a record stores: the part `box` = (top, left, height, width) of an image of `size`, rescaled to
    `rescaled`; both are (height, width)."""

    size: tuple[int, int]
    rescaled: tuple[int, int]
    box: tuple[int, int, int, int]

    def header(self) -> bytes:
        return _HEADER.pack(_MAGIC, *self.size, *self.rescaled, *self.box)

    def place(self, crop: ResizedCrop) -> ResizedCrop:
        """Maps a crop of the original image to the stored pixels.

        Raises:
          DataError: the crop reads pixels that are not stored.
        """
        (height, width), (tall, wide), (top, left, rows, columns) = self
        x, y = crop.region[0::2], crop.region[1::2]
        across = _along(x, wide / width, left, columns, crop.size[1])
        down = _along(y, tall / height, top, rows, crop.size[0])
        if across is None or down is None:
            raise DataError(
                f"a crop reads columns {x[0]:.0f} to {x[1]:.0f} and rows {y[0]:.0f} to {y[1]:.0f} of an "
                f"image of {width} x {height} pixels, of which only the central square is packed; use "
                "--config.augment.sampling=random_crop_in_square (or center_crop) and protocols whose crops "
                "lie in the central square, or pack without --square"
            )
        shrunk, (rows_out, columns_out) = tall < height, crop.size
        if shrunk and (across[1] - across[0] < columns_out or down[1] - down[0] < rows_out):
            with _WARNING:  # threads that crop at the same time
                _warn_of_enlarging(min(tall, wide))
        region = (across[0], down[0], across[1], down[1])
        return crop._replace(image_height=rows, image_width=columns, region=region)


def _along(
    edges: Sequence[float], scale: float, first: int, count: int, size: int
) -> tuple[float, float] | None:
    """Returns a crop's edges in the stored pixels along one axis; None if it lies outside them."""
    low, high = (_on_whole(edge * scale - first) for edge in edges)
    # Rescaled sizes and the square's corner are rounded, so the square moves by a pixel between two scales.
    if max(-low, high - count) > 1 + (high - low) / size:
        return None
    shift = max(-low, 0.0) - max(high - count, 0.0)
    return max(low + shift, 0.0), min(high + shift, float(count))


def _on_whole(value: float) -> float:
    return float(round(value)) if abs(value - round(value)) < _ROUNDING else value


_WARNING = threading.Lock()


@functools.cache  # once
def _warn_of_enlarging(shorter_side: int) -> None:
    _LOGGER.warning(
        "crops enlarge images that were packed with shorter side %d, and are less sharp than crops of the "
        "original images; pack with a larger --shorter_side",
        shorter_side,
    )


def is_record(data: bytes | memoryview) -> bool:
    """Whether the bytes are a record of a packed data set, not an encoded image."""
    return data[: len(_MAGIC)] == _MAGIC


def read_record(data: bytes | memoryview) -> tuple[PackedImage, UInt8[np.ndarray, "h w 3"]]:
    """Returns a record's header and its pixels, which are a view of `data`.

    Raises:
      CorruptImage: the record is damaged.
    """
    if len(data) < _HEADER.size:
        raise CorruptImage(f"damaged record: {len(data)} bytes, shorter than its header")
    _, *numbers = _HEADER.unpack_from(data)
    stored = PackedImage((numbers[0], numbers[1]), (numbers[2], numbers[3]), tuple(numbers[4:]))
    rows, columns = stored.box[2:]
    if len(data) != _HEADER.size + rows * columns * 3 or min(numbers[:4] + numbers[6:]) < 1:
        raise CorruptImage(
            f"damaged record: {len(data)} bytes for {columns} x {rows} pixels and a header of "
            f"{_HEADER.size}"
        )
    return stored, np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(rows, columns, 3)
