"""The text next to an exported program that says what it is and how to run it."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxcnn.models import NETS, net_fields
from jaxcnn.models.kernels.dispatch import plain_forms
from jaxcnn.weights.programs.program import BATCH, INPUT, PLATFORMS, Program

MEANINGS = {
    "probabilities": "softmax posteriors of the classes",
    "scores": "class scores at each position, before the softmax of their mean over positions",
    "features": "output of layer {}",
}


def describe(program: Program, needs: Sequence[str], usage: str, origin: Mapping[str, Any]) -> str:
    """JSON: the net, input, outputs, and lines of Python that run the program. `b` is a batch of any size.

    Args:
        needs: packages to install.
        usage: these lines, in a folder of the program's; they take `images`.
        origin: where the weights come from.
    """
    (height, width), net = program.size, program.net
    name = next(name for name, kind in NETS.items() if type(net) is kind)
    with plain_forms():
        outputs = jax.eval_shape(program, *program.arguments())
    constant = program.mean.shape[:2] == (1, 1)
    text = {
        "needs": [*needs],
        "usage": usage.splitlines(),
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "shape": [BATCH, height, width, 3],
            "pixels": f"RGB of 0 to 255, rescaled and cropped to {height} x {width}; the program subtracts "
            "the mean",
            "mean": program.mean[0, 0].tolist() if constant else "an image, in the program",
        },
        "outputs": {
            name: {
                "dtype": "float32",
                "shape": [size if isinstance(size, int) else str(size) for size in output.shape],
                "meaning": MEANINGS[name].format(program.features),
            }
            for name, output in outputs.items()
        },
        "classes": len(program.classes),
        "net": {"name": name} | {field: getattr(net, field) for field in net_fields(name)},
        "parameters": sum(math.prod(leaf.shape) for leaf in program.weights.values()),
        "origin": dict(origin),
        "platforms": PLATFORMS,
        "versions": {"jaxcnn": importlib.metadata.version("jaxcnn"), "jax": jax.__version__},
    }
    return json.dumps(text, indent=2) + "\n"
