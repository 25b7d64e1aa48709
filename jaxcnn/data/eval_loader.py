"""Evaluation's images: every image of a source once, in order, as the pixels of its crops."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.decode import DecodeTask, Encoded, decode_many, examine, load_decoders
from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.eval_crops import EvalCrop, bounding_crops, center_crop
from jaxcnn.data.loader import MID_GREY, Loader, Read, available_cores, default_readers
from jaxcnn.data.regular_file import read_regular_file
from jaxcnn.data.sources.source import Source
from jaxcnn.data.train_crops import check_holds_crop
from jaxcnn.paths import local_path

# (image height, image width) -> the crops of a protocol.
ChooseCrops = Callable[[int, int], Sequence[EvalCrop]]
CropPixels = dict[EvalCrop, UInt8[np.ndarray, "_ _ 3"]]

_PLACEHOLDER_SIZE = (256, 256)


class EvalImage(NamedTuple):
    """An image of a source.

    Attributes:
        position: its index in the source.
        label: -1 if unknown.
        size: (height, width) of the image itself.
        pixels: of each of its crops; empty if the image is corrupt.
        problem: why the image is corrupt, or ''.
    """

    position: int
    label: int
    size: tuple[int, int]
    pixels: CropPixels
    problem: str = ""


class EvalLoader(Loader[EvalImage]):
    """An iterator over `EvalImage`s. Use it in a `with` block, or `close()` it.

    Each image is decoded once and resized once per scale, whatever the number of its crops. The result does
    not depend on the threads. Memory is bounded: at most `ahead` + 1 images are held ready.

    Args:
      source: the images.
      choose: the crops wanted of an image, by its size.
      threads: decoding threads; 0 for one per core.
      ahead: images decoded ahead; with threads that only read, at least one for each of these.
      readers: threads that only read; 0 for `default_readers`.
      check_stop: called now and then while `next()` waits for an image; raises to leave.

    Raises:
      DataError: there are no images, or an argument is negative.
    """

    def __init__(
        self,
        source: Source,
        choose: ChooseCrops,
        *,
        threads: int = 0,
        ahead: int = 16,
        readers: int = 0,
        check_stop: Callable[[], None] = lambda: None,
    ):
        if len(source) == 0:
            raise DataError("the source holds no images")
        if threads < 0 or ahead < 0:
            raise DataError(f"threads={threads}, ahead={ahead}: expected 0 or more")
        if readers < 0:
            raise DataError(f"readers={readers}: expected 0 or more")
        self._source = source
        self._choose = choose
        load_decoders()
        readers = readers or default_readers(source)
        threads, ahead = threads or available_cores(), max(ahead, readers)
        super().__init__(range(len(source)), threads, ahead, check_stop, readers)

    def _submit(self, given: int) -> Future[EvalImage]:
        return self._submit_reads(self._source, [given], self._load, given)

    def _finish(self, submitted: Future[EvalImage]) -> EvalImage:
        return self._result(submitted)

    def _load(self, reads: Sequence[Read], position: int) -> EvalImage:
        label = -1
        try:
            data, label = reads[0]()
            image = examine(data)
            pixels = _decode_eval_crops(image, self._choose(*image.size))
            return EvalImage(position, label, image.size, pixels)
        except CorruptImage as error:
            known = label if error.label is None else error.label
            return EvalImage(position, known, (0, 0), {}, str(error) or "no reason given")


def decode_eval_crops(
    data: bytes | memoryview, size: tuple[int, int], crops: Sequence[EvalCrop]
) -> CropPixels:
    """Returns the pixels of crops of an encoded image of `size` = (height, width).

    Raises:
      CorruptImage: not an image of a known format, truncated, broken, or too large.
    """
    return _decode_eval_crops(Encoded(data, size), crops)


def _decode_eval_crops(image: Encoded, crops: Sequence[EvalCrop]) -> CropPixels:
    bounds = bounding_crops(*image.size, crops)
    task = DecodeTask(image.data, list(bounds.values()), header=image.header)
    (decoded,) = decode_many([task])
    if isinstance(decoded, CorruptImage):
        raise decoded
    images = dict(zip(bounds, decoded, strict=True))
    return {crop: _cut(images[crop.scale], bounds[crop.scale], crop) for crop in crops}


def _cut(image: UInt8[np.ndarray, "h w 3"], bound: ResizedCrop, crop: EvalCrop) -> np.ndarray:
    top, left, height, width = crop.box
    row, column = top - bound.box[0], left - bound.box[1]
    pixels = image[row : row + height, column : column + width]
    if crop.resized:
        return np.asarray(Image.fromarray(pixels).resize(crop.shape, Image.Resampling.BILINEAR))
    return pixels


def placeholder_pixels(image: EvalImage, choose: ChooseCrops) -> EvalImage:
    """Replaces a corrupt image by a mid-grey square, whatever the image's shape was."""
    crops = choose(*_PLACEHOLDER_SIZE)
    grey = {crop: np.full((*crop.shape, 3), MID_GREY, np.uint8) for crop in crops}
    return image._replace(size=_PLACEHOLDER_SIZE, pixels=grey)


def preprocess(
    path: str | os.PathLike, *, scale: int, image_size: int, square: bool = False
) -> UInt8[np.ndarray, "1 side side 3"]:
    """Reads one image file as evaluation does: uint8[1,image_size,image_size,3].

    The crop is the centre crop of side `image_size` after the rescale of the shorter side to `scale`; with
    `square`, of the rescaled image's central square.

    Raises:
      DataError: the file is missing or is not a readable image.
    """
    check_holds_crop((scale,), image_size)
    try:
        data = read_regular_file(local_path(path, "an image file"))
    except (OSError, CorruptImage) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"cannot read the image {path}: {reason}; give the path of a JPEG, PNG, GIF, "
            "BMP or WebP file"
        ) from error
    try:
        image = examine(data)
        crop = center_crop(*image.size, scale, image_size, square=square)
        return _decode_eval_crops(image, [crop])[crop][None]
    except CorruptImage as error:
        raise DataError(f"cannot decode the image {path}: {error}") from error
