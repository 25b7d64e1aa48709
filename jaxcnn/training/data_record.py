"""data.npz: the fingerprints of the images that a run is trained and evaluated on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxcnn.data import DataSplits
from jaxcnn.data.fingerprint import Fingerprint, differences, take_fingerprint, whole
from jaxcnn.files import FileError, exists, read_arrays, read_json, write_arrays, write_text
from jaxcnn.paths import Path
from jaxcnn.training.run_files import read_starts

DATA_FILE = "data.npz"
# Accepted changes of the data, from when data.npz is written to when run.json has them: an interrupted start
# does not lose them.
PENDING_FILE = "accepted_changes.json"
# By use: the whole training split, with the images that are held out, and the split to report on.
Fingerprints = Mapping[str, Fingerprint]
_USES = ("train", "evaluation")
_ADVICE = "move it away, then the run writes it again"
_COLUMNS = {"names": np.bytes_, "labels": np.int32, "sizes": np.int64, "checksums": np.uint32}


def take_fingerprints(
    data: DataSplits, check_stop: Callable[[], None] = lambda: None
) -> Fingerprints:
    """The fingerprints of both splits."""
    sources = whole(data.train), data.evaluation
    return {
        use: take_fingerprint(source, check_stop)
        for use, source in zip(_USES, sources, strict=True)
    }


def recorded_digests(folder: Path) -> dict[str, str]:
    """The digests of the run's data by use: those of data.npz or, if it cannot be read, of run.json. {} for
    runs of earlier versions."""
    try:
        found = read_arrays(folder / DATA_FILE, {"digests": (np.bytes_, 2)}, advice=_ADVICE)
        return dict(zip(_USES, map(bytes.decode, found["digests"].tolist()), strict=True))
    except FileError:
        starts = read_starts(folder / "run.json")
        return dict(starts[-1].get("data", {})) if starts else {}


def write_fingerprints(folder: Path, found: Fingerprints) -> None:
    """Writes data.npz, unless it is there. It has about 6 bytes an image."""
    digests = np.array([found[use].digest.encode() for use in _USES])
    try:
        before = read_arrays(folder / DATA_FILE, {"digests": (np.bytes_, 2)}, advice=_ADVICE)
        if np.array_equal(before["digests"], digests):
            return
    except FileError:
        pass
    arrays = {f"{use}_{name}": a for use in _USES for name, a in found[use].columns().items()}
    write_arrays(folder / DATA_FILE, compressed=True, digests=digests, **arrays)


def write_pending(folder: Path, digests: Mapping[str, str], accepted: Sequence[str]) -> None:
    """Keeps accepted changes for the next start, should this one end before it is recorded."""
    content = {"digests": dict(digests), "accepted": list(accepted)}
    write_text(folder / PENDING_FILE, json.dumps(content, indent=2) + "\n")


def pending_changes(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """The changes that an earlier start accepted and did not record, if the data are still the same."""
    path = folder / PENDING_FILE
    if not exists(path):
        return []
    advice = "move it away; changes of the data that it names were accepted and are not recorded"
    found = read_json(path, {"digests": dict, "accepted": [str]}, advice=advice)
    return found["accepted"] if found["digests"] == dict(digests) else []


def changes(folder: Path, found: Fingerprints, data: DataSplits) -> list[str]:
    """The first differences between the data of the run in `folder` and today's, `found`; [] if there are
    none, or if the run has no record."""
    recorded, lines = recorded_digests(folder), []
    names = {"train": "training split", "evaluation": f"evaluation split {data.eval_split}"}
    for use, new in found.items():
        if recorded.get(use, new.digest) == new.digest:
            continue
        what = names[use]
        try:
            old = _read(folder / DATA_FILE, use)
        except FileError as error:
            lines.append(f"{what}: not the same images; their differences are unknown: {error}")
            continue
        if len(old.names) != len(new.names):
            lines.append(f"{what}: {len(new.names):,} images, was {len(old.names):,}")
        found_lines = differences(old, new, data.class_names)
        lines += [f"{what}: {line}" for line in found_lines]
    return lines


def _read(path: Path, use: str) -> Fingerprint:
    sizes = dict.fromkeys(_COLUMNS, "n") | {"checksums": "m"}
    expect = {f"{use}_{name}": (kind, sizes[name]) for name, kind in _COLUMNS.items()}
    arrays = read_arrays(path, expect, advice=_ADVICE)
    return Fingerprint(**{name: arrays[f"{use}_{name}"] for name in _COLUMNS})
