"""Mean images of other programs, as jaxcnn's: RGB, channels last."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from jaxcnn.files import FileError
from jaxcnn.weights.folding import LARGEST_SHIFT
from jaxcnn.weights.formats import caffe
from jaxcnn.weights.formats.stored_bytes import open_regular

_NPY = b"\x93NUMPY"


def read_mean_image(
    path: Path, image_size: int, mean: Sequence[float]
) -> Float32[np.ndarray, "S S 3"]:
    """The mean image in a file: Caffe's .binaryproto, or its .npy (BGR, channels first).

    Raises:
        FileError: it is not a square mean image of at least the net's image size, or its channel means are
            not `mean`, those that the weights expect.
    """
    advice = (
        "give Caffe's imagenet_mean.binaryproto or ilsvrc_2012_mean.npy, or leave --mean_image out"
    )
    image = _stored(path, advice)
    if image.dtype.kind not in "fiu":
        raise FileError(path, f"holds {image.dtype}, expected numbers", advice)
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] != image.shape[2]:
        raise FileError(
            path, f"has the shape {list(image.shape)}, expected [3, S, S] in BGR", advice
        )
    if image.shape[1] < image_size:
        problem = f"has a side of {image.shape[1]}, and the net reads images of {image_size}"
        raise FileError(path, problem, advice)
    found = np.ascontiguousarray(image[::-1].transpose(1, 2, 0), np.float32)
    if not (np.isfinite(found).all() and found.min() >= 0 and found.max() <= 255):
        raise FileError(path, "has values that are not in 0..255", advice)
    shift = np.abs(found.mean((0, 1), np.float64) - np.asarray(mean)).max()
    if shift > LARGEST_SHIFT:
        channels = ", ".join(f"{value:.4g}" for value in found.mean((0, 1)))
        expected = ", ".join(f"{value:.4g}" for value in mean)
        raise FileError(
            path,
            f"has the channel means ({channels}) in RGB, and the weights expect ({expected}): it is the mean "
            "of other images, or not in BGR",
            advice,
        )
    return found


def _stored(path: Path, advice: str) -> np.ndarray:
    with open_regular(path, advice) as (file, _):
        head = os.pread(file, len(_NPY), 0)
    if head != _NPY:
        return caffe.read_mean_image(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FileError(path, f"is not a .npy file ({error})", advice) from error
