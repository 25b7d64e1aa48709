"""What a net of a weights file reads: from a fingerprint or from the user, never from a guess."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.files import FileError
from jaxcnn.weights.fingerprints import Known, by_first_layer, by_hash, channel_order
from jaxcnn.weights.folding import Convention
from jaxcnn.weights.sources import SOURCES, sources_of

# The order of the channels in the files of a program.
ORDERS = {
    "caffe": "BGR", "caffe2": "BGR", "keras": "BGR", "toronto": "BGR",
    "frossard": "RGB", "matconvnet": "RGB", "mxnet": "RGB", "slim": "RGB", "timm": "RGB",
    "torchvision": "RGB",
}  # fmt: skip

# Programs whose files hold weights of other programs, too, with the channels as they were there.
_OF_ANY_SOURCE = ("torchvision", "timm", "onnx")
BY_HASH = "the hash of the file"


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a net reads, and how that is known.

    Attributes:
        convention: what it reads.
        source: a key of SOURCES.
        known_by: BY_HASH, 'the first values of conv1' or '--source'.
        known: the weights, if a fingerprint shows them.
        warnings: what is unusual in the file.
    """

    convention: Convention
    source: str
    known_by: str
    known: Known | None = None
    warnings: tuple[str, ...] = ()


def recognise(bias: np.ndarray, sha256: str, sha1: str) -> tuple[Known | None, str]:
    """(the weights that a fingerprint shows, how)."""
    if known := by_hash(sha256, sha1):
        return known, BY_HASH
    known = by_first_layer(bias)
    return known, "the first values of conv1" if known else ""


def decide(
    path: Path,
    program: str,
    net: str,
    first_kernel: np.ndarray,
    recognised: tuple[Known | None, str],
    source: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Decision:
    """What the net of a file reads.

    Args:
        path: of the file, for errors.
        program: of the form that fits.
        net: a key of NETS.
        first_kernel: (H, W, 3, O), channels as in the file.
        recognised: of `recognise`.
        source: what the user says; '' for nothing.
        facts: of the file; its own 'mean' is used for MatConvNet's.

    Raises:
        FileError: nothing shows the source, or the user's contradicts the fingerprint.
    """
    known, how = recognised
    if source and net not in SOURCES[source].conventions:
        raise FileError(
            path, f"holds {net}, and {source} has none", f"give --source={_candidates(net)}"
        )
    said = _of_source(source, net, facts) if source else None
    if known is not None:
        return _decide_known(path, program, net, first_kernel, (known, how), said)
    if said is None:
        raise FileError(
            path,
            "does not say what its net reads (RGB or BGR, which mean, which scale), and is none of the "
            f"released files that are known by their values; {_usual(program)}",
            f"say where the weights come from: --source={_candidates(net)}",
        )
    return Decision(said, source, "--source")


def _decide_known(
    path: Path,
    program: str,
    net: str,
    first_kernel: np.ndarray,
    recognised: tuple[Known, str],
    said: Convention | None,
) -> Decision:
    """What known weights read; the order of the channels is the file's."""
    known, how = recognised
    found = SOURCES[known.source].conventions[net]
    order = channel_order(known, first_kernel[0, 0, :, 0])
    if known.kernel and not order:
        raise FileError(
            path,
            f"has the conv1 biases of {known.title}, but not its kernel: kernels were scaled, transposed, "
            "or moved to other channels",
            "take the released file, or convert it again",
        )
    usual = ORDERS.get(program, "") if program not in _OF_ANY_SOURCE else ""
    if not order and how == BY_HASH:
        order = found.order
    elif not order:  # the user knows better than what is usual
        order = said.order if said is not None else usual
    if not order:
        raise FileError(
            path,
            f"holds {known.title} ({how}), but nothing shows the order of its channels",
            f"say where the file comes from: --source={_candidates(net)}",
        )
    convention = dataclasses.replace(found, order=order)
    if said is not None and not _same(said, convention):
        raise FileError(
            path,
            f"holds {known.title} ({how}), which reads {convention.text()}; the --source that was given "
            f"reads {said.text()}",
            "leave --source out",
        )
    warnings = []
    usual = ORDERS.get(program, order)
    if order != usual:
        warnings.append(
            f"conv1 has the channels in the order {order}; files of {program} usually have {usual}. "
            f"Imported as {order}"
        )
    return Decision(convention, known.source, how, known, tuple(warnings))


def _of_source(source: str, net: str, facts: Mapping[str, Any] | None) -> Convention:
    convention = SOURCES[source].conventions[net]
    mean = (facts or {}).get("mean")
    if source != "matconvnet" or mean is None:
        return convention
    channels = np.asarray(mean, np.float64).reshape(-1, 3).mean(0)
    return dataclasses.replace(convention, mean=tuple(map(float, channels)))


def _same(one: Convention, other: Convention) -> bool:
    close = np.allclose(one.mean, other.mean, atol=0.5) and np.allclose(one.divisor, other.divisor)
    return one.order == other.order and close


def _candidates(net: str) -> str:
    return "|".join(sources_of(net))


def _usual(program: str) -> str:
    order = ORDERS.get(program)
    return (
        f"files of {program} usually have {order}" if order else "its program says nothing either"
    )
