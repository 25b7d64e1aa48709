"""Posteriors of a whole split as a file, and their mean over protocols, scales and nets."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Int32

from jaxcnn.data.archive import write_arrays
from jaxcnn.evaluation.metrics import Result, Tally

# float16's smallest number is 2**-24; what is rounded to 0 counts as half of it in the loss.
_SMALLEST = 2.0**-25
_ROWS = 1024  # at once, so that a split's posteriors are never there in float64


class PosteriorsError(ValueError):
    """Posteriors that cannot be read or averaged; says what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Posteriors:
    """The posteriors of every image of a split.

    Attributes:
        ids: positions in the split, rising.
        labels: -1 where not known.
        values: a row an image, rounded to float16.
        classes: SHA-256 of the class names, by label.
        facts: JSON values: protocol, split, and what is known of net and run.
    """

    ids: Int32[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]
    values: Float16[np.ndarray, "n K"]
    classes: str
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is, for a reader: run, step and protocol, as far as they are known."""
        step = f"step {self.facts['step']}" if "step" in self.facts else ""
        words = (self.facts.get("run", ""), step, self.facts["protocol"])
        return " ".join(word for word in words if word)


def digest(class_names: Sequence[str]) -> str:
    """SHA-256 of class names in the order of their labels."""
    return hashlib.sha256("\n".join(class_names).encode()).hexdigest()


def file_name(protocol: str, split: str, step: int) -> str:
    """`dense_256_288.validation.step_900.npz` of protocol `dense(256,288)`."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', protocol).strip('_')}.{split}.step_{step}.npz"


def save_posteriors(posteriors: Posteriors, path: Path) -> None:
    """Writes a .npz, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_arrays(
        path,
        ids=posteriors.ids,
        labels=posteriors.labels,
        values=posteriors.values,
        facts=np.array(json.dumps({**posteriors.facts, "classes": posteriors.classes})),
    )


def load_posteriors(path: str | Path) -> Posteriors:
    """What `save` wrote.

    Raises:
        PosteriorsError: the file is missing, or holds no posteriors.
    """
    try:
        if Path(path).exists() and not zipfile.is_zipfile(path):
            raise ValueError("it is a folder" if Path(path).is_dir() else "it is no .npz archive")
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            ids, labels, values = (file[name] for name in ("ids", "labels", "values"))
            facts = dict(json.loads(file["facts"].item()))
        classes = facts.pop("classes")
        if not {"protocol", "split"} <= facts.keys():
            raise ValueError("protocol or split is not said")
        if values.dtype != np.float16 or values.ndim != 2 or not len(values):
            raise ValueError(f"values are {values.dtype}{list(values.shape)}")
        if not ids.shape == labels.shape == values.shape[:1]:
            raise ValueError(f"{len(ids)} ids, {len(labels)} labels, {len(values)} posteriors")
        return Posteriors(ids.astype(np.int32), labels.astype(np.int32), values, classes, facts)
    except FileNotFoundError:
        raise PosteriorsError(
            f"there is no file of posteriors {path}; make it: python -m jaxcnn.cli.evaluate "
            "--workdir=RUN --protocol=NAME --save_posteriors"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise PosteriorsError(
            f"{path} is no readable file of posteriors ({error}); make it again: "
            "python -m jaxcnn.cli.evaluate --workdir=RUN --protocol=NAME --save_posteriors"
        ) from error


def average_posteriors(several: Sequence[Posteriors]) -> Posteriors:
    """The mean of posteriors with equal weights (Simonyan & Zisserman 2014, sections 4.2 to 4.4).

    Raises:
        PosteriorsError: they are not of the same images and classes; both are named.
    """
    if not several:
        raise PosteriorsError("no posteriors to average: name one file or more")
    first = several[0]
    for other in several[1:]:
        _check_alike(first, other)
    total = np.zeros(first.values.shape, np.float32)
    for one in several:
        total += one.values
    facts = {
        "protocol": first.name if len(several) == 1 else " + ".join(one.name for one in several),
        "split": first.facts["split"],
        "mean_of": [dict(one.facts) for one in several],
    }
    values = (total / len(several)).astype(np.float16)
    return Posteriors(first.ids, first.labels, values, first.classes, facts)


def error_rates(several: Sequence[Posteriors]) -> Result:
    """Error rates of the mean of posteriors, which is not rounded again.

    Raises:
        PosteriorsError: as for `fuse`.
    """
    if not several:
        raise PosteriorsError("no posteriors to average: name one file or more")
    first, tally = several[0], Tally()
    for other in several[1:]:
        _check_alike(first, other)
    for start in range(0, len(first.ids), _ROWS):
        rows = slice(start, start + _ROWS)
        mean = np.mean([one.values[rows].astype(np.float64) for one in several], axis=0)
        tally.add(np.log(np.maximum(mean, _SMALLEST)), first.labels[rows])
    name = " + ".join(one.name for one in several)
    return tally.result(name, first.facts["split"], len(first.ids))


def _check_alike(first: Posteriors, other: Posteriors) -> None:
    pair = f"{first.name!r} and {other.name!r} cannot be averaged"
    classes = first.values.shape[1], other.values.shape[1]
    if classes[0] != classes[1]:
        raise PosteriorsError(f"{pair}: they are of {classes[0]} and {classes[1]} classes")
    if first.classes != other.classes:
        raise PosteriorsError(f"{pair}: both have {classes[0]} classes, but not the same ones")
    splits = first.facts["split"], other.facts["split"]
    if splits[0] != splits[1] or len(first.ids) != len(other.ids):
        raise PosteriorsError(
            f"{pair}: they are of split {splits[0]} with {len(first.ids)} images and of split "
            f"{splits[1]} with {len(other.ids)}"
        )
    if not (np.array_equal(first.ids, other.ids) and np.array_equal(first.labels, other.labels)):
        raise PosteriorsError(
            f"{pair}: both are of {len(first.ids)} images of split {splits[0]}, but not of the same ones"
        )
