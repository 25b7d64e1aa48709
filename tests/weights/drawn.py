"""Nets with random weights, as `read_weights` gives them."""

import numpy as np

from jaxcnn.models import build
from jaxcnn.weights.net_weights import Leaf, NetWeights, param_shapes
from tests.evaluation.small import CLASSES, NETS

MEAN = np.array([123.675, 116.28, 103.53], np.float32)


def drawn_weights(name="vgg", *, mean=MEAN, classes=None, origin=None, seed=0, **fields):
    """Narrow weights that keep the variance of activations.

    Args:
        classes: names by label; None: class_000 and so on.
        fields: of the net.
    """
    names = tuple(f"class_{i:03}" for i in range(CLASSES)) if classes is None else classes
    model = {"name": name, "num_classes": len(names), **NETS.get(name, {}), **fields}
    rng, leaves = np.random.default_rng(seed), {}
    for path, shape in param_shapes(build(**model)).items():
        gain = 0.02 if path.startswith("fc") else 1.0
        std = 0.1 if len(shape) == 1 else gain * np.sqrt(2 / np.prod(shape[:-1]))
        array = rng.normal(0, std, shape).astype(np.float32)
        leaves[path] = Leaf(shape, lambda array=array: array)
    found = (
        {"source": "torchvision", "title": "drawn", "file": "a.pth"} if origin is None else origin
    )
    return NetWeights(model, leaves, mean, names, found)
