"""Prepares ImageNet (ILSVRC 2012) from its two tar files as a TFDS data set."""

import hashlib
import shutil
import warnings
from collections.abc import Mapping
from typing import NamedTuple

from jaxcnn.data.errors import DataError
from jaxcnn.data.preparation.upload import prepared_in
from jaxcnn.data.sources.tfds_metadata import TFRECORD, find_in_format
from jaxcnn.data.tensorflow import load_tfds
from jaxcnn.paths import Path, file_size, is_remote, local_path
from jaxcnn.printable import say

NAME, VERSION = "imagenet2012", "5.1.0"


class Tar(NamedTuple):  # as published
    size: int
    sha256: str


TARS: Mapping[str, Tar] = {
    "ILSVRC2012_img_train.tar": Tar(
        147_897_477_120, "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb"
    ),
    "ILSVRC2012_img_val.tar": Tar(
        6_744_924_160, "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0"
    ),
}


def check_tars(folder: Path, expected: Mapping[str, Tar] = TARS, *, checksums: bool) -> None:
    """Checks names and sizes, and with `checksums` (about an hour) the SHA-256.

    Raises:
      DataError: lists all problems.
    """
    problems = []
    for name, tar in expected.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"no file {path}")
        elif file_size(path) != tar.size:
            problems.append(f"{path} has {file_size(path):,} bytes, expected {tar.size:,}")
        elif checksums and _sha256(path) != tar.sha256:
            problems.append(f"{path} has the right size but not the SHA-256 {tar.sha256}")
    if problems:
        raise DataError(
            f"{'; '.join(problems)}; register at https://image-net.org/download-images, download "
            f"{' and '.join(expected)} in full, leave them packed, and name their folder with "
            "--tars=DIR"
        )


def check_disk(data_dir: Path, needed: int, option: str = "--data_dir") -> None:
    """Raises a DataError if the disk of `data_dir`, has less than `needed` bytes free; `option`
    names another."""
    place = next(p for p in [data_dir.absolute(), *data_dir.absolute().parents] if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DataError(
            f"{place} has {free / 1e9:.0f} GB free, the prepared data set needs "
            f"{needed / 1e9:.0f} GB in addition to the tars; free some, or name another disk with "
            f"{option}=DIR"
        )


def prepare_imagenet(
    tars: Path,
    data_dir: Path,
    expected: Mapping[str, Tar] = TARS,
    *,
    checksums: bool = False,
    file_format: str = "",
) -> Path:
    """Writes the data set under `data_dir` if it is not there; returns its folder.

    `file_format` is tfrecord, also if it is '', or array_record; '' takes what is there.

    TFDS writes into a temporary folder and renames it at the end. An interrupted run leaves nothing that
    looks like the data set; the next run starts from the beginning.

    Raises:
      DataError: a tar is missing or wrong, or the disk is too small.
    """
    found = find_in_format(f"{NAME}:{VERSION}", data_dir, file_format)
    if found is not None:
        say(f"{NAME} is already prepared in {found}")
        return found
    tars = local_path(tars, "the folder of the tars")
    check_tars(tars, expected, checksums=checksums)
    size = sum(tar.size for tar in expected.values())
    with prepared_in(data_dir, NAME) as local:
        check_disk(local, size, "TMPDIR" if is_remote(data_dir) else "--data_dir")
        _prepare(tars, local, size, file_format)
    return data_dir / NAME / VERSION


def _prepare(tars: Path, data_dir: Path, size: int, file_format: str) -> None:
    for entry in sorted((data_dir / NAME).glob("*incomplete*")):
        say(f"{entry} was left by an interrupted run and can be deleted")
    # Four passes: read the tars, write and read the shuffle's files, write the records.
    say(
        f"preparing {NAME} in {data_dir}: {size / 1e9:.0f} GB of records in addition to the tars; "
        f"{4 * size / 1e9:.0f} GB of disk traffic, {4 * size / 1e8 / 3600:.1f} hours at 100 MB/s"
    )
    tfds = load_tfds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder = tfds.builder(f"{NAME}:{VERSION}", data_dir=str(data_dir))
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=str(tars.absolute())),
            file_format=file_format or TFRECORD,
        )


def _sha256(path: Path) -> str:
    say(f"reading {path} to check its SHA-256")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
