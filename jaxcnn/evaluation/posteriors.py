"""The mean posterior of each image over the crops of a protocol: batching, and the one rule that averages."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from jaxcnn.data import EvalCrop, EvalImage
from jaxcnn.evaluation.buckets import InputShape, bucket, pad_to_bucket
from jaxcnn.evaluation.forward import Forward
from jaxcnn.evaluation.protocols import Protocol, ProtocolCrop

_IN_FLIGHT = 2  # batches: one computes while the host fills the next


def check_fits(forward: Forward, protocol: Protocol) -> None:
    """Raises a ValueError if the net cannot be evaluated by the protocol."""
    net, name = forward.net, protocol.label(forward.net.image_size)
    protocol.check(net.image_size)
    if protocol.dense and not net.supports_dense():
        raise ValueError(
            f"{name} needs images of any size, and this {type(net).__name__} only takes "
            f"{net.image_size} x {net.image_size}"
        )
    if forward.mean_image and protocol.in_square:
        side = forward.mean.shape[0]
        if protocol.all_scales() != (side,):
            raise ValueError(
                f"{name} takes crops of the central square, and the net's mean image has a side of {side}: "
                f"give scale={side}"
            )


def choose_crops(forward: Forward, protocol: Protocol) -> Callable[[int, int], Sequence[EvalCrop]]:
    """(height, width) -> the crops of a protocol, as `EvalLoader` takes them."""

    def choose(height: int, width: int) -> list[EvalCrop]:
        crops = crops_of(forward, protocol, height, width)
        for crop in crops:
            if crop.dense:
                bucket(*crop.crop.shape)  # raises before anything is rescaled
        return list(dict.fromkeys(crop.crop for crop in crops))

    return choose


def crops_of(
    forward: Forward, protocol: Protocol, height: int, width: int
) -> tuple[ProtocolCrop, ...]:
    """The distinct crops of an image; crops of the same pixels are merged, with the sum of their weights."""
    weights: dict[ProtocolCrop, float] = {}
    square = forward.mean_image
    for crop in protocol.crops(height, width, forward.net.image_size, square=square):
        key = crop._replace(weight=0.0)
        weights[key] = weights.get(key, 0.0) + crop.weight
    return tuple(crop._replace(weight=weight) for crop, weight in weights.items())


def image_posteriors(
    forward: Forward,
    params: Any,
    images: Iterable[EvalImage],
    protocol: Protocol,
    check_stop: Callable[[], None] = lambda: None,
) -> Iterator[tuple[EvalImage, Float64[np.ndarray, " K"]]]:
    """Yields each image, without its pixels, with the log of its mean posterior, in order of completion.

    Crops of several images share batches.

    Args:
        params: on the devices.
        images: with the crops of `choose_crops`.
        check_stop: called before each image and each batch; raises to leave early.
    """
    batcher = _Batcher(forward, params, check_stop)
    in_square = forward.mean_image and protocol.in_square
    for image in images:
        check_stop()
        crops = crops_of(forward, protocol, *image.size)
        pending = _PendingImage(image._replace(pixels={}), len(crops))
        for crop in crops:
            batcher.add(pending, crop, image, in_square)
        yield from batcher.completed()
    batcher.flush()
    yield from batcher.completed()


@dataclasses.dataclass(eq=False)
class _PendingImage:
    """An image, the number of its crops that are not computed yet, and the log of the sum of the others."""

    image: EvalImage
    remaining: int
    total: np.ndarray | None = None

    def add(self, log_posteriors: np.ndarray) -> None:
        """Adds weighted posteriors, float64[crops,K], as logarithms: nothing underflows."""
        terms = log_posteriors if self.total is None else [self.total, *log_posteriors]
        self.total = np.logaddexp.reduce(np.asarray(terms), axis=0)
        self.remaining -= len(log_posteriors)


class _Row(NamedTuple):
    pending: _PendingImage
    crop: ProtocolCrop
    pixels: np.ndarray
    box: tuple[int, int, int, int]


class _Batcher:
    """Collects crops of one shape until they fill a batch, and adds the results to their images."""

    def __init__(self, forward: Forward, params: Any, check_stop: Callable[[], None]) -> None:
        self._forward, self._check_stop = forward, check_stop
        self._params = {False: params}  # by whether the images are transposed
        self._waiting: dict[tuple[InputShape, bool], list[_Row]] = {}
        self._running: deque[tuple[Any, list[_Row]]] = deque()
        self._completed: list[_PendingImage] = []

    def add(
        self, pending: _PendingImage, crop: ProtocolCrop, image: EvalImage, in_square: bool
    ) -> None:
        pixels, box = image.pixels[crop.crop], crop.crop.box
        if in_square:
            box = crop.crop.in_square(*image.size)
        shape = shape_of(crop, in_square)
        transposed = crop.dense and pixels.shape[0] > pixels.shape[1]
        rows = self._waiting.setdefault((shape, transposed), [])
        rows.append(_Row(pending, crop, pixels, box))
        if len(rows) == self._forward.rows(shape):
            self._start(shape, transposed)

    def flush(self) -> None:
        """Starts the batches that are not full, and waits for all. A few whole images join a batch of longer
        images of their scale that runs anyway: padded further, they give the same posteriors."""
        for shape, transposed in sorted(self._waiting):
            rows = self._waiting[shape, transposed]
            for longer, other in sorted(self._waiting):
                same = (longer.kind, longer.height, other) == ("dense", shape.height, transposed)
                free = self._forward.rows(longer) - len(self._waiting[longer, other])
                if same and longer.width > shape.width and len(rows) <= free:
                    self._waiting[longer, other] += self._waiting.pop((shape, transposed))
                    break
        for shape, transposed in list(self._waiting):
            self._start(shape, transposed)
        while self._running:
            self._collect()

    def completed(self) -> Iterator[tuple[EvalImage, np.ndarray]]:
        """The images all of whose crops are computed."""
        for pending in self._completed:
            assert pending.total is not None
            yield pending.image, pending.total
        self._completed.clear()

    def _start(self, shape: InputShape, transposed: bool) -> None:
        self._check_stop()
        rows = self._waiting.pop((shape, transposed))
        batch = self._forward.empty(shape)
        for i, row in enumerate(rows):
            if shape.kind == "dense":
                pixels = row.pixels[:, ::-1] if row.crop.mirror else row.pixels
                batch["image"][i], batch["size"][i] = pad_to_bucket(pixels, shape)
            else:
                batch["image"][i] = row.pixels
                batch["box"][i], batch["mirror"][i] = row.box, row.crop.mirror
        if transposed not in self._params:
            self._params[True] = self._forward.transposed(self._params[False])
        self._running.append((self._forward(self._params[transposed], shape, batch), rows))
        while len(self._running) >= _IN_FLIGHT:
            self._collect()

    def _collect(self) -> None:
        computed, rows = self._running.popleft()
        values = np.asarray(computed, np.float64)
        first = 0
        while first < len(rows):
            pending, last = rows[first].pending, first
            while last < len(rows) and rows[last].pending is pending:
                last += 1
            weights = [math.log(row.crop.weight) for row in rows[first:last]]
            pending.add(values[first:last] + np.asarray(weights)[:, None])
            if pending.remaining == 0:
                self._completed.append(pending)
            first = last


def shape_of(crop: ProtocolCrop, in_square: bool) -> InputShape:
    """The input shape of a crop; `in_square` where a mean image is subtracted from it."""
    if crop.dense:
        return bucket(*crop.crop.shape)
    return InputShape("square" if in_square else "crop", *crop.crop.shape)
