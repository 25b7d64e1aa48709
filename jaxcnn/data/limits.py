"""What one image may take: bytes, pixels, scans, and memory while it is decoded."""

import contextlib
import threading
from collections.abc import Iterator

from jaxcnn.data.errors import CorruptImage
from jaxcnn.malloc_tuning import give_back_freed

# ImageNet's largest file has 15 MB; an uncompressed image of 89 million pixels has this size.
MAX_BYTES = 256 << 20
MAX_PIXELS = 100_000_000
# libjpeg writes 10 scans, and programs that search for the smallest file fewer than 20. A scan takes 13 ms a
# megapixel even if it holds almost nothing, so a small file could decode for minutes.
_MAX_SCANS, _MAX_SCANS_IF_LARGE, _LARGE_IMAGE = 100, 20, 10_000_000

OUT_OF_MEMORY = "not enough memory to decode it"


def check_bytes(count: int) -> None:
    """Raises CorruptImage if an encoded image has more than `MAX_BYTES` bytes."""
    if count > MAX_BYTES:
        raise CorruptImage(
            f"the file has {count:,} bytes or more, over the limit of {MAX_BYTES:,} for an image"
        )


def check_size(height: int, width: int) -> None:
    """Raises CorruptImage if the size in an image's header is empty or has more than `MAX_PIXELS`."""
    if height <= 0 or width <= 0:
        raise CorruptImage(f"the header gives a size of {width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise CorruptImage(
            f"the header gives {width} x {height} pixels, over the limit of {MAX_PIXELS:,}"
        )


def check_scans(count: int, pixels: int) -> None:
    """Raises CorruptImage if a JPEG has absurdly many scans."""
    limit = _MAX_SCANS_IF_LARGE if pixels > _LARGE_IMAGE else _MAX_SCANS
    if count > limit:
        raise CorruptImage(
            f"the JPEG has {count:,} scans, over the limit of {limit} for its {pixels:,} pixels"
        )


class DecodeBudget:
    """Bounds the memory that all threads together take to decode images.

    An image waits until there is room for it; one that is larger than the whole budget is decoded while no
    other is. Images below `small` bytes do not wait: threads x `small` bounds them. A thread must not reserve
    twice at a time.
    """

    def __init__(self, limit: int, small: int):
        self._limit, self._small = limit, small
        self._used = self._since_trim = 0
        self._changed = threading.Condition()
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """A context in which this thread may take `size` bytes."""
        if size < self._small:
            yield
            return
        # First come, first served: otherwise small images could pass a large one for ever.
        with self._turn, self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= self._limit)
            self._used += size
            self._since_trim += size
            # glibc keeps what a thread freed, for each thread: four threads grew by 2.6 GB instead of 1.
            if self._since_trim > self._limit:
                self._since_trim = size
                give_back_freed()
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify()


BUDGET = DecodeBudget(limit=1 << 30, small=16 << 20)
