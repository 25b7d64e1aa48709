"""The training stream: batches of random crops, decoded by threads ahead of the training step.

Each thread reads and decodes a few rows of a batch at a time and writes them into the batch, so its content
does not depend on the threads. At most `prefetch` + 2 batches exist, the consumer's included; and with
threads that only read, the encoded images of `prefetch` + 1 batches.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypedDict

import numpy as np

from jaxcnn.data.decode import DecodeTask, decode_many, examine, load_decoders
from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.loader import (
    MID_GREY,
    CorruptCounter,
    Loader,
    Read,
    available_cores,
    default_readers,
    in_bucket,
)
from jaxcnn.data.sampler import SampleIndex, train_indices
from jaxcnn.data.sources.source import Source
from jaxcnn.data.train_crops import Sampling, check_holds_crop, draw_train_crop

# Rows that a thread takes at a time. Fewer rows cost more calls into TensorFlow.
_GROUP = 16


class Batch(TypedDict):
    """One batch, or one process's rows of it: numpy arrays of B rows.

    image: uint8[B,H,W,3], RGB. label: int32[B]. id: int32[B], position in the source's split. epoch:
    int32[B]. mask: bool[B], False for rows that do not count: corrupt images.

    box: int32[B,4], (top, left, height, width) of the crop in the rescaled image; for 'random_crop_in_square'
    and 'center_crop' in its central square, where a mean image applies; for 'random_resized_crop', the region
    in the image's own pixels, rounded.
    """

    image: np.ndarray
    label: np.ndarray
    id: np.ndarray
    epoch: np.ndarray
    box: np.ndarray
    mask: np.ndarray


_Submitted = tuple[Batch, list[SampleIndex], list[Future[dict[int, str]]]]


class TrainLoader(Loader[Batch]):
    """The training stream from step `start_step` on, without end. Use it in a `with` block, or `close()` it.

    Nothing is dropped or repeated at an epoch's end (see `train_indices`), and the batch of a step depends on
    neither threads, processes nor restarts. `corrupt` lists the names of the corrupt images so far.

    Args:
      source: the training images.
      seed: of the order and the crops.
      batch_size: rows of the *global* batch; this process gets batch_size / process_count.
      image_size: side of the square crops in pixels.
      sampling: how crops are drawn and resized.
      start_step: first step to produce; a resumed run continues as if it had never stopped.
      process_index, process_count: this process's number among those that share each batch.
      threads: decoding threads; 0 for one more than cores, because one may wait for the disk.
      prefetch: batches decoded ahead.
      readers: threads that only read; 0 for `default_readers`.

    Raises:
      DataError: the arguments do not fit each other or the source.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int,
        batch_size: int,
        image_size: int,
        sampling: Sampling = Sampling(),  # noqa: B008 (it is frozen)
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 0,
        prefetch: int = 2,
        readers: int = 0,
    ):
        _check(source, batch_size, process_count, min(threads, readers), prefetch)
        resized = sampling.sampling == "random_resized_crop"  # any region fits
        check_holds_crop((image_size,) if resized else sampling.scale, image_size)
        self._corrupt = CorruptCounter(source, "left out")
        self.corrupt = self._corrupt.names
        self._source = source
        self._ids = source.ids
        self._seed = seed
        self._sampling = sampling
        self._image_size = image_size
        self._drawn = 0
        indices = train_indices(
            len(source),
            seed=seed,
            batch_size=batch_size,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
        )
        load_decoders()
        readers = readers or default_readers(source)
        reads = min(_GROUP, readers) if in_bucket(source) else 1
        threads = threads or available_cores() + 1
        super().__init__(indices, threads, prefetch, readers=readers, reads=max(reads, 1))

    def _submit(self, given: list[SampleIndex]) -> _Submitted:
        batch, count = self._empty_batch(given), len(given)
        # A small batch is spread over all cores too.
        size = min(_GROUP, -(-count // available_cores()))
        groups = [range(i, min(i + size, count)) for i in range(0, count, size)]
        futures = []
        for rows in groups:
            positions = [given[row].position for row in rows]
            futures.append(
                self._submit_reads(self._source, positions, self._load, batch, given, rows)
            )
        return batch, given, futures

    def _finish(self, submitted: _Submitted) -> Batch:
        batch, indices, futures = submitted
        corrupt = [item for future in futures for item in self._result(future).items()]
        for row, problem in sorted(corrupt):
            self._corrupt.note(indices[row].position, problem, self._drawn + row + 1)
        self._drawn += len(indices)
        return batch

    def _empty_batch(self, indices: list[SampleIndex]) -> Batch:
        """Returns a batch whose rows are all masked. Its pixels are not set."""
        count, side = len(indices), self._image_size
        return Batch(
            image=np.empty((count, side, side, 3), np.uint8),
            label=np.full(count, -1, np.int32),
            id=np.array([self._ids[index.position] for index in indices], np.int32),
            epoch=np.array([index.epoch for index in indices], np.int32),
            box=np.tile(np.array([0, 0, side, side], np.int32), (count, 1)),
            mask=np.zeros(count, np.bool_),
        )

    def _load(
        self, reads: Sequence[Read], batch: Batch, indices: list[SampleIndex], rows: range
    ) -> dict[int, str]:
        """Fills some rows of a batch, in a worker thread; returns {row: problem} of the corrupt images."""
        tasks, corrupt = dict[int, DecodeTask](), dict[int, CorruptImage]()
        for row, read in zip(rows, reads, strict=True):
            try:
                data, batch["label"][row] = read()
                image = examine(data)
                crop = draw_train_crop(
                    *image.size,
                    sampling=self._sampling,
                    image_size=self._image_size,
                    seed=self._seed,
                    epoch=indices[row].epoch,
                    example_id=int(batch["id"][row]),
                )
                tasks[row] = DecodeTask(image.data, [crop], [batch["image"][row]], image.header)
            except CorruptImage as error:
                corrupt[row] = error
        for row, decoded in zip(tasks, decode_many(tasks.values()), strict=True):
            if isinstance(decoded, CorruptImage):
                corrupt[row] = decoded
            else:
                batch["box"][row] = tasks[row].crops[0].box
                batch["mask"][row] = True
        for row, error in corrupt.items():
            batch["image"][row] = MID_GREY
            if error.label is not None:
                batch["label"][row] = error.label
        return {row: str(error) for row, error in corrupt.items()}


def _check(
    source: Source, batch_size: int, process_count: int, threads: int, prefetch: int
) -> None:
    if len(source) == 0:
        raise DataError("the source holds no images")
    if batch_size < 1 or batch_size % process_count:
        raise DataError(
            f"batch_size={batch_size} does not split over {process_count} processes: give a "
            f"positive multiple of {process_count}"
        )
    if batch_size > len(source):
        raise DataError(
            f"batch_size={batch_size} but there are only {len(source)} training images: the "
            f"largest batch is {len(source)}; set --config.batch_size={len(source)} or less"
        )
    if min(threads, prefetch) < 0:
        raise DataError(f"threads={threads}, prefetch={prefetch}: expected 0 or more")
