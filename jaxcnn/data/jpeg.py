"""JPEGs: what their headers say, and the pixels of windows, by TensorFlow's libjpeg-turbo."""

import contextlib
import functools
import os
import struct
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxcnn.data.cores import available_cores
from jaxcnn.data.errors import CorruptImage, DataError

# Start-of-frame markers: 0xC0..0xCF without DHT (C4), JPG (C8) and DAC (CC).
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM and the restart markers.
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
# Of the windows that one call decodes, which are in memory at once.
_GROUP_PIXELS = 1 << 21
# Columns of the widest block of pixels that usual JPEGs are coded in.
_BLOCK = 16
_TRACING = threading.Lock()
_LEGACY_KERAS = "TF_USE_LEGACY_KERAS"


class JpegHeader(NamedTuple):
    height: int
    width: int
    components: int


class Window(NamedTuple):
    """The part (top, left, height, width) of an encoded image, in its pixels."""

    data: bytes
    box: tuple[int, int, int, int]


@functools.cache
def load_tensorflow() -> Any:
    """The tensorflow module, imported on first use, with accelerators hidden from it.

    Raises:
      DataError: TensorFlow was started earlier in this process and holds an accelerator.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Neither TensorFlow nor TFDS shall look for a cloud that is not there.
    os.environ.setdefault("NO_GCE_CHECK", "true")
    # TensorFlow would import Keras, half of its start, for nothing here. Asked for an older Keras it does
    # not, and `tf.keras` is still what it would have been, as that is looked up on first use.
    chosen = _LEGACY_KERAS in os.environ
    os.environ.setdefault(_LEGACY_KERAS, "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow as tf
    finally:
        if not chosen:
            del os.environ[_LEGACY_KERAS]
    # Ours are the threads that decode: TensorFlow's own shall not crowd them.
    with contextlib.suppress(RuntimeError):  # it has started, with what its user chose
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(available_cores())
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


def read_header(data: bytes) -> JpegHeader:
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


def align(box: tuple[int, int, int, int], width: int) -> tuple[int, int, int, int]:
    """The box made wider to whole blocks of an image of `width`; of others, rows are copied once more."""
    top, left, height, across = box
    first = left // _BLOCK * _BLOCK
    last = min(-(-(left + across) // _BLOCK) * _BLOCK, width)
    return top, first, height, last - first


def decode_windows(
    windows: Iterable[Window],
) -> Iterator[UInt8[np.ndarray, "_ _ 3"] | CorruptImage]:
    """The pixels of each window of a grey or RGB JPEG, or why there are none.

    Small ones are decoded by one call, since a call of TensorFlow's takes a tenth of what an image does.
    """
    for group in _groups(windows):
        yield from _decode_group(group)


def _groups(windows: Iterable[Window]) -> Iterator[list[Window]]:
    group: list[Window] = []
    pixels = 0
    for window in windows:
        pixels += window.box[2] * window.box[3]
        if group and pixels > _GROUP_PIXELS:
            yield group
            group, pixels = [], window.box[2] * window.box[3]
        group.append(window)
    if group:
        yield group


def _decode_group(windows: Sequence[Window]) -> list[np.ndarray | CorruptImage]:
    tf = load_tensorflow()
    if len(windows) > 1:
        with contextlib.suppress(tf.errors.InvalidArgumentError):  # told below, of which it was
            encoded = tf.constant([window.data for window in windows])
            boxes = tf.constant([window.box for window in windows], tf.int32)
            # Called as a Python function it would take 9 microseconds an image more, in Python. By the thread
            # that calls, as ours are as many as the cores can use.
            decoded = tf.raw_ops.PartitionedCall(
                args=[encoded, boxes],
                Tout=[tf.uint8] * len(windows),
                f=_decoder(len(windows)),
                executor_type="SINGLE_THREADED_EXECUTOR",
            )
            return list(map(np.asarray, decoded))
    return [_decode_window(window) for window in windows]


def _decode_window(window: Window) -> np.ndarray | CorruptImage:
    tf = load_tensorflow()
    try:
        # Given as they are, the call would first fail on its quick way: 60 microseconds an image.
        return np.asarray(_decode(tf.constant(window.data), tf.constant(window.box, tf.int32)))
    except tf.errors.InvalidArgumentError as error:
        return CorruptImage(f"broken JPEG: {str(error).splitlines()[0][:200]}")


def _decoder(count: int) -> Any:
    """TensorFlow's function from `count` encoded images and their boxes to pixels."""
    with _TRACING:
        return _trace_decoder(count)


@functools.cache
def _trace_decoder(count: int) -> Any:
    tf = load_tensorflow()

    def decode(encoded: Any, boxes: Any) -> list[Any]:
        return list(map(_decode, tf.unstack(encoded), tf.unstack(boxes)))

    shapes = tf.TensorSpec([count], tf.string), tf.TensorSpec([count, 4], tf.int32)
    return tf.function(decode, autograph=False).get_concrete_function(*shapes)


def _decode(encoded: Any, box: Any) -> Any:
    return load_tensorflow().raw_ops.DecodeAndCropJpeg(
        contents=encoded, crop_window=box, channels=3, dct_method="INTEGER_ACCURATE"
    )
