"""Where TFDS's prepared data sets are, and what their metadata say."""

import contextlib
import pathlib
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from jaxcnn.data.errors import DataError
from jaxcnn.data.sources.array_record_files import ARRAY_RECORD, load_array_record
from jaxcnn.data.sources.shard_files import list_bucket_folder
from jaxcnn.data.tensorflow import load_tfds
from jaxcnn.files import read_bytes
from jaxcnn.paths import Path, is_remote

METADATA_FILE = "dataset_info.json"
TFRECORD = "tfrecord"
FILE_FORMATS = TFRECORD, ARRAY_RECORD
_METADATA = (".json", ".txt")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_NAME = re.compile(r"[a-z][a-z0-9_]*(?:/[A-Za-z0-9_.+-]+)?(?::\d+\.\d+\.\d+)?")


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """Returns the folder of the newest prepared version of `name` (or of its version), or None."""
    if not _NAME.fullmatch(name):
        raise DataError(
            f"tfds:{name} is not a data set's name: expected NAME, NAME/CONFIGURATION or "
            "NAME:VERSION, for example tfds:imagenet2012 or tfds:imagenet2012:5.1.0"
        )
    base, _, version = name.partition(":")
    names = filter(_VERSION.fullmatch, _names(data_dir / base))
    newest_first = sorted(names, key=lambda one: [int(n) for n in one.split(".")], reverse=True)
    for folder in (data_dir / base / one for one in newest_first if one == (version or one)):
        if METADATA_FILE in _names(folder):
            return folder
    return None


def _names(folder: Path) -> Iterable[str]:
    """The names in a folder; none if there is no such folder."""
    if is_remote(folder):
        return list_bucket_folder(folder)
    # Not a glob, which takes a folder that may not be read for an empty one.
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def find_in_format(name: str, data_dir: Path, file_format: str) -> Path | None:
    """As `find_prepared`, of a data set that is to be stored as `file_format`; '' is any that is supported.

    Raises:
      DataError: it is stored in another format, or the package for `file_format` is missing. TFDS keeps one
        format in a `data_dir`, and takes what is there whatever format it is asked for.
    """
    if file_format == ARRAY_RECORD:
        load_array_record()
    found = find_prepared(name, data_dir)
    if found is not None and file_format:
        stored = read_metadata(found).file_format.value
        if stored != file_format:
            raise DataError(
                f"{name} is already prepared in {found} as {stored}, and a folder holds it in one format; "
                f"use it as it is, or name another folder with --data_dir=DIR to store it as {file_format}"
            )
    return found


def read_metadata(folder: Path) -> Any:
    """Returns TFDS's description of a prepared data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _on_disk(folder) as local:
                info = load_tfds().builder_from_directory(str(local)).info
        except DataError:
            raise
        except Exception as error:  # TFDS raises many types on damaged metadata
            raise DataError(
                f"the metadata of the data set in {folder} cannot be read ({error}); copy or "
                "prepare it again"
            ) from error
    if info.file_format.value not in FILE_FORMATS:
        raise DataError(
            f"the data set in {folder} is stored as {info.file_format.value}; only "
            f"{' and '.join(FILE_FORMATS)} are supported; prepare it again in another --data_dir"
        )
    return info


@contextlib.contextmanager
def _on_disk(folder: Path) -> Iterator[Path]:
    """A local folder with the metadata of a data set, since TFDS does not try again after errors of a
    bucket."""
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jaxcnn-") as temporary:
        local = pathlib.Path(temporary, *folder.parts[-2:])
        local.mkdir(parents=True)
        for name in list_bucket_folder(folder):
            if name.endswith(_METADATA):
                content = read_bytes(folder / name, advice="copy or prepare the data set again")
                (local / name).write_bytes(content)
        yield local
