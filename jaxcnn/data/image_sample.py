"""Digests of some images spread over a source, which tell two sets apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.eval_crops import EvalCrop, center_crop
from jaxcnn.data.eval_loader import EvalLoader
from jaxcnn.data.sources.source import Source, Subset

# Number of images whose bytes or pixels identify the set.
_SAMPLED = 64
_CORRUPT = b"unreadable"


def bytes_digest(source: Source) -> str:
    """Returns the SHA-256 of the encoded bytes of the images."""
    digest = hashlib.sha256()
    for position in _positions(source):
        try:
            digest.update(source.read(position)[0])
        except CorruptImage:
            digest.update(_CORRUPT)
    return digest.hexdigest()


def squares_digest(source: Source, side: int, check_stop: Callable[[], None] = lambda: None) -> str:
    """Returns the SHA-256 of the pixels of the images' central squares of side `side`."""
    digest = hashlib.sha256()
    sampled = Subset(source, np.array(_positions(source), np.int64))
    with EvalLoader(sampled, square_of(side), check_stop=check_stop) as images:
        for image in images:
            digest.update(_CORRUPT if image.problem else image.pixels.popitem()[1].tobytes())
    return digest.hexdigest()


def square_of(side: int) -> Callable[[int, int], list[EvalCrop]]:
    """(height, width) -> the central square after the rescale of the shorter side to `side`."""
    return lambda height, width: [center_crop(height, width, side, side, square=True)]


def _positions(source: Source) -> list[int]:
    count = min(_SAMPLED, len(source))
    return [index * len(source) // count for index in range(count)]
