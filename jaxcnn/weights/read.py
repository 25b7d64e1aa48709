"""A weights file as a net with weights."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from jaxcnn.data.classes import class_table
from jaxcnn.files import FileError
from jaxcnn.models.window import same
from jaxcnn.paths import local_path
from jaxcnn.weights.assemble import assemble, dtypes
from jaxcnn.weights.choices import Choices
from jaxcnn.weights.convention import Decision, decide, recognise
from jaxcnn.weights.file_facts import class_names, file_facts, file_hashes
from jaxcnn.weights.fingerprints import by_hash
from jaxcnn.weights.folding import shift_mean
from jaxcnn.weights.formats import open_weights
from jaxcnn.weights.formats.onnx_sizes import graph_difference
from jaxcnn.weights.match import Match, build_net, match
from jaxcnn.weights.mean_image import read_mean_image
from jaxcnn.weights.net_weights import Leaf, NetWeights
from jaxcnn.weights.own_file import read_own
from jaxcnn.weights.sources import SOURCES
from jaxcnn.weights.tensors import WeightsFile


def read_weights(path: str | os.PathLike[str], choices: Choices | None = None) -> NetWeights:
    """The net in a weights file, ready to compute: kernels for RGB of 0..255 minus its mean.

    Headers are read and checked; parameters are read when they are asked for.

    Raises:
        FileError: the file cannot be read, holds no net that jaxcnn has, or does not say what `choices` must.
        ConfigError: wrong values in `choices`.
    """
    choices = choices or Choices()
    file = open_weights(local_path(path, "a weights file"))
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
            local_path(choices.mean_image, "a mean image"),
            found.model["image_size"],
            convention.mean,
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
