"""Posterior files of a whole split, and their mean over protocols, scales and nets."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from jaxcnn.evaluation.metrics import Result, Tally
from jaxcnn.files import FileError, parse_json, read_arrays, write_arrays
from jaxcnn.paths import Path, user_path

# Earlier versions saved float16, whose smallest number is 2**-24; a zero counts as half of it.
_SMALLEST_HALF = 2.0**-25
ARRAYS = {
    "ids": (np.integer, "n"),
    "labels": (np.integer, "n"),
    "values": ((np.float16, np.float32), "n", "K"),
    "facts": (np.str_,),
}
FACTS = {"classes": str, "protocol": str, "split": str, "run?": str, "step?": int}
_ROWS = 1024  # averaged at once, so that the posteriors of a split are never held in float64


_LOGGER = logging.getLogger(__name__)


class PosteriorsError(ValueError):
    """Posteriors cannot be averaged; the message says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Posteriors:
    """The posteriors of every image of a split.

    Attributes:
        ids: of the images in the split, ascending.
        labels: -1 where unknown.
        values: one row per image.
        classes: SHA-256 of the class names, ordered by label.
        facts: JSON values: protocol, split and, where known, net and run.
    """

    ids: Int32[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]
    values: Float32[np.ndarray, "n K"]
    classes: str
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Run, step and protocol, as far as they are known."""
        step = f"step {self.facts['step']}" if "step" in self.facts else ""
        words = (self.facts.get("run", ""), step, self.facts["protocol"])
        return " ".join(word for word in words if word)


def file_name(protocol: str, split: str, step: int, images: str = "") -> str:
    """File name of a protocol's posteriors: `dense_256_288.validation.step_900.npz`; with the digest of the
    images if they are not those of the run."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", protocol).strip("_")
    return ".".join(filter(None, (name, split.replace("/", "%2F"), f"step_{step}", images, "npz")))


def save_posteriors(posteriors: Posteriors, path: Path) -> None:
    """Writes a .npz file atomically."""
    write_arrays(
        path,
        ids=posteriors.ids,
        labels=posteriors.labels,
        values=posteriors.values,
        facts=np.array(json.dumps({**posteriors.facts, "classes": posteriors.classes})),
    )


def load_posteriors(path: str | Path) -> Posteriors:
    """Reads what `save_posteriors` wrote.

    Raises:
        FileError: the file is missing, damaged, or something else.
    """
    path = user_path(path)
    advice = "make it again: jaxcnn evaluate --workdir=RUN --protocol=NAME --save_posteriors"
    found = read_arrays(path, ARRAYS, advice=advice)
    text, values = found["facts"].item(), found["values"]
    facts = parse_json(text, FACTS, path=path, advice=advice, where="facts")
    if not len(values):
        raise FileError(path, "holds no posteriors", advice)
    if values.dtype == np.float16:
        _LOGGER.warning(
            "%s holds float16, as an earlier version saved posteriors, so its error rates may differ from "
            "those in report.json; to %s",
            path,
            advice,
        )
        values = np.maximum(values.astype(np.float32), np.float32(_SMALLEST_HALF))
    ids, labels = (found[name].astype(np.int32) for name in ("ids", "labels"))
    return Posteriors(ids, labels, values, facts.pop("classes"), facts)


def average_posteriors(posteriors: Sequence[Posteriors]) -> Posteriors:
    """The mean, in float64 and with equal weights (Simonyan & Zisserman 2014, sections 4.2 to 4.4).

    Raises:
        PosteriorsError: they are of different images or classes; the message names both.
    """
    if not posteriors:
        raise PosteriorsError("no posteriors to average: name one file or more")
    first = posteriors[0]
    for other in posteriors[1:]:
        _check_alike(first, other)
    values = np.empty_like(first.values)
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        values[rows] = np.mean([one.values[rows] for one in posteriors], axis=0, dtype=np.float64)
    facts = {
        "protocol": " + ".join(one.name for one in posteriors),
        "split": first.facts["split"],
        "mean_of": [dict(one.facts) for one in posteriors],
    }
    return Posteriors(first.ids, first.labels, values, first.classes, facts)


def error_rates(posteriors: Sequence[Posteriors]) -> Result:
    """Error rates of `average_posteriors`; of a single file, exactly those of its evaluation."""
    mean, tally = average_posteriors(posteriors), Tally()
    tally.add(mean.values, mean.labels)
    return tally.result(mean.facts["protocol"], mean.facts["split"], len(mean.ids))


def _check_alike(first: Posteriors, other: Posteriors) -> None:
    classes = first.values.shape[1], other.values.shape[1]
    splits, counts = (
        [p.facts["split"] for p in (first, other)],
        [len(p.ids) for p in (first, other)],
    )
    problem = ""
    if classes[0] != classes[1]:
        problem = f"they have {classes[0]} and {classes[1]} classes"
    elif first.classes != other.classes:
        problem = f"both have {classes[0]} classes, but different ones"
    elif splits[0] != splits[1] or counts[0] != counts[1]:
        one, two = (f"split {s} with {n}" for s, n in zip(splits, counts, strict=True))
        problem = f"they are of {one} images and of {two}"
    elif not (np.array_equal(first.ids, other.ids) and np.array_equal(first.labels, other.labels)):
        problem = f"both are of {counts[0]} images of split {splits[0]}, but of different ones"
    if problem:
        raise PosteriorsError(f"{first.name!r} and {other.name!r} cannot be averaged: {problem}")
