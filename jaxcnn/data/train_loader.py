"""The iterator over batches, and the threads behind it.

A pool of threads reads and decodes ahead, a few rows of a batch at a time, into their places in it, so what a
batch holds does not depend on the threads. Memory is bounded: at most `prefetch` + 2 batches exist at a
time, one of them the consumer's, and of the rows in work, `_GROUP` a thread, the encoded bytes and the
pixels that their views look at, of which jpeg.py bounds how many are decoded at once.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypedDict

import numpy as np

from jaxcnn.data import resize
from jaxcnn.data.cores import available_cores
from jaxcnn.data.corrupt import MID_GREY, CorruptCounter
from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.decode import Request, decode_many
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.jpeg import load_tensorflow
from jaxcnn.data.sampler import SampleIndex
from jaxcnn.data.sources.source import Source


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


# Rows that a thread takes at a time: fewer cost more calls from Python.
_GROUP = 16


class _Pending(NamedTuple):
    """A batch that threads fill.

    `unreadable` has of each group of its rows those that could not be read, {place in the batch: why}.
    """

    batch: Batch
    rows: list[SampleIndex]
    unreadable: list[Future[dict[int, str]]]


# (image height, image width, epoch, id) -> the view wanted.
Choose = Callable[[int, int, int, int], ResizedCrop]


class TrainLoader:
    """An iterator over batches, with the threads behind it. Use it in a `with`, or `close()` it.

    `rows` has no end, and the batches have none before `close()`. `corrupt` lists the names of the images
    that could not be read so far, each once, in the order of the stream.
    """

    def __init__(
        self,
        source: Source,
        rows: Iterator[list[SampleIndex]],
        choose: Choose,
        image_size: int,
        threads: int,
        prefetch: int,
    ):
        self._unreadable = CorruptCounter(source, "left out")
        self.corrupt = self._unreadable.names
        self._source = source
        self._ids = source.ids
        self._rows = rows
        self._choose = choose
        self._image_size = image_size
        self._prefetch = prefetch
        self._drawn = 0
        self._closed = False
        self._pending: deque[_Pending] = deque()
        # Imported here, once: threads must not race for it, and its failure belongs to the caller.
        load_tensorflow()
        resize.compile_resize()
        # One more than cores: the disk may keep one waiting.
        self._pool = ThreadPoolExecutor(threads or available_cores() + 1, "jaxcnn-data")
        self._fill()  # the first batches are decoded while the caller compiles its step

    def __iter__(self) -> "TrainLoader":
        return self

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        try:
            self._fill()
            batch = self._take(self._pending.popleft())
        except BaseException:
            self.close()
            raise
        return batch

    def __enter__(self) -> "TrainLoader":
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
            batch = self._empty(rows)
            # A small batch is for all cores too.
            count = min(_GROUP, -(-len(rows) // available_cores()))
            groups = [range(len(rows))[i : i + count] for i in range(0, len(rows), count)]
            unreadable = [self._pool.submit(self._load, batch, rows, group) for group in groups]
            self._pending.append(_Pending(batch, rows, unreadable))

    def _empty(self, rows: list[SampleIndex]) -> Batch:
        """A batch of which no image is readable yet. Its pixels are not set."""
        count, side = len(rows), self._image_size
        return Batch(
            image=np.empty((count, side, side, 3), np.uint8),
            label=np.full(count, -1, np.int32),
            id=np.array([self._ids[row.position] for row in rows], np.int32),
            epoch=np.array([row.epoch for row in rows], np.int32),
            box=np.tile(np.array([0, 0, side, side], np.int32), (count, 1)),
            mask=np.zeros(count, np.bool_),
        )

    def _load(self, batch: Batch, rows: Sequence[SampleIndex], group: range) -> dict[int, str]:
        """Fills the places `group` of a batch, in a worker thread; which of them cannot be read, and why."""
        unreadable: dict[int, str] = {}
        requests: dict[int, Request] = {}

        def leave_out(i: int, error: CorruptImage) -> None:
            unreadable[i] = str(error)
            batch["image"][i] = MID_GREY
            if error.label is not None:
                batch["label"][i] = error.label

        for i in group:
            try:
                data, batch["label"][i] = self._source.read(rows[i].position)
            except CorruptImage as error:
                leave_out(i, error)
            else:
                choose = functools.partial(self._views, rows[i].epoch, int(batch["id"][i]))
                requests[i] = Request(data, choose, [batch["image"][i]])
        for i, decoded in zip(requests, decode_many(requests.values()), strict=True):
            if isinstance(decoded, CorruptImage):
                leave_out(i, decoded)
            else:
                _, (view,) = decoded
                batch["box"][i] = view.box
                batch["mask"][i] = True
        return unreadable

    def _views(self, epoch: int, identity: int, height: int, width: int) -> list[ResizedCrop]:
        return [self._choose(height, width, epoch, identity)]

    def _take(self, pending: _Pending) -> Batch:
        unreadable = [item for group in pending.unreadable for item in group.result().items()]
        for i, problem in sorted(unreadable):
            self._unreadable.note(pending.rows[i].position, problem, self._drawn + i + 1)
        self._drawn += len(pending.rows)
        return pending.batch
