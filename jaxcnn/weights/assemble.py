"""Parameters of a net out of the arrays of a file, each when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from jaxcnn.files import FileError
from jaxcnn.weights.folding import Convention, fold_batch_norm, fold_input
from jaxcnn.weights.kernel_layout import from_stored, stored_axes
from jaxcnn.weights.match import Match, tensor_names
from jaxcnn.weights.naming import Place
from jaxcnn.weights.net_weights import Leaf
from jaxcnn.weights.tensors import Tensor, WeightsFile

# Bytes of a stored array that are read at once: its transposition stays in the processor's cache.
_BLOCK = 2**21
# Fewer outputs at once would write less than whole lines of its cache, which takes three times as long.
_FEWEST_ROWS = 64


def assemble(
    file: WeightsFile, match: Match, convention: Convention | None, *, drop_background: bool
) -> dict[str, Leaf]:
    """The parameters by path, in the order of the places.

    Args:
        convention: what the net reads, folded into its first kernel; None changes nothing.
        drop_background: whether the first output of the classifier is left out.
    """
    leaves, folded = {}, _folded(file, match)
    first = next(p.leaf for p in match.form.places if p.leaf.endswith("kernel"))
    for place in match.form.places:
        shape = match.shapes[place.leaf]
        steps: list[Callable[[np.ndarray], np.ndarray]] = []
        if place.norm is not None:
            factor, added = folded[place.norm.variance]
            kernel = len(shape) == 4
            steps.append(_scaled(factor) if kernel else _scaled(factor, added))
        if place.leaf == first and convention is not None:
            steps.append(lambda kernel: fold_input(kernel, convention))
        if drop_background and place.leaf.partition("/")[0] in ("fc8", "fc"):
            shape = (*shape[:-1], shape[-1] - 1)
            steps.append(lambda array: array[..., 1:])
        leaves[place.leaf] = Leaf(shape, _reader(file, place, match.shapes[place.leaf], steps))
    return leaves


def read_stored(
    file: WeightsFile, tensor: Tensor, layout: str, shape: tuple[int, ...]
) -> np.ndarray:
    """A stored array as float32 with the axes of jaxcnn, C-contiguous. It is read in blocks, so that only one
    copy of a large array is in memory.

    Raises:
        FileError: it cannot be read, or has values that are not finite.
    """
    if layout == "HWIO":  # as here, also where there are more axes
        return np.ascontiguousarray(_finite(file, tensor.name, tensor.read())).reshape(shape)
    axes = stored_axes(layout)
    if len(shape) == 1 or len(tensor.shape) < 2 or axes[0] not in ("O", "HWI"):
        block = _finite(file, tensor.name, tensor.read())
        return np.ascontiguousarray(from_stored(block, layout, shape))
    out = np.empty(shape, np.float32)
    rows = tensor.shape[0]
    step = max(_FEWEST_ROWS, _BLOCK * rows // max(1, tensor.nbytes))
    for start in range(0, rows, step):
        block = _finite(file, tensor.name, tensor.rows(start, min(rows, start + step)))
        if axes[0] == "O":
            out[..., start : start + step] = from_stored(block, layout, (*shape[:3], len(block)))
        else:
            out.reshape(rows, shape[-1])[start : start + step] = block
    return out


def _reader(
    file: WeightsFile,
    place: Place,
    shape: tuple[int, ...],
    steps: list[Callable[[np.ndarray], np.ndarray]],
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        if place.tensor:
            array = read_stored(file, file.tensors[place.tensor], place.layout, shape)
        else:
            array = np.zeros(shape, np.float32)
        for step in steps:
            array = step(array)
        return np.ascontiguousarray(array, np.float32)

    return read


def _scaled(
    factor: np.ndarray, added: np.ndarray | float = 0.0
) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: (array * factor + added).astype(np.float32)


def _folded(file: WeightsFile, match: Match) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """(factor, added) of each batch normalization, by the name of its variance."""
    found = {}
    for norm in {place.norm for place in match.form.places if place.norm is not None}:
        arrays = {name: _vector(file, name) for name in norm[:4] if name}
        if (arrays[norm.variance] < 0).any():
            advice = "the file is damaged, or holds another array of this name"
            raise FileError(file.path, f"has negative variances in {norm.variance}", advice)
        found[norm.variance] = fold_batch_norm(
            arrays.get(norm.scale),
            arrays.get(norm.offset),
            arrays[norm.mean],
            arrays[norm.variance],
            norm.epsilon,
        )
    return found


def _vector(file: WeightsFile, name: str) -> np.ndarray:
    return _finite(file, name, file.tensors[name].read()).astype(np.float64).reshape(-1)


def _finite(file: WeightsFile, name: str, array: np.ndarray) -> np.ndarray:
    """A stored array as float32. Raises FileError if values are not finite, or too large for float32."""
    with np.errstate(over="ignore"):
        array = np.asarray(array, np.float32)
    if not np.isfinite(array).all():
        raise FileError(
            file.path,
            f"has values in {name} that are not finite (NaN or infinite, in float32)",
            "take another file: a net with these weights computes nothing",
        )
    return array


def dtypes(file: WeightsFile, match: Match) -> list[str]:
    """The number formats of the arrays that are used, such as ['float16', 'float32']."""
    return sorted({file.tensors[name].dtype.name for name in tensor_names(match.form.places)})
