"""Weights files in memory: the arrays of a net as a form stores them."""

from pathlib import Path

import numpy as np

from jaxcnn.weights.folding import fold_batch_norm
from jaxcnn.weights.kernel_layout import to_stored
from jaxcnn.weights.tensors import Tensor, WeightsFile


def numbered(shapes):
    """Parameters whose values are their own indices, another first one in each."""
    return {
        path: np.arange(i, i + np.prod(shape), dtype=np.float32).reshape(shape)
        for i, (path, shape) in enumerate(shapes.items())
    }


def stored(form, params, seed=0):
    """(arrays by the names of a form, the parameters after its batch normalizations, which are drawn, are
    folded into them)."""
    rng, arrays, folded, norms = np.random.default_rng(seed), {}, {}, {}
    for place in form.places:
        array = params[place.leaf]
        if place.norm is not None:
            if place.norm not in norms:
                drawn = rng.uniform(0.5, 2.0, (4, array.shape[-1])).astype(np.float32)
                norms[place.norm] = dict(zip(place.norm[:4], drawn, strict=True))
                arrays |= {name: norms[place.norm][name] for name in place.norm[:4] if name}
            values = [arrays.get(name) for name in place.norm[:4]]
            factor, added = fold_batch_norm(*values, place.norm.epsilon)
            array = array if place.tensor else np.zeros_like(array)
            folded[place.leaf] = array * factor + (added if array.ndim == 1 else 0)
        else:
            folded[place.leaf] = array
        if place.tensor:
            arrays[place.tensor] = to_stored(array, place.layout)
    return arrays, folded


def weights_file(arrays, **facts):
    """A file of arrays that is in memory."""
    tensors = {
        name: Tensor(name, array.shape, array.dtype, lambda a, b, array=array: array[a:b])
        for name, array in arrays.items()
    }
    return WeightsFile(Path("made"), "made", tensors, facts)
