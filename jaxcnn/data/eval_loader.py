"""Every image of a source once, in order, as the pixels of its cuts: what evaluation and statistics read."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxcnn.data import resize
from jaxcnn.data.cores import available_cores
from jaxcnn.data.corrupt import MID_GREY
from jaxcnn.data.crops import ResizedCrop
from jaxcnn.data.decode import decode_views
from jaxcnn.data.errors import CorruptImage, DataError
from jaxcnn.data.eval_crops import EvalCrop, bounding_crops
from jaxcnn.data.jpeg import load_tensorflow
from jaxcnn.data.sources.source import Source

# (image height, image width) -> the cuts wanted.
ChooseCrops = Callable[[int, int], Sequence[EvalCrop]]
Pixels = dict[EvalCrop, UInt8[np.ndarray, "_ _ 3"]]


class EvalImage(NamedTuple):
    """An image of a source.

    Attributes:
        position: its place in the source.
        label: -1 where it is not known.
        size: (height, width) of the image itself.
        pixels: of each of its cuts; none where the image cannot be read.
        problem: why it cannot be read, or ''.
    """

    position: int
    label: int
    size: tuple[int, int]
    pixels: Pixels
    problem: str = ""


class EvalLoader:
    """An iterator over `Picture`s, with the threads behind it. Use it in a `with`, or `close()` it.

    Each image is decoded once and rescaled once a scale, whatever the number of its cuts. What the
    pictures hold does not depend on the threads. Memory is bounded: at most `ahead` + 1 pictures are held
    ready at a time.

    Args:
      source: where the images come from.
      choose: which cuts are wanted of an image.
      threads: decoding threads; 0 for one a core.
      ahead: images decoded ahead.

    Raises:
      DataError: there are no images, or an argument is negative.
    """

    def __init__(self, source: Source, choose: ChooseCrops, *, threads: int = 0, ahead: int = 16):
        if len(source) == 0:
            raise DataError("the source holds no images")
        if threads < 0 or ahead < 0:
            raise DataError(f"threads={threads}, ahead={ahead}: expected 0 or more")
        self._source = source
        self._choose = choose
        self._ahead = ahead
        self._next = 0
        self._pending: deque[Future[EvalImage]] = deque()
        # Imported here, once: threads must not race for it, and its failure belongs to the caller.
        load_tensorflow()
        resize.compile_resize()
        self._pool = ThreadPoolExecutor(threads or available_cores(), "jaxcnn-data")
        self._fill()  # the first images are decoded while the caller compiles

    def __iter__(self) -> "EvalLoader":
        return self

    def __next__(self) -> EvalImage:
        try:
            self._fill()
            if not self._pending:
                raise StopIteration
            return self._pending.popleft().result()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "EvalLoader":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads and drops what they prepared. May be called more than once."""
        self._next = len(self._source)
        self._pending.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self) -> None:
        while self._next < len(self._source) and len(self._pending) <= self._ahead:
            self._pending.append(self._pool.submit(_load, self._source, self._next, self._choose))
            self._next += 1


class ImageFiles:
    """Image files as a source whose labels are not known. A missing file is one that cannot be read."""

    class_names: tuple[str, ...] = ()

    def __init__(self, paths: Sequence[str | Path]):
        self._paths = [Path(path).expanduser() for path in paths]

    @property
    def ids(self) -> np.ndarray:
        return np.arange(len(self._paths))

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> tuple[bytes, int]:
        try:
            return self._paths[index].read_bytes(), -1
        except OSError as error:
            raise CorruptImage(error.strerror or str(error)) from error

    def name(self, index: int) -> str:
        return str(self._paths[index])


def read_crops(data: bytes | memoryview, choose: ChooseCrops) -> tuple[Pixels, tuple[int, int]]:
    """The pixels of the cuts of an encoded image, and the image's (height, width).

    Raises:
      CorruptImage: not an image of a known format, truncated, broken, or too large.
    """
    cuts: Sequence[EvalCrop] = ()
    size = (0, 0)

    def views(height: int, width: int) -> Sequence[ResizedCrop]:
        nonlocal cuts, size
        cuts, size = choose(height, width), (height, width)
        return list(bounding_crops(height, width, cuts).values())

    images, bounds = decode_views(data, views)
    scales = dict.fromkeys(cut.scale for cut in cuts)
    whole = dict(zip(scales, zip(images, bounds, strict=True), strict=True))
    return {cut: _cut(*whole[cut.scale], cut) for cut in cuts}, size


def placeholder_pixels(picture: EvalImage, choose: ChooseCrops) -> EvalImage:
    """Mid-grey in place of an image that cannot be read: a square, whatever the image's shape was."""
    cuts = choose(_STAND_IN, _STAND_IN)
    grey = {cut: np.full((*cut.shape, 3), MID_GREY, np.uint8) for cut in cuts}
    return picture._replace(size=(_STAND_IN, _STAND_IN), pixels=grey)


_STAND_IN = 256


def _cut(image: UInt8[np.ndarray, "h w 3"], bound: ResizedCrop, cut: EvalCrop) -> np.ndarray:
    top, left, height, width = cut.box
    first_row, first_column = bound.box[:2]
    rows = slice(top - first_row, top - first_row + height)
    part = image[rows, left - first_column : left - first_column + width]
    if cut.resized:
        size = (cut.resized, cut.resized)
        return np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BILINEAR))
    return part


def _load(source: Source, position: int, choose: ChooseCrops) -> EvalImage:
    """One picture, in a worker thread."""
    label = -1
    try:
        data, label = source.read(position)
        pixels, size = read_crops(data, choose)
    except CorruptImage as error:
        known = label if error.label is None else error.label
        return EvalImage(position, known, (0, 0), {}, str(error) or "no reason given")
    return EvalImage(position, label, size, pixels)
