"""Files that jaxcnn wrote: they say everything themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from jaxcnn.files import FileError
from jaxcnn.weights.assemble import read_stored
from jaxcnn.weights.choices import Choices, net_text
from jaxcnn.weights.file_facts import class_names, file_facts, file_hashes
from jaxcnn.weights.kernel_layout import stored_shape
from jaxcnn.weights.match import build_net
from jaxcnn.weights.misfits import shown
from jaxcnn.weights.net_weights import Leaf, NetWeights, param_shapes
from jaxcnn.weights.tensors import WeightsFile

_AGAIN = "export the run again"


def read_own(file: WeightsFile, choices: Choices) -> NetWeights:
    """The net of a file that jaxcnn wrote: it says everything itself.

    Raises:
        FileError: it lacks arrays, or has others than its net.
    """
    if choices.net or choices.source or choices.drop_background:
        problem = "is a file of jaxcnn, which says what it is"
        raise FileError(file.path, problem, "leave --net, --source and --drop_background out")
    model = dict(file.facts["model"])
    train = any(name.startswith("aux_") for name in file.tensors)
    try:
        shapes = param_shapes(build_net(model), train)
    except (ValueError, TypeError) as error:
        raise FileError(file.path, f"names a net that cannot be: {error}", _AGAIN) from error
    layouts = dict.fromkeys(shapes, "HWIO") | file.facts.get("layouts", {})
    expected = {
        name: shape if layouts[name] == "HWIO" else stored_shape(layouts[name], shape)
        for name, shape in shapes.items()
    }
    if problems := _misfits(file, expected):
        text = "\n".join([f"does not fit {net_text(model)}:", *shown(problems)])
        raise FileError(file.path, text, _AGAIN)
    leaves = {
        name: Leaf(shape, partial(read_stored, file, file.tensors[name], layouts[name], shape))
        for name, shape in shapes.items()
    }
    mean = np.asarray(file.facts["mean"], np.float32)
    if choices.mean is not None or choices.mean_image:
        raise FileError(
            file.path, "is a file of jaxcnn, with its mean", "leave --mean and --mean_image out"
        )
    classes, how = class_names(file, model["num_classes"], choices.classes)
    before = file.facts.get("origin", {})
    origin = {
        **file_facts(file, file_hashes(file.path)),
        "program": "jaxcnn",
        "source": before.get("source", "jaxcnn"),
        "title": before.get("title", "weights that jaxcnn wrote"),
        "known_by": "what jaxcnn wrote into the file",
        "licence": before.get("licence", "the source states none"),
        "reads": "RGB, 0..255 minus its mean",
        "transformations": [],
        "warnings": [],
        "dropped": {},
        "classes": how,
        "before": before,
    }
    return NetWeights(model, leaves, mean, classes, origin)


def _misfits(file: WeightsFile, expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """How the arrays of a file differ from the expected shapes, one line each."""
    stored = {name: tensor.shape for name, tensor in file.tensors.items()}
    problems = [f"{name}: missing" for name in expected if name not in stored]
    problems += [f"{name}: not of this net" for name in stored if name not in expected]
    problems += [
        f"{name}: {list(stored[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name] != shape
    ]
    return problems
