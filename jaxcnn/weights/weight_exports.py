"""Exports of weights alone: jaxcnn's own names, or torchvision's."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jaxcnn.files import write_arrays
from jaxcnn.folders import atomic_output
from jaxcnn.models import NETS, Net, net_fields
from jaxcnn.paths import Path
from jaxcnn.weights.formats import open_weights
from jaxcnn.weights.formats.safetensors import write_safetensors
from jaxcnn.weights.formats.torch_writer import write_torch
from jaxcnn.weights.net_weights import Leaf, NetWeights
from jaxcnn.weights.stored import facts_text, write_weights
from jaxcnn.weights.tensors import Tensor
from jaxcnn.weights.torchvision_layout import state_dict

WEIGHT_FORMATS = ("safetensors", "npz", "torchvision")
_BLOCK = 2**22  # bytes
TORCH_SUFFIXES = (".pth", ".pt", ".safetensors")


def weights_of(
    net: Net,
    params: Mapping[str, Any],
    mean: np.ndarray,
    classes: tuple[str, ...],
    origin: Mapping[str, Any],
) -> NetWeights:
    """The weights of a net in memory.

    Args:
        params: a tree of arrays.
        mean, classes, origin: as in `NetWeights`.
    """
    name = next(name for name, kind in NETS.items() if type(net) is kind)
    model = {"name": name} | {field: getattr(net, field) for field in net_fields(name)}
    arrays: dict[str, Any] = flatten_dict(dict(params), sep="/")  # pyright: ignore[reportAssignmentType]
    leaves = {
        path: Leaf(tuple(array.shape), lambda array=array: np.asarray(array, np.float32, order="C"))
        for path, array in arrays.items()
    }
    return NetWeights(model, leaves, np.asarray(mean, np.float32), tuple(classes), dict(origin))


def export_weights(
    weights: NetWeights,
    format_name: str,
    path: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[str, ...]:
    """Writes the weights of a net to a file, reads it again and compares each array bit by bit.

    Args:
        format_name: one of WEIGHT_FORMATS. 'torchvision' is a .pth file, or .safetensors by its suffix.
        progress: is told what begins; it may raise to stop.

    Returns:
        What the user must know of the file, one sentence each.

    Raises:
        FileExistsError: `path` exists.
        ValueError: the format cannot hold this net.
        WriteError: the file cannot be written. FileError: a parameter cannot be read.
    """
    if format_name == "torchvision" and path.suffix not in TORCH_SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(TORCH_SUFFIXES)}")
    state = state_dict(weights) if format_name == "torchvision" else None
    arrays = weights.leaves if state is None else state.arrays
    with atomic_output(path) as made:
        progress(f"writing {format_name} ...")
        if state is None:
            (write_weights if format_name == "safetensors" else _write_npz)(made, weights)
        else:
            shapes = {name: leaf.shape for name, leaf in arrays.items()}
            write = write_torch if path.suffix != ".safetensors" else _write_plain
            write(made, shapes, lambda name: arrays[name].read())
        progress("reading it again ...")
        _compare(made, arrays)
    return state.notes if state else ()


def _write_plain(path: pathlib.Path, shapes: Any, arrays: Any) -> None:
    write_safetensors(path, shapes, arrays, {"format": "pt"})


def _write_npz(path: pathlib.Path, weights: NetWeights) -> None:
    """The arrays by path, and what belongs to them as JSON text: `model`, `mean`, `classes`, `origin`."""
    facts = {name: np.array(text) for name, text in facts_text(weights).items()}
    arrays = {name: leaf.read() for name, leaf in weights.leaves.items()}
    write_arrays(path, compressed=False, **facts, **arrays)


def _compare(path: pathlib.Path, arrays: Mapping[str, Leaf]) -> None:
    tensors = open_weights(path).tensors
    differ = [name for name in arrays if name not in tensors]
    differ += [name for name in tensors if name not in arrays]
    shared = [name for name in arrays if name in tensors]
    differ += [name for name in shared if not _equal(tensors[name], arrays[name].read())]
    if differ:
        raise OSError(
            f"{path} was written, but is another one when it is read: {', '.join(differ)}"
        )


def _equal(tensor: Tensor, array: np.ndarray) -> bool:
    """Whether an array in a file has the bits of another; it is read in blocks."""
    if (tensor.shape, tensor.dtype) != (array.shape, array.dtype):
        return False
    rows = array.shape[0] if array.shape else 1
    step = max(1, _BLOCK * rows // max(1, array.nbytes))
    bits = array.reshape(rows, -1).view(np.uint32)
    for start in range(0, rows, step):
        part = bits[start : start + step]
        found = tensor.rows(start, start + len(part)).reshape(part.shape)
        if not np.array_equal(found.view(np.uint32), part):
            return False
    return True
