"""A weights file as a net with weights."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.classes import class_table
from jaxcnn.files import FileError, user_path
from jaxcnn.models.window import same
from jaxcnn.weights.assemble import assemble, dtypes, read_stored
from jaxcnn.weights.choices import Choices, net_text
from jaxcnn.weights.convention import Decision, decide, recognise
from jaxcnn.weights.fingerprints import by_hash
from jaxcnn.weights.folding import shift_mean
from jaxcnn.weights.formats import open_weights
from jaxcnn.weights.formats.onnx_sizes import graph_difference
from jaxcnn.weights.kernel_layout import stored_shape
from jaxcnn.weights.match import Match, build_net, match, shown
from jaxcnn.weights.mean_image import read_mean_image
from jaxcnn.weights.net_weights import Leaf, NetWeights, param_shapes
from jaxcnn.weights.sources import SOURCES
from jaxcnn.weights.tensors import WeightsFile

BACKGROUND = "background"
_AGAIN = "export the run again"


def read_weights(path: str | os.PathLike[str], choices: Choices | None = None) -> NetWeights:
    """The net in a weights file, ready to compute: kernels for RGB of 0..255 minus its mean.

    Headers are read and checked; parameters are read when they are asked for.

    Raises:
        FileError: the file cannot be read, holds no net that jaxcnn has, or does not say what `choices` must.
        ConfigError: wrong values in `choices`.
    """
    choices = choices or Choices()
    file = open_weights(user_path(path))
    if "model" in file.facts:
        return read_own(file, choices)
    hashes = file_hashes(file.path)
    known = by_hash(*hashes)
    found = match(file, choices.net, known.model if known else None)
    if choices.drop_background and found.model["num_classes"] == len(class_table()):
        problem = "has 1000 outputs, which are ImageNet's classes without a background class"
        raise FileError(file.path, problem, "leave --drop_background out")
    decision = decide_source(file, found, hashes, choices.source)
    convention, steps = decision.convention, transformations(file, found, decision)
    leaves = assemble(file, found, convention, drop_background=choices.drop_background)
    mean: np.ndarray = np.asarray(convention.mean, np.float32)
    if choices.mean is not None:
        shifted = _shifted(file, found, leaves, mean, choices.mean)
        leaves, mean = {**leaves, **shifted.leaves}, np.asarray(choices.mean, np.float32)
        steps.append(shifted.text)
    elif choices.mean_image:
        mean = read_mean_image(
            user_path(choices.mean_image), found.model["image_size"], convention.mean
        )
        steps.append(f"mean image of {choices.mean_image} instead of its channel means")
    model = {**found.model, "num_classes": found.model["num_classes"] - choices.drop_background}
    classes, how = class_names(file, model["num_classes"], choices.classes)
    origin = {
        **file_facts(file, hashes),
        "program": found.form.program,
        "source": decision.source,
        "title": decision.known.title if decision.known else SOURCES[decision.source].title,
        "known_by": decision.known_by,
        "licence": SOURCES[decision.source].licence or "the source states none",
        "reads": convention.text(),
        "transformations": steps,
        "warnings": list(decision.warnings),
        "dropped": found.dropped,
        "classes": how,
    }
    return NetWeights(model, leaves, mean, classes, origin)


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
    stored = {name: tensor.shape for name, tensor in file.tensors.items()}
    problems = [f"{name}: missing" for name in shapes if name not in stored]
    problems += [f"{name}: not of this net" for name in stored if name not in shapes]
    problems += [
        f"{name}: {list(stored[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name] != shape
    ]
    if problems:
        raise FileError(
            file.path, "\n".join([f"does not fit {net_text(model)}:", *shown(problems)]), _AGAIN
        )
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


def decide_source(
    file: WeightsFile, found: Match, hashes: tuple[str, str], source: str
) -> Decision:
    """What the net of a file reads; raises as `decide`."""
    kernel, bias = first_layer(file, found)
    recognised = recognise(bias, *hashes)
    form = found.form
    return decide(
        file.path, form.program, form.model["name"], kernel, recognised, source, file.facts
    )


def first_layer(file: WeightsFile, found: Match) -> tuple[np.ndarray, np.ndarray]:
    """(kernel, bias) of the first layer as in the file; a bias of zeros where it has none."""
    plain = dataclasses.replace(
        found, form=dataclasses.replace(found.form, places=found.form.places[:2])
    )
    leaves = assemble(file, plain, None, drop_background=False)
    by_rank = {len(leaf.shape): leaf.read() for leaf in leaves.values()}
    return by_rank[4], by_rank[1]


def transformations(file: WeightsFile, found: Match, decision: Decision) -> list[str]:
    """What is done to the arrays of a file, one sentence each."""
    steps = ["kernels to (height, width, inputs, outputs)"]
    if difference := graph_difference(file, build_net(found.model)):
        steps.append(f"the weights of a graph, not the graph: {difference}")
    others = [kind for kind in dtypes(file, found) if kind != "float32"]
    if others:
        steps.append(f"{', '.join(others)} to float32")
    if any(place.norm for place in found.form.places):
        steps.append("batch normalizations folded into kernels and biases")
    if decision.convention.order == "BGR":
        steps.append("conv1 turned from BGR to RGB")
    if set(decision.convention.divisor) != {1.0}:
        steps.append("conv1 divided by the scale of its inputs, exact everywhere")
    return steps


@dataclasses.dataclass(frozen=True)
class _Shifted:
    leaves: dict[str, Leaf]
    text: str


def _shifted(
    file: WeightsFile,
    found: Match,
    leaves: dict[str, Leaf],
    old: np.ndarray,
    new: tuple[float, float, float],
) -> _Shifted:
    """The first bias for another mean, read at once, since its bound decides whether that is allowed."""
    names = [place.leaf for place in found.form.places[:2]]
    kernel, bias = sorted((leaves[name].read() for name in names), key=np.ndim, reverse=True)
    net = build_net(found.model)
    window = same(len(kernel)) if found.model["name"] == "vgg" else net.trunk()[0]
    try:
        shift = shift_mean(kernel, bias, old, np.asarray(new), window, net.image_size)
    except ValueError as error:
        raise FileError(file.path, f"has another mean: {error}", "see docs/weights.md") from error
    bias_name = next(name for name in names if name.endswith("bias"))
    leaf = Leaf(bias.shape, lambda: shift.bias)
    mean = ", ".join(f"{value:g}" for value in new)
    return _Shifted({bias_name: leaf}, f"mean moved to ({mean}): {shift.text()}")


def class_names(
    file: WeightsFile, outputs: int, given: tuple[str, ...]
) -> tuple[tuple[str, ...], str]:
    """(names by label, how they are known).

    Args:
        outputs: of the net, without a background class that is left out.

    Raises:
        FileError: their number is not that of the outputs, or nothing says them.
    """
    imagenet = tuple(row.wnid for row in class_table())
    named = {len(imagenet): imagenet, len(imagenet) + 1: (BACKGROUND, *imagenet)}
    own = tuple(file.facts.get("classes", ()))
    if given:
        names, how = given, "given by the user"
    elif own:
        names, how = own, "from the file"
    elif outputs in named:
        names, how = (
            named[outputs],
            "ImageNet's, in the order of their WNIDs, as the source has them",
        )
        if outputs > len(imagenet):
            how += ", after a background class (--drop_background leaves it out)"
    else:
        advice = "give a file with one name per line: --classes=FILE"
        raise FileError(file.path, f"has {outputs} outputs and no names for them", advice)
    if len(names) != outputs or len(set(names)) != outputs:
        raise FileError(
            file.path,
            f"has {outputs} outputs, but there are {len(set(names))} names",
            "give --classes=FILE",
        )
    return names, how


def file_facts(file: WeightsFile, hashes: tuple[str, str]) -> dict[str, Any]:
    """The part of origin.json that describes the file itself."""
    return {
        "file": file.path.name,
        "format": file.format,
        "bytes": file.path.stat().st_size,
        "sha256": hashes[0],
    }


def file_hashes(path: Path) -> tuple[str, str]:
    """(SHA-256, SHA-1) of a file, as hex digits."""

    def hexdigest(name: str) -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, name).hexdigest()

    with ThreadPoolExecutor(2) as threads:  # hashing leaves Python's lock to others
        sha256, sha1 = threads.map(hexdigest, ("sha256", "sha1"))
    return sha256, sha1
