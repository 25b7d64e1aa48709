"""From a source to batches of uint8 views, the training stream; and one image file."""

import functools
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxcnn.data.crops import ResizedCrop, center_crop_view, random_resized_crop
from jaxcnn.data.decode import decode_view
from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.sampler import train_indices
from jaxcnn.data.train_crops import Sampling
from jaxcnn.data.sources.source import Source
from jaxcnn.data.train_loader import TrainLoader


def train_batches(
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
) -> TrainLoader:
    """The training stream from step `start_step` on, without end.

    Stream position p = step * batch_size + i holds epoch p // N and example
    permutation(seed, epoch)[p % N]: nothing is dropped or repeated at an epoch's end, and the
    batch of a step depends on neither threads, processes nor restarts. Views are drawn as `sampling`
    says, keyed by (seed, epoch, id).

    Args:
      source: where the images come from.
      seed: of the order and the views.
      batch_size: rows of the *global* batch; this process gets batch_size / process_count.
      image_size: side of the square views in pixels.
      sampling: how views are cut from the images, and with which filter they are resized.
      start_step: first step to produce; a resumed run continues as if never stopped.
      process_index: this process's place among `process_count`.
      process_count: number of processes that share each batch.
      threads: threads that read, decode and rescale; 0 for one more than there are cores, as one may wait for
        the disk.
      prefetch: batches decoded ahead.

    Raises:
      DataError: the arguments do not fit each other or the source.
    """
    _check(source, batch_size, process_index, process_count, threads, prefetch)
    # A patch of 'area' is resized to the view, whatever its size.
    _check_crop(sampling.scale if sampling.sampling != "area" else (image_size,), image_size)
    if batch_size > len(source):
        raise DataError(
            f"batch_size={batch_size} but there are only {len(source)} training images: the "
            f"largest batch is {len(source)}; set --config.batch_size={len(source)} or less"
        )
    if start_step < 0:
        raise DataError(f"start_step={start_step}: expected 0 or more")
    rows = train_indices(
        len(source),
        seed=seed,
        batch_size=batch_size,
        start_step=start_step,
        process_index=process_index,
        process_count=process_count,
    )

    def choose(height: int, width: int, epoch: int, identity: int) -> ResizedCrop:
        return random_resized_crop(
            height,
            width,
            sampling=sampling,
            image_size=image_size,
            seed=seed,
            epoch=epoch,
            identity=identity,
        )

    return TrainLoader(source, rows, choose, image_size, threads, prefetch)


def preprocess(
    path: str | os.PathLike, *, scale: int, image_size: int, square: bool = False
) -> UInt8[np.ndarray, "1 side side 3"]:
    """One image file as evaluation sees it: uint8[1, image_size, image_size, 3].

    The centre crop of side `image_size` after the rescale of the shorter side to `scale`; with `square`, of
    the rescaled image's central square.

    Raises:
      DataError: the file is missing or is no readable image.
    """
    _check_crop((scale,), image_size)
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read the image {path}: {error.strerror}; give the path of a JPEG, PNG, GIF, "
            "BMP or WebP file"
        ) from error
    choose = functools.partial(center_crop_view, scale=scale, image_size=image_size, square=square)
    try:
        pixels, _ = decode_view(data, choose)
    except CorruptImage as error:
        raise DataError(f"cannot decode the image {path}: {error}") from error
    return pixels[None]


def _check(
    source: Source,
    batch_size: int,
    process_index: int,
    process_count: int,
    threads: int,
    prefetch: int,
) -> None:
    if len(source) == 0:
        raise DataError("the source holds no images")
    if batch_size < 1 or batch_size % process_count:
        raise DataError(
            f"batch_size={batch_size} does not split over {process_count} processes: give a "
            f"positive multiple of {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise DataError(f"process_index={process_index}: expected 0 to {process_count - 1}")
    if threads < 0 or prefetch < 0:
        raise DataError(f"threads={threads}, prefetch={prefetch}: expected 0 or more")


def _check_crop(scale: tuple[int, ...], image_size: int) -> None:
    """Checks that a crop of side `image_size` fits an image rescaled to the first of `scale` or more."""
    if not 1 <= image_size <= scale[0]:
        given, low = ", ".join(map(str, scale)), max(image_size, 1)
        fitting = ", ".join(str(max(low, value)) for value in scale)
        raise DataError(
            f"scale=({given}) with image_size={image_size}: the shorter side is rescaled to the scale and "
            f"must hold the crop; expected 1 <= image_size <= scale, for example scale=({fitting})"
        )
