"""The only module that imports TensorFlow and TFDS. Both are imported on first use."""

import contextlib
import functools
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.caches import use_writable_caches
from jaxcnn.data import native_stderr
from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.limits import OUT_OF_MEMORY
from jaxcnn.data.loader import available_cores

_LOGGER = logging.getLogger(__name__)
_TRACING = threading.Lock()
_WARNED = threading.Lock()  # taken for good by the first warning of damaged JPEGs
_LEGACY_KERAS = "TF_USE_LEGACY_KERAS"


class JpegWindow(NamedTuple):
    """The window (top, left, height, width) of an encoded JPEG, in its own pixels; the bytes of memory that
    decoding it takes."""

    data: bytes
    box: tuple[int, int, int, int]
    memory: int = 0


@functools.cache
def load_tensorflow() -> Any:
    """Returns the tensorflow module, with accelerators hidden from it.

    Raises:
      DataError: TensorFlow was started earlier in this process and holds an accelerator.
    """
    use_writable_caches()  # for Keras
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # oneDNN does not decode images. Turned off, TensorFlow does not print a notice about it at each start.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Neither TensorFlow nor TFDS should probe for a Google Cloud metadata server.
    os.environ.setdefault("NO_GCE_CHECK", "true")
    # Importing Keras takes half of TensorFlow's start-up time. TensorFlow skips that import when the legacy
    # Keras is requested. `tf.keras` is resolved on first use, after the variable is gone, and is unchanged.
    chosen = _LEGACY_KERAS in os.environ
    os.environ.setdefault(_LEGACY_KERAS, "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow as tf
    finally:
        if not chosen:
            del os.environ[_LEGACY_KERAS]
    # We decode in our own thread pool; limit TensorFlow's threads.
    with contextlib.suppress(RuntimeError):  # already started, with its user's settings
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


def load_tfds() -> Any:
    """Returns the tensorflow_datasets module; TensorFlow's log level is set first."""
    load_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds
    return tfds


class Checkpoint:
    """A TensorFlow checkpoint, of version 1 (one file) or 2 (PREFIX.index and its data).

    Attributes:
      shapes: of its variables by name.
      dtypes: of its variables; those of texts are left out of both.
    """

    def __init__(self, prefix: str) -> None:
        """Reads names and shapes. Raises ValueError, as `read`, with what TensorFlow says."""
        tf = load_tensorflow()
        with _checkpoint_errors():
            self._reader = tf.train.load_checkpoint(prefix)
            dtypes = self._reader.get_variable_to_dtype_map()
            shapes = self._reader.get_variable_to_shape_map()
        self.dtypes = {n: np.dtype(t.as_numpy_dtype) for n, t in dtypes.items() if t != tf.string}
        self.shapes = {name: tuple(shapes[name]) for name in sorted(self.dtypes)}

    def read(self, name: str) -> np.ndarray:
        with _checkpoint_errors():
            return np.asarray(self._reader.get_tensor(name))


@contextlib.contextmanager
def _checkpoint_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of a dozen types: a file that is cut short is an IndexError
        text = str(error).strip() or type(error).__name__
        raise ValueError(text.splitlines()[0][:200]) from error


@functools.cache
def load_decoder() -> Any:
    """Returns the tensorflow module, ready to decode JPEGs without a line of libjpeg's on the screen."""
    native_stderr.is_supported()
    return load_tensorflow()


def decode_jpegs(windows: Sequence[JpegWindow]) -> list[np.ndarray | CorruptImage]:
    """Decodes windows of grey or RGB JPEGs in one TensorFlow call: uint8[height,width,3], or the error, each.

    One call saves time: its overhead is a tenth of the time that one image takes to decode.
    """
    tf = load_decoder()
    if len(windows) > 1:
        # The call does not say which image is corrupt: on an error decode them one by one.
        with contextlib.suppress(*_decode_errors()):
            encoded = tf.constant([window.data for window in windows])
            boxes = tf.constant([window.box for window in windows], tf.int32)
            with _TRACING:
                function = _trace_decode_function(len(windows))
            # PartitionedCall avoids 9 us of Python per image. It runs on the calling thread, because our own
            # threads already use all cores.
            with native_stderr.Capture() as printed:
                decoded = tf.raw_ops.PartitionedCall(
                    args=[encoded, boxes],
                    Tout=[tf.uint8] * len(windows),
                    f=function,
                    executor_type="SINGLE_THREADED_EXECUTOR",
                )
            if printed.text:
                _warn_of_damage()
            return list(map(np.asarray, decoded))
    results = []
    for window in windows:
        pixels, complaint = _decode_jpeg(window)
        if complaint and not isinstance(pixels, CorruptImage):
            _warn_of_damage()
        results.append(pixels)
    return results


def decode_strictly(window: JpegWindow) -> np.ndarray | CorruptImage:
    """Decodes a JPEG; what libjpeg complains of, and mends by a guess, is an error too.

    Raises:
      DataError: libjpeg's complaints cannot be read on this system.
    """
    load_decoder()
    if not native_stderr.is_supported():
        raise DataError("damage inside JPEGs cannot be seen on this system; use Linux with glibc")
    pixels, complaint = _decode_jpeg(window)
    if complaint and not isinstance(pixels, CorruptImage):
        return CorruptImage(f"damaged JPEG: {complaint}")
    return pixels


def _decode_jpeg(window: JpegWindow) -> tuple[np.ndarray | CorruptImage, str]:
    """Returns pixels or the error, and libjpeg's complaint."""
    tf = load_decoder()
    with native_stderr.Capture() as printed:
        try:
            # Without tf.constant the call first fails on TensorFlow's fast path: 60 us per image.
            contents, box = tf.constant(window.data), tf.constant(window.box, tf.int32)
            pixels = np.asarray(_decode_op(contents, box))
        except _decode_errors() as error:
            pixels = error
    complaint = _complaint(printed.text)
    if isinstance(pixels, (MemoryError, tf.errors.ResourceExhaustedError)):
        return CorruptImage(OUT_OF_MEMORY), complaint
    if isinstance(pixels, Exception):
        reason = complaint or str(pixels).splitlines()[0][:200]
        return CorruptImage(f"broken JPEG: {reason}"), complaint
    return pixels, complaint


def _decode_errors() -> tuple[type[Exception], ...]:
    errors = load_tensorflow().errors
    return errors.InvalidArgumentError, errors.ResourceExhaustedError, MemoryError


def _complaint(printed: str) -> str:
    """Returns the first line that libjpeg or TensorFlow printed of an image, without the log's prefix."""
    lines = [line.rpartition("] ")[2] for line in printed.splitlines()]
    return next((line for line in lines if not line.startswith("WARNING: All log messages")), "")


def _warn_of_damage() -> None:
    """Logs once, whichever thread is first."""
    if _WARNED.acquire(blocking=False):
        _LOGGER.warning(
            "libjpeg finds damage in some JPEGs, which are used all the same; to list them: jaxcnn prepare "
            "SOURCE --verify"
        )


@functools.cache
def _trace_decode_function(count: int) -> Any:
    """Returns TensorFlow's function from `count` encoded images and their boxes to pixels."""
    tf = load_tensorflow()

    def decode(encoded: Any, boxes: Any) -> list[Any]:
        return list(map(_decode_op, tf.unstack(encoded), tf.unstack(boxes)))

    shapes = tf.TensorSpec([count], tf.string), tf.TensorSpec([count, 4], tf.int32)
    return tf.function(decode, autograph=False).get_concrete_function(*shapes)


def _decode_op(encoded: Any, box: Any) -> Any:
    return load_tensorflow().raw_ops.DecodeAndCropJpeg(
        contents=encoded, crop_window=box, channels=3, dct_method="INTEGER_ACCURATE"
    )
