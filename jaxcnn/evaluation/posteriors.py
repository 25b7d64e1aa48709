"""From pictures and a protocol's looks to each picture's posterior: the one rule that averages."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from jaxcnn.data import EvalCrop, EvalImage
from jaxcnn.evaluation.buckets import Shape, bucket, pad_to_bucket
from jaxcnn.evaluation.forward import Forward
from jaxcnn.evaluation.protocols import Protocol, ProtocolCrop

# Batches on their way: one computes while the host forms the next.
_IN_FLIGHT = 2


def choose_crops(forward: Forward, protocol: Protocol) -> Callable[[int, int], Sequence[EvalCrop]]:
    """(height, width) -> the cuts that a protocol looks at, for `Pictures`."""

    def choose(height: int, width: int) -> list[EvalCrop]:
        looks = crops_of(forward, protocol, height, width)
        for look in looks:
            if look.dense:
                bucket(*look.crop.shape)  # before anything is rescaled: whether it has one
        return list(dict.fromkeys(look.crop for look in looks))

    return choose


def crops_of(
    forward: Forward, protocol: Protocol, height: int, width: int
) -> tuple[ProtocolCrop, ...]:
    """The looks at an image; those of the same pixels are one, with the sum of their weights."""
    weights: dict[ProtocolCrop, float] = {}
    square = forward.mean_image
    for look in protocol.crops(height, width, forward.net.image_size, square=square):
        plain = look._replace(weight=0.0)
        weights[plain] = weights.get(plain, 0.0) + look.weight
    return tuple(look._replace(weight=weight) for look, weight in weights.items())


def shape_of(look: ProtocolCrop, in_square: bool) -> Shape:
    """The shape that a look is computed at."""
    if look.dense:
        return bucket(*look.crop.shape)
    return Shape("square" if in_square else "crop", *look.crop.shape)


def shapes_of(forward: Forward, protocol: Protocol, height: int, width: int) -> list[Shape]:
    """The shapes that the looks at an image of (height, width) are computed at, each once."""
    in_square = forward.mean_image and protocol.in_square()
    looks = crops_of(forward, protocol, height, width)
    return list(dict.fromkeys(shape_of(look, in_square) for look in looks))


def posteriors(
    forward: Forward,
    params: Any,
    pictures: Iterable[EvalImage],
    protocol: Protocol,
    check_stop: Callable[[], None] = lambda: None,
) -> Iterator[tuple[EvalImage, Float64[np.ndarray, " K"]]]:
    """Each picture with the log of its mean posterior, as they are done: not in order.

    Looks of several pictures share batches. A picture comes back without its pixels.

    Args:
        forward: the net's forward passes.
        params: on the devices.
        pictures: with the cuts of `choose_cuts`.
        protocol: names the looks.
        check_stop: called before each picture and each batch; raises to leave early.
    """
    desk = _Desk(forward, params, check_stop)
    in_square = forward.mean_image and protocol.in_square()
    for picture in pictures:
        check_stop()
        looks = crops_of(forward, protocol, *picture.size)
        opened = _Opened(picture._replace(pixels={}), len(looks))
        for look in looks:
            desk.add(opened, look, picture, in_square)
        yield from desk.done()
    desk.finish()
    yield from desk.done()


@dataclasses.dataclass(eq=False)
class _Opened:
    """A picture some of whose looks are still to come."""

    picture: EvalImage
    left: int
    total: np.ndarray | None = None

    def take(self, log_posteriors: np.ndarray) -> None:
        """Adds weighted posteriors, float64[looks,K], in logarithms: nothing underflows."""
        both = log_posteriors if self.total is None else [self.total, *log_posteriors]
        self.total = np.logaddexp.reduce(np.asarray(both), axis=0)
        self.left -= len(log_posteriors)


class _Row(NamedTuple):
    opened: _Opened
    look: ProtocolCrop
    pixels: np.ndarray
    box: tuple[int, int, int, int]


class _Desk:
    """Collects looks of one shape until they fill a batch, and hands out what comes back."""

    def __init__(self, forward: Forward, params: Any, check_stop: Callable[[], None]) -> None:
        self._forward, self._check_stop = forward, check_stop
        self._params = {False: params}
        self._waiting: dict[tuple[Shape, bool], list[_Row]] = {}
        self._running: deque[tuple[Any, list[_Row]]] = deque()
        self._done: list[_Opened] = []

    def add(self, opened: _Opened, look: ProtocolCrop, picture: EvalImage, in_square: bool) -> None:
        pixels, box = picture.pixels[look.crop], look.crop.box
        if in_square:
            box = look.crop.in_square(*picture.size)
        shape, turn = shape_of(look, in_square), look.dense and pixels.shape[0] > pixels.shape[1]
        rows = self._waiting.setdefault((shape, turn), [])
        rows.append(_Row(opened, look, pixels, box))
        if len(rows) == self._forward.rows(shape):
            self._send(shape, turn)

    def finish(self) -> None:
        """Sends what does not fill a batch, and waits for all. A few whole images ride with longer ones of
        their scale, which a batch computes as well: padded further, they come out the same."""
        for shape, turn in sorted(self._waiting):
            rows = self._waiting[shape, turn]
            for longer, other in sorted(self._waiting):
                same = (longer.kind, longer.height, other) == ("dense", shape.height, turn)
                room = self._forward.rows(longer) - len(self._waiting[longer, other])
                if same and longer.width > shape.width and len(rows) <= room:
                    self._waiting[longer, other] += self._waiting.pop((shape, turn))
                    break
        for shape, turn in list(self._waiting):
            self._send(shape, turn)
        while self._running:
            self._collect()

    def done(self) -> Iterator[tuple[EvalImage, np.ndarray]]:
        """The pictures whose looks are all back."""
        for opened in self._done:
            assert opened.total is not None
            yield opened.picture, opened.total
        self._done.clear()

    def _send(self, shape: Shape, turn: bool) -> None:
        self._check_stop()
        rows = self._waiting.pop((shape, turn))
        batch = self._forward.empty(shape)
        for i, row in enumerate(rows):
            if shape.kind == "dense":
                pixels = row.pixels[:, ::-1] if row.look.mirror else row.pixels
                batch["image"][i], batch["size"][i] = pad_to_bucket(pixels, shape)
            else:
                batch["image"][i] = row.pixels
                batch["box"][i], batch["mirror"][i] = row.box, row.look.mirror
        if turn not in self._params:
            self._params[True] = self._forward.turned(self._params[False])
        self._running.append((self._forward(self._params[turn], shape, batch), rows))
        while len(self._running) >= _IN_FLIGHT:
            self._collect()

    def _collect(self) -> None:
        computed, rows = self._running.popleft()
        values = np.asarray(computed, np.float64)
        first = 0
        while first < len(rows):
            opened, last = rows[first].opened, first
            while last < len(rows) and rows[last].opened is opened:
                last += 1
            weights = [math.log(row.look.weight) for row in rows[first:last]]
            opened.take(values[first:last] + np.asarray(weights)[:, None])
            if opened.left == 0:
                self._done.append(opened)
            first = last


def check_fits(forward: Forward, protocol: Protocol) -> None:
    """Raises:
    ValueError: the net cannot be judged by the protocol.
    """
    net, name = forward.net, protocol.label(forward.net.image_size)
    protocol.check(net.image_size)
    if protocol.dense and not net.supports_dense():
        raise ValueError(
            f"{name} looks at images of any size, and this {type(net).__name__} takes "
            f"{net.image_size} x {net.image_size} alone"
        )
    if forward.mean_image and protocol.in_square():
        side = forward.mean.shape[0]
        if protocol.all_scales() != (side,):
            raise ValueError(
                f"{name} looks at central squares, under which a mean image of side {side} lies: give "
                f"scale={side}"
            )
