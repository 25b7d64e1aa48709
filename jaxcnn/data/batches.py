"""The iterator over batches, and the threads behind it.

A pool of threads reads and decodes ahead; the consumer takes the results back in order and forms
the batch, so what a batch holds does not depend on the threads. Memory is bounded: at most
`prefetch` + 1 batches of decoded rows exist at a time, and the encoded bytes of the rows in work.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypedDict

import numpy as np

from . import resample
from .crops import View
from .decode import decode_view, load_tensorflow
from .errors import CorruptImage
from .order import Row
from .source import Source
from .unreadable import MID_GREY, Unreadable


class Batch(TypedDict):
    """One batch, or one process's rows of it: numpy arrays, B rows.

    image: uint8[B,H,W,3], RGB. label: int32[B]. id: int32[B], position in the source's split. epoch:
    int32[B]. mask: bool[B], False for rows that count for nothing: images that could not be read.

    box: int32[B,4], (top, left, height, width) of the view in the rescaled image; relative to its
    central square, of side S, where views are cut from that ('square' and 'centre'), so that a mean image
    of side S lies under it. Where a patch is cut before any rescale ('area') it is the patch in the
    image's own pixels, rounded.
    """

    image: np.ndarray
    label: np.ndarray
    id: np.ndarray
    epoch: np.ndarray
    box: np.ndarray
    mask: np.ndarray


class _Loaded(NamedTuple):
    image: np.ndarray | None
    label: int
    box: tuple[int, int, int, int]
    problem: str = ""


# (image height, image width, epoch, id) -> the view wanted.
Choose = Callable[[int, int, int, int], View]


class Batches:
    """An iterator over batches, with the threads behind it. Use it in a `with`, or `close()` it.

    `rows` has no end, and the batches have none before `close()`. `corrupt` lists the names of the images
    that could not be read so far, each once, in the order of the stream.
    """

    def __init__(
        self,
        source: Source,
        rows: Iterator[list[Row]],
        choose: Choose,
        image_size: int,
        threads: int,
        prefetch: int,
    ):
        self._unreadable = Unreadable(source, "left out")
        self.corrupt = self._unreadable.names
        self._source = source
        self._ids = source.ids
        self._rows = rows
        self._choose = choose
        self._image_size = image_size
        self._prefetch = prefetch
        self._drawn = 0
        self._closed = False
        self._pending: deque[tuple[list[Row], deque[Future[_Loaded]]]] = deque()
        # Imported here, once: threads must not race for it, and its failure belongs to the caller.
        load_tensorflow()
        resample.load()
        self._pool = ThreadPoolExecutor(threads or available_cores(), "jaxcnn-data")
        self._fill()  # the first batches are decoded while the caller compiles its step

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        try:
            self._fill()
            rows, futures = self._pending.popleft()
            batch = self._form(rows, futures)
        except BaseException:
            self.close()
            raise
        return batch

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads and drops what they prepared. May be called more than once."""
        self._closed = True
        self._pending.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self) -> None:
        while len(self._pending) <= self._prefetch:
            rows = next(self._rows)
            self._pending.append((rows, deque(map(self._submit, rows))))

    def _submit(self, row: Row) -> Future[_Loaded]:
        identity = int(self._ids[row.position])
        return self._pool.submit(_load, self._source, row, identity, self._choose)

    def _form(self, rows: list[Row], futures: deque[Future[_Loaded]]) -> Batch:
        count, side = len(rows), self._image_size
        batch = Batch(
            image=np.zeros((count, side, side, 3), np.uint8),
            label=np.zeros(count, np.int32),
            id=np.array([self._ids[row.position] for row in rows], np.int32),
            epoch=np.array([row.epoch for row in rows], np.int32),
            box=np.zeros((count, 4), np.int32),
            mask=np.zeros(count, np.bool_),
        )
        for i, row in enumerate(rows):
            # Taken out of the queue, so that the row's pixels live on in the batch alone.
            loaded = futures.popleft().result()
            self._drawn += 1
            batch["label"][i] = loaded.label
            if loaded.image is None:
                self._unreadable.note(row.position, loaded.problem, self._drawn)
                batch["image"][i] = MID_GREY
                batch["box"][i] = (0, 0, side, side)
            else:
                batch["image"][i] = loaded.image
                batch["box"][i] = loaded.box
                batch["mask"][i] = True
        return batch


def _load(source: Source, row: Row, identity: int, choose: Choose) -> _Loaded:
    """One row, in a worker thread: read, decode the view. Nothing here knows of the batch."""
    label = -1
    try:
        data, label = source.read(row.position)
        pixels, view = decode_view(
            data, lambda height, width: choose(height, width, row.epoch, identity)
        )
    except CorruptImage as error:
        known = label if error.label is None else error.label
        return _Loaded(None, known, (0, 0, 0, 0), str(error))
    return _Loaded(pixels, label, view.box)


def available_cores() -> int:
    """Cores that this process may use, which a container or a scheduler may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
