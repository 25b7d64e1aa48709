"""JPEG headers, whether a file is whole, and decoding of windows in groups."""

import re
import struct
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

from jaxtyping import UInt8
from numpy import ndarray

from jaxcnn.data import native_stderr
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.limits import BUDGET, check_scans, check_size
from jaxcnn.data.tensorflow import JpegWindow, decode_jpegs, decode_strictly

# A marker that begins a segment. Between segments and inside a scan come restart markers (D0 to D7), 0xFF as
# data (00) or to fill (FF), and stray bytes, which decoders skip too.
_BARE_MARKERS = frozenset({0x00, 0x01, *range(0xD0, 0xD8), 0xFF})
_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_FRAME = struct.Struct(">HHB")
# Start-of-frame markers: 0xC0..0xCF without DHT (C4), JPG (C8) and DAC (CC).
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN, _END = 0xDA, 0xD9
_END_MARKER = b"\xff\xd9"
# An image has fewer, nearly always.
_USUAL_SCANS = 20
# An ICC profile takes 255 segments at most.
_MAX_SEGMENTS = 10_000
# Most pixels that one call decodes: they are in memory at the same time.
_GROUP_PIXELS = 1 << 21
# Width of the largest block (MCU) of common JPEGs.
_BLOCK = 16


class JpegHeader(NamedTuple):
    """`first_scan` is a position in the file. `whole_in_memory`: its coefficients are kept until the last
    scan. `ended`: there is an end marker."""

    height: int
    width: int
    components: int
    progressive: bool
    first_scan: int
    whole_in_memory: bool
    ended: bool


def read_header(data: bytes) -> JpegHeader:
    """Reads a JPEG up to its first scan, and looks for its end marker.

    Entropy-coded data cannot contain an end marker, so a file without one after the start of the first
    scan is truncated, or lacks just that (see `complete`), whatever part of the image is decoded later.

    Raises:
      CorruptImage: no frame header or no scan, or absurd numbers of pixels, segments or scans.
    """
    frame = None
    for marker, at in _segments(data, 2):
        if marker in _FRAME_MARKERS and at + 10 <= len(data):
            frame = marker, *_FRAME.unpack_from(data, at + 5)
        elif marker == _SCAN and frame and at + 5 <= len(data):
            kind, height, width, components = frame
            check_size(height, width)
            progressive = kind in _PROGRESSIVE
            several = progressive or data[at + 4] != components
            if several:
                scans = data.count(b"\xff\xda", at)
                if scans > _USUAL_SCANS:  # perhaps of other images after the end marker
                    scans = _count_scans(data, at)
                check_scans(scans, height * width)
            ended = data.rfind(_END_MARKER, at) >= 0
            return JpegHeader(height, width, components, progressive, at, several, ended)
    raise CorruptImage("truncated JPEG: the file ends before its first scan")


def _count_scans(data: bytes, position: int) -> int:
    """The scans from `position` up to the end marker, where decoders stop."""
    count = 0
    for marker, _ in _segments(data, position):
        if marker == _END:
            break
        count += marker == _SCAN
    return count


def _segments(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Yields (marker, position) of each segment from `position` on."""
    end = len(data) - 1
    for _ in range(_MAX_SEGMENTS):
        # Nearly always the next segment follows at once, and no search is needed.
        if position >= end or data[position] != 0xFF or data[position + 1] in _BARE_MARKERS:
            found = _SEGMENT.search(data, position)
            if found is None:
                return
            position = found.start()
        yield data[position + 1], position
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    raise CorruptImage(f"the JPEG has more than {_MAX_SEGMENTS:,} segments")


def complete(data: bytes, header: JpegHeader) -> bytes:
    """Returns the JPEG with an end marker.

    A file without one is decoded once: if all of its scans are there to the last bit, it is whole.

    Raises:
      CorruptImage: it was cut earlier, or this system does not tell.
    """
    if header.ended:
        return data
    ended = data.removesuffix(b"\xff") + _END_MARKER
    whole = JpegWindow(ended, (0, 0, header.height, header.width), _memory(header, header[:2]))
    if _has_all_scans(ended, header) and native_stderr.is_supported():
        with BUDGET.reserve(whole.memory):
            if not isinstance(decode_strictly(whole), CorruptImage):
                return ended
    raise CorruptImage("truncated JPEG: no end-of-image marker, and a part before it is missing")


def _has_all_scans(data: bytes, header: JpegHeader) -> bool:
    """Whether the scans send all bits of all coefficients of all components."""
    missing = dict[tuple[int, int], int]()
    for marker, at in _segments(data, header.first_scan):
        if marker == _END:
            break
        if marker != _SCAN:
            continue
        # The number of components, two bytes for each, the first and last coefficient, the lowest bit.
        end = at + 5 + 2 * int.from_bytes(data[at + 4 : at + 5])
        if end + 3 > len(data):
            return False
        first, last, bits = data[end : end + 3] if header.progressive else (0, 63, 0)
        for component in data[at + 5 : end : 2]:
            missing |= {(component, k): bits & 15 for k in range(first, last + 1)}
    return len(missing) == 64 * header.components and not any(missing.values())


def window(data: bytes, header: JpegHeader, box: tuple[int, int, int, int]) -> JpegWindow:
    """Returns the window `box` of a JPEG, widened to whole blocks."""
    box = align_to_blocks(box, header.width)
    return JpegWindow(data, box, _memory(header, box[2:]))


def _memory(header: JpegHeader, pixels: tuple[int, int]) -> int:
    """The bytes that decoding a window of (height, width) = `pixels` takes, at most."""
    kept = 2 * header.height * header.width * header.components if header.whole_in_memory else 0
    return 3 * pixels[0] * pixels[1] + kept


def align_to_blocks(box: tuple[int, int, int, int], width: int) -> tuple[int, int, int, int]:
    """Widens a box to whole blocks of an image of `width`; otherwise TensorFlow copies the rows once more."""
    top, left, height, box_width = box
    first = left // _BLOCK * _BLOCK
    last = min(-(-(left + box_width) // _BLOCK) * _BLOCK, width)
    return top, first, height, last - first


def decode_windows(
    windows: Iterable[JpegWindow],
) -> Generator[UInt8[ndarray, "_ _ 3"] | CorruptImage]:
    """Decodes grey or RGB JPEGs in groups of at most `_GROUP_PIXELS`; yields each one's pixels or error.

    Large ones wait for memory, which is theirs until the next group: close the generator.
    """
    group: list[JpegWindow] = []
    pixels = 0
    for window in windows:
        size = window.box[2] * window.box[3]
        if group and pixels + size > _GROUP_PIXELS:
            yield from _decode_group(group)
            group, pixels = [], 0
        group.append(window)
        pixels += size
    if group:
        yield from _decode_group(group)


def _decode_group(group: list[JpegWindow]) -> Iterator[UInt8[ndarray, "_ _ 3"] | CorruptImage]:
    with BUDGET.reserve(sum(window.memory for window in group)):
        yield from decode_jpegs(group)
