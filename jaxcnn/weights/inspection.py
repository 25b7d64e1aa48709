"""What a weights file is: its format, its net, where it comes from and what its net reads."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jaxcnn.files import FileError
from jaxcnn.paths import Path, local_path
from jaxcnn.weights.assemble import dtypes
from jaxcnn.weights.choices import Choices, net_text
from jaxcnn.weights.file_facts import class_names, file_hashes
from jaxcnn.weights.fingerprints import by_hash
from jaxcnn.weights.formats import open_weights
from jaxcnn.weights.formats.onnx_sizes import graph_difference
from jaxcnn.weights.match import Match, build_net, match
from jaxcnn.weights.own_file import read_own
from jaxcnn.weights.read import decide_source
from jaxcnn.weights.sources import SOURCES
from jaxcnn.weights.tensors import WeightsFile


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What is known of a weights file.

    Attributes:
        facts: name -> text, in the order to show.
        problem: why it cannot be imported as it is, and what to type; '' if it can.
    """

    facts: dict[str, str]
    problem: str = ""


def inspect_weights(path: Path, choices: Choices) -> Inspection:
    """Inspects a file without reading more than headers, its first layer and, for the hash, its bytes once.

    Raises:
        FileError: it is no weights file, or is damaged. ConfigError: wrong values in `choices`.
    """
    file = open_weights(local_path(path, "a weights file"))
    hashes = file_hashes(file.path)
    facts = {**_contents(file), "sha256": hashes[0]}
    if "model" in file.facts:
        return _own(file, facts, choices)
    known = by_hash(*hashes)
    if known is not None:
        facts["source"] = f"{known.title}, by the hash of the file"
    try:
        found = match(file, choices.net, known.model if known else None)
    except FileError as error:
        return Inspection(facts, f"{error.problem}; {error.advice}")
    facts |= _net(file, found)
    try:
        decision = decide_source(file, found, hashes, choices.source)
    except FileError as error:
        return Inspection(facts | {"source": "unknown"}, f"{error.problem}; {error.advice}")
    problem = ""
    try:
        outputs = found.model["num_classes"] - choices.drop_background
        facts["classes"] = class_names(file, outputs, choices.classes)[1]
    except FileError as error:
        problem = f"{error.problem}; {error.advice}"
    title = decision.known.title if decision.known else SOURCES[decision.source].title
    facts["source"] = f"{title}, by {decision.known_by}"
    facts["licence"] = SOURCES[decision.source].licence or "the source states none"
    facts["reads"] = decision.convention.text()
    if decision.warnings:
        facts["warning"] = "; ".join(decision.warnings)
    return Inspection(facts, problem)


def _own(file: WeightsFile, facts: dict[str, str], choices: Choices) -> Inspection:
    try:
        weights = read_own(file, choices)
    except FileError as error:
        return Inspection(facts, f"{error.problem}; {error.advice}")
    facts |= {"net": net_text(weights.model), "source": "jaxcnn"}
    mean = weights.mean.reshape(-1, 3).mean(0)
    image = " (channel means of a mean image)" if weights.mean.ndim == 3 else ""
    facts["reads"] = f"RGB, 0..255 minus ({', '.join(f'{m:g}' for m in mean)}){image}"
    return Inspection(facts)


def _contents(file: WeightsFile) -> dict[str, str]:
    values = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    kinds = ", ".join(sorted({tensor.dtype.name for tensor in file.tensors.values()}))
    inside = file.facts.get("inside")
    return {
        "format": f"{file.format}, the weights under {inside!r}" if inside else file.format,
        "bytes": f"{file.path.stat().st_size:,}",
        "arrays": f"{len(file.tensors):,} of {values:,} values, {kinds}",
    }


def _net(file: WeightsFile, found: Match) -> dict[str, str]:
    values = sum(math.prod(shape) for shape in found.shapes.values())
    facts: dict[str, Any] = {
        "net": net_text(found.model),
        "names": f"of {found.form.program}",
        "fits": f"every parameter of the net: {values:,}, from {', '.join(dtypes(file, found))}",
    }
    if found.dropped:
        reasons = sorted(set(found.dropped.values()))
        facts["left out"] = f"{len(found.dropped)} arrays: {'; '.join(reasons)}"
    if difference := graph_difference(file, build_net(found.model)):
        facts["graph"] = f"{difference}; its weights are taken, not its graph"
    return facts
