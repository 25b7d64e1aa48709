"""Imported weights as a folder that everything takes like a finished run: how it is written and read.

Beside weights.safetensors it has the files of a run: config.json with the net and the mean, classes.txt, and
statistics.npz where the mean is an image; and origin.json, which says where the weights come from. Step 0 is
the only one. Training facts that nobody knows are not made up: `imported_config` says what stands for them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from jaxcnn import config as configs
from jaxcnn.data import pixel_statistics
from jaxcnn.data.classes import class_table
from jaxcnn.data.splits import NO_DATA
from jaxcnn.evaluation import read_protocol
from jaxcnn.files import FileError, exists, read_json, write_text
from jaxcnn.folders import atomic_output, local_copy
from jaxcnn.paths import Path, user_path
from jaxcnn.training import schema
from jaxcnn.training.checksums import checksum
from jaxcnn.training.run_statistics import STATISTICS_FILE
from jaxcnn.weights.formats import safetensors
from jaxcnn.weights.match import build_net, shown
from jaxcnn.weights.net_weights import Leaf, NetWeights, param_shapes
from jaxcnn.weights.stored import write_weights

WEIGHTS_FILE, ORIGIN_FILE = "weights.safetensors", "origin.json"
# The sources of Oxford's nets D and E and their conversions, which were trained at S in [256;512], as their
# readme says: rows of that S in the paper's tables are theirs.
_OXFORD = ("oxford", "keras", "frossard", "matconvnet", "toronto")
IMPORT_AGAIN = "import the weights again: jaxcnn import FILE --out=FOLDER"


def is_imported(folder: Path) -> bool:
    """Whether a folder holds imported weights, whole or not, and not a run of jaxcnn."""
    named = exists(folder / ORIGIN_FILE) or exists(folder / WEIGHTS_FILE)
    return named and not (folder / "checkpoints").exists()


def write_imported(folder: str | os.PathLike[str], weights: NetWeights) -> Path:
    """Writes weights as a folder; it appears when everything is in it. Returns its path.

    Raises:
        FileError: the folder exists and is not empty, or a parameter cannot be read.
        WriteError: it cannot be written.
    """
    folder = user_path(folder)
    try:
        with atomic_output(folder, last="config.json", over_empty=True) as part:
            part.mkdir()
            _write_files(part, weights)
    except FileExistsError as error:
        advice = "give another folder, or move it away"
        raise FileError(folder, "exists already", advice) from error
    return folder


def _write_files(folder: pathlib.Path, weights: NetWeights) -> None:
    config, sums = imported_config(weights), {}

    def summed(path: str, leaf: Leaf) -> Leaf:
        def read() -> np.ndarray:
            array = leaf.read()
            sums[path] = checksum(array)
            return array

        return dataclasses.replace(leaf, read=read)

    leaves = {path: summed(path, leaf) for path, leaf in weights.leaves.items()}
    write_weights(folder / WEIGHTS_FILE, dataclasses.replace(weights, leaves=leaves))
    if weights.mean.ndim == 3:
        image = np.asarray(weights.mean, np.float32)
        # Nobody gave the covariance; nothing but PCA lighting in a later fine-tuning would use it.
        found = pixel_statistics.Statistics(
            image.mean((0, 1), np.float64),
            pixel_statistics.IMAGENET.covariance,
            image,
            {"source": "imported with the weights", "imported": True, "side": len(image)},
        )
        pixel_statistics.save_statistics(found, folder / STATISTICS_FILE)
    configs.save_config(config, folder / "config.json")
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in weights.classes))
    origin = {**weights.origin, "checksums": sums}
    write_text(folder / ORIGIN_FILE, json.dumps(origin, indent=2) + "\n")


def imported_config(weights: NetWeights) -> dict[str, Any]:
    """The resolved config that stands for imported weights.

    The net and the mean are those of the weights, and a centre crop is the only row of evals. Oxford's were
    trained by the paper's random crops. Of others nobody knows S, the scale of training: sampling is one that
    has none ('center_crop' for a mean image), and no row of a paper's table that names an S is theirs. Data
    are ImageNet's where the classes are, else NO_DATA. Nothing reads the update rule.
    """
    side, mean = build_net(weights.model).image_size, weights.mean
    square = mean.ndim == 3
    scale = len(mean) if square else read_protocol("centre", side).all_scales()[0]
    sampling = "center_crop" if square else "random_resized_crop"
    augment: dict[str, Any] = {"sampling": sampling, "scale": (scale, scale)}
    oxford = weights.origin.get("source") in _OXFORD and weights.model.get("column") in ("D", "E")
    if oxford and not square:
        highest = (2 * 512 * side + 224) // (2 * 224)
        augment = {"sampling": "random_crop", "scale": (scale, highest)}
    if square:
        augment |= {"mean": "per_pixel", "statistics": "auto"}
    else:
        # str gives the shortest decimals of a float32.
        augment["mean"] = tuple(float(str(value)) for value in np.asarray(mean, np.float32))
    imagenet = {row.wnid for row in class_table()} <= {*weights.classes}
    return schema.resolve_config(
        {
            "seed": 0,
            "epochs": 0.0,
            "batch_size": 32,
            "model": dict(weights.model),
            "data": {"source": "tfds:imagenet2012" if imagenet else NO_DATA},
            "augment": augment,
            "optim": {"name": "momentum"},
            "schedule": {"name": "exponential", "rate": 0.001},
            "evals": ({"name": "centre", "scale": scale},),
        }
    )


def read_imported(
    folder: Path, config: Mapping[str, Any], mean: np.ndarray, classes: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    """(net, its parameters) in a folder of `write_imported`. The arrays are views of the mapped file.

    Every parameter is compared with its checksum, at the speed at which the file is read, and what belongs to
    the parameters with the header of the file: no damage, and no edit of the folder, gives other results.

    Raises:
        FileError: a file is missing or damaged, or does not fit the others.
    """
    sums, path = _read_origin(folder)["checksums"], folder / WEIGHTS_FILE
    try:
        with local_copy(path) as file:
            facts, arrays = safetensors.read(file).facts, safetensors.map_arrays(file)
    except FileError as error:
        raise FileError(path, error.problem, IMPORT_AGAIN) from error
    net = build_net(config["model"])
    shapes = param_shapes(net, train=any(name.startswith("aux_") for name in arrays))
    problems = [
        f"{name}: {list(arrays[name].shape) if name in arrays else 'missing'}, expected "
        f"{list(shapes[name]) if name in shapes else 'no such array'}"
        for name in {**shapes, **arrays}
        if name not in arrays or arrays[name].shape != shapes.get(name)
    ]
    if problems:
        text = "\n".join(["does not fit the net in config.json:", *shown(problems)])
        raise FileError(path, text, IMPORT_AGAIN)
    model = {key: config["model"].get(key) for key in facts.get("model", {})}
    agree = {
        "net": model == facts.get("model"),
        "mean": np.array_equal(mean, np.asarray(facts.get("mean"), np.float32)),
        "classes": list(classes) == facts.get("classes"),
    }
    if wrong := [what for what, same in agree.items() if not same]:
        problem = f"was written for another {' and other '.join(wrong)} than the folder has"
        raise FileError(path, problem, IMPORT_AGAIN)
    damaged = [name for name, array in arrays.items() if sums.get(name) != checksum(array)]
    if damaged:
        text = "\n".join(["has other bytes than were written, in", *shown(damaged)])
        raise FileError(path, text, IMPORT_AGAIN)
    return net, unflatten_dict(arrays, sep="/")


def read_origin(folder: Path) -> dict[str, Any]:
    """Where the weights in a folder come from. Raises FileError."""
    return {key: fact for key, fact in _read_origin(folder).items() if key != "checksums"}


def _read_origin(folder: Path) -> dict[str, Any]:
    return read_json(folder / ORIGIN_FILE, {"checksums": dict}, advice=IMPORT_AGAIN)


def imported_mean(folder: Path, config: Mapping[str, Any]) -> np.ndarray:
    """The mean of the weights in a folder: float32[3], or a mean image float32[S,S,3]. Raises FileError."""
    mean = config["augment"]["mean"]
    if mean != "per_pixel":
        return np.asarray(mean, np.float32)
    path = folder / STATISTICS_FILE
    found = pixel_statistics.load_statistics(path).mean_image
    if found is None or len(found) != config["augment"]["scale"][0]:
        raise FileError(path, "holds no mean image of the config's scale", IMPORT_AGAIN)
    return found
