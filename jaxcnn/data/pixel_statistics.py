"""Pixel statistics of a training set: mean, covariance of R, G and B, and the mean image.

Krizhevsky et al. 2012 subtract the training set's mean at each pixel (section 2) and shift colours along the
principal components of its RGB values (section 4.1). All sums are exact integer sums, so neither the order
of the images nor the threads matter.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from jaxcnn.data.classes import classes_digest
from jaxcnn.data.errors import DataError
from jaxcnn.data.eval_loader import EvalLoader
from jaxcnn.data.image_sample import bytes_digest, square_of, squares_digest
from jaxcnn.data.loader import CorruptCounter
from jaxcnn.data.sources.source import Source
from jaxcnn.data.splits import DataSplits
from jaxcnn.data.threads import run_in_thread
from jaxcnn.data.train_crops import Sampling
from jaxcnn.files import FileError, parse_json, read_arrays, write_arrays
from jaxcnn.paths import user_path
from jaxcnn.printable import shell_quote

# Images decoded ahead, and between two progress reports.
_GROUP = 32
_ARRAYS = {
    "mean": (np.float64, 3),
    "covariance": (np.float64, 3, 3),
    "mean_image?": (np.float32, "S", "S", 3),
    "origin": (np.str_,),
}
_ORIGIN = {"source": str, "examples?": int, "unreadable?": int, "side?": int}


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics over all pixels of the central squares of a training set's images, on the 0..255 scale.

    Attributes:
        mean: float64[3], of R, G and B.
        covariance: float64[3,3], of the pixels' (R, G, B); the population covariance.
        mean_image: float32[S,S,3], the mean at each position of the square, or None.
        origin: `source`, a description; and, from `compute_statistics`, `examples`, the number of images of
            the source; `unreadable`, the number of corrupt ones among them, which were left out; `classes`,
            `sample` and `squares`, the SHA-256 of the class names, of some encoded images and of the pixels
            of their squares; `side`, S. Earlier versions did not save `squares`. `imported`, true where the
            mean image came with weights, and the covariance is that of IMAGENET.
    """

    mean: Float64[np.ndarray, "3"]
    covariance: Float64[np.ndarray, "3 3"]
    mean_image: Float32[np.ndarray, "S S 3"] | None
    origin: dict[str, Any]


# The eigenvectors (R, G, B) of cuda-convnet2's make-data/input_meta, by row.
_VECTORS = np.array(
    [
        [-0.56351045, -0.5761844, -0.59200296],
        [-0.71257945, -0.02354167, 0.70119634],
        [0.41795513, -0.81698062, 0.39731118],
    ]
)
_VARIANCES = np.array([121.780061, 37.093889, 19.720833]) ** 2
IMAGENET = Statistics(
    mean=np.array([127.305, 119.715, 104.913]),
    covariance=_VECTORS.T @ np.diag(_VARIANCES) @ _VECTORS,
    mean_image=None,
    origin={"source": "ImageNet, as given by cuda-convnet2"},
)


def eigen(statistics: Statistics) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3 3"]]:
    """Returns (eigenvalues, largest first; unit eigenvectors as columns) of the covariance.

    The sign of each vector, which is arbitrary, makes its largest component positive.
    """
    values, vectors = np.linalg.eigh(statistics.covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    # Rounded, so that rounding errors do not choose between components of equal size.
    largest = np.argmax(np.abs(vectors).round(6), axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(3)])[None, :]


def side_of(sampling: Sampling, image_size: int) -> int:
    """Returns the side S of the squares whose statistics fit training crops of side `image_size`.

    It is scale[0] if the crops lie in the central square of that side, else the side of the crops.
    """
    return sampling.scale[0] if sampling.from_square else image_size


def compute_statistics(
    source: Source,
    *,
    side: int,
    name: str = "",
    threads: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
    check_stop: Callable[[], None] = lambda: None,
) -> Statistics:
    """Computes the statistics of all images of `source`.

    It uses the central square of each image, after the bilinear rescale of the shorter side to `side`.
    Corrupt images are left out and counted.

    Args:
        source: the training images.
        side: S in pixels.
        name: the name of the source, for `origin`.
        threads: decoding threads; 0 for one per core.
        progress: called with (images done, images in total) now and then.
        check_stop: called now and then, also while it waits for an image; raises to stop.

    Raises:
        DataError: the source or the square is empty, or too many images or all are corrupt.
    """
    if side < 1:
        raise DataError(f"side={side}: expected 1 or more")
    count = len(source)
    sums, products, readable = _totals(source, side, threads, progress, check_stop)
    if readable == 0:
        raise DataError(
            f"all {count} images of {name or 'the source'} are corrupt; "
            "copy or prepare the data set again"
        )
    mean, covariance = _moments(sums.sum(axis=(0, 1)), products, readable * side * side)
    origin = {
        "source": name,
        "examples": count,
        "unreadable": count - readable,
        "classes": classes_digest(source.class_names),
        "sample": run_in_thread(lambda: bytes_digest(source), check_stop),
        "squares": squares_digest(source, side, check_stop),
        "side": side,
    }
    return Statistics(mean, covariance, (sums / readable).astype(np.float32), origin)


def _totals(
    source: Source,
    side: int,
    threads: int,
    progress: Callable[[int, int], None],
    check_stop: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns, over the squares of all readable images, int64[side,side,3], the sum at each position;
    int64[3,3], the sum of the products of R, G and B; and the number of images."""

    sums, products = np.zeros((side, side, 3), np.int64), np.zeros((3, 3), np.int64)
    readable, corrupt = 0, CorruptCounter(source, "left out")
    with EvalLoader(
        source, square_of(side), threads=threads, ahead=_GROUP, check_stop=check_stop
    ) as images:
        for done, image in enumerate(images, 1):
            check_stop()
            if image.problem:
                corrupt.note(image.position, image.problem, done)
            else:
                (square,) = image.pixels.values()
                sums += square
                pixels = square.reshape(-1, 3).astype(np.float64)
                # Integers below 2**53: float64 adds them exactly in any order.
                products += (pixels.T @ pixels).astype(np.int64)
                readable += 1
            if done % _GROUP == 0 or done == len(source):
                progress(done, len(source))
    return sums, products, readable


def _moments(sums: np.ndarray, products: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean, covariance) of `count` pixels. Python's integers neither round nor overflow."""
    total, squares = sums.tolist(), products.tolist()
    covariance = [
        [(count * squares[i][j] - total[i] * total[j]) / count**2 for j in range(3)]
        for i in range(3)
    ]
    return np.array([value / count for value in total]), np.array(covariance)


def save_statistics(statistics: Statistics, path: str | os.PathLike[str]) -> None:
    """Writes a .npz atomically. Makes the folder. Raises WriteError if it cannot be written."""
    names = ("mean", "covariance", "mean_image")
    arrays = {n: a for n in names if (a := getattr(statistics, n)) is not None}
    origin = np.array(json.dumps(statistics.origin))
    write_arrays(user_path(path), **arrays, origin=origin)


def load_statistics(path: str | os.PathLike[str]) -> Statistics:
    """Reads what `save_statistics` wrote.

    Raises:
        FileError: the file is missing, damaged, or something else.
    """
    path = user_path(path)
    advice = "make it again: jaxcnn statistics CONFIG " + shell_quote(f"--out={path}")
    found = read_arrays(path, _ARRAYS, advice=advice)
    origin = parse_json(
        found.pop("origin").item(), _ORIGIN, path=path, advice=advice, where="origin"
    )
    image = found.get("mean_image")
    if bad := [name for name, array in found.items() if not np.isfinite(array).all()]:
        raise FileError(path, f"is not valid: {bad[0]} has values that are not finite", advice)
    if image is not None and image.shape != (origin.get("side"),) * 2 + (3,):
        problem = f"is not valid: mean_image is {list(image.shape)}, its side {origin.get('side')}"
        raise FileError(path, problem, advice)
    return Statistics(found["mean"], found["covariance"], image, origin)


def check_matches(
    statistics: Statistics,
    data: DataSplits,
    path: str | os.PathLike[str],
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Checks that the statistics in the file `path` were computed from `data`'s training images.

    The same images in another form fit if the pixels of their squares are equal, as in a set that was packed
    at the side of the squares. Images that were rescaled before, or differently, have other statistics.
    `check_stop` is called now and then while it reads some of them; raises to stop.

    Raises:
        DataError: the classes, the number of training images or their content differ.
    """
    seen, count = statistics.origin, len(data.train)
    problems = []
    if seen.get("examples") != count:
        problems.append(
            f"they are of {seen.get('examples')} training images, the data have {count}"
        )
    if seen.get("classes") != classes_digest(data.class_names):
        problems.append("they are of other classes")
    if not problems and not _same_images(seen, data.train, check_stop):
        problems.append(
            "they are of other images, or of other pixels of these, with the same number and the same classes"
        )
    if problems:
        raise DataError(
            f"the statistics in {path} (from {seen.get('source')}) do not fit the data "
            f"({data.description}): {'; '.join(problems)}. Make a file of "
            "these data: jaxcnn statistics CONFIG --out=ANOTHER_FILE"
        )


def _same_images(seen: Mapping[str, Any], source: Source, check_stop: Callable[[], None]) -> bool:
    """Whether statistics of this origin are those of `source`, to tell by some of its images."""
    if seen.get("sample") == run_in_thread(lambda: bytes_digest(source), check_stop):
        return True
    return "squares" in seen and seen["squares"] == squares_digest(source, seen["side"], check_stop)
