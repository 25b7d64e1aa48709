"""JPEG headers, and decoding of windows in groups."""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxtyping import UInt8
from numpy import ndarray

from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.tensorflow import JpegWindow, decode_jpegs

# Start-of-frame markers: 0xC0..0xCF without DHT (C4), JPG (C8) and DAC (CC).
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM and the restart markers.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
# Most pixels that one call decodes: they are in memory at the same time.
_GROUP_PIXELS = 1 << 21
# Width of the largest block (MCU) of common JPEGs.
_BLOCK = 16


class JpegHeader(NamedTuple):
    height: int
    width: int
    components: int


def read_header(data: bytes) -> JpegHeader:
    """Reads size and number of components from a JPEG's frame header, and checks that the file is complete.

    Entropy-coded data cannot contain an end marker, so a file without one after the start of the first
    scan is truncated. The check finds truncation whatever part of the image is decoded later.

    Raises:
      CorruptImage: no frame header, or no end marker.
    """
    position = 2
    header = None
    while position + 4 <= len(data):
        if data[position] != 0xFF:  # stray bytes between segments; decoders skip them too
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


def align_to_blocks(box: tuple[int, int, int, int], width: int) -> tuple[int, int, int, int]:
    """Widens a box to whole blocks of an image of `width`; otherwise TensorFlow copies the rows once more."""
    top, left, height, box_width = box
    first = left // _BLOCK * _BLOCK
    last = min(-(-(left + box_width) // _BLOCK) * _BLOCK, width)
    return top, first, height, last - first


def decode_windows(
    windows: Iterable[JpegWindow],
) -> Iterator[UInt8[ndarray, "_ _ 3"] | CorruptImage]:
    """Decodes grey or RGB JPEGs in groups of at most `_GROUP_PIXELS`; yields each one's pixels or error."""
    group: list[JpegWindow] = []
    pixels = 0
    for window in windows:
        size = window.box[2] * window.box[3]
        if group and pixels + size > _GROUP_PIXELS:
            yield from decode_jpegs(group)
            group, pixels = [], 0
        group.append(window)
        pixels += size
    if group:
        yield from decode_jpegs(group)
