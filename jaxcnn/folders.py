"""Folders on disks and in buckets: made, proved to be writable, filled completely or not at all.

A bucket has no folders: there is one where an object's name begins with its path.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO

from jaxcnn import object_store
from jaxcnn.file_errors import FileError, WriteError, disk_advice, writing
from jaxcnn.paths import Path, file_size, is_remote

# What is read at a time of a large object, by each of some threads.
_PIECE, _THREADS = 2**24, 4


def make_folder(folder: Path) -> None:
    """Makes a folder on a disk, and those around it. Raises OSError if it cannot be made."""
    if not is_remote(folder):  # gcsfs would make the bucket
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Makes `folder`, and writes a file into it that is removed again.

    Raises:
        OSError: it cannot be made or written.
    """
    make_folder(folder)
    if not is_remote(folder):
        with tempfile.TemporaryFile(dir=folder):
            return
    probe = folder / f".jaxcnn-{secrets.token_hex(8)}"
    object_store.write_again(probe, b"")
    object_store.delete(probe)


def is_taken(path: Path) -> bool:
    """Whether there is anything at `path`, a link that leads nowhere too."""
    return path.exists() if is_remote(path) else os.path.lexists(path)


def files_in(path: Path) -> list[Path]:
    """The files in a folder and those in it, by name; `path` itself if it is a file."""
    if not path.is_dir():
        return [path]
    return [file for entry in sorted(path.iterdir()) for file in files_in(entry) if entry != path]


@contextlib.contextmanager
def atomic_output(
    path: Path, last: str = "", *, over_empty: bool = False
) -> Iterator[pathlib.Path]:
    """The path of a file or folder to make on a disk, which becomes `path` at the end. Makes the folder
    around it. In a bucket the files appear one by one.

    Args:
        last: name of the file without which the folder counts for nothing; written last into a bucket.
        over_empty: `path` may be an empty folder.

    Raises:
        FileExistsError: `path` exists; it is not overwritten.
        WriteError: `path` cannot be made.
    """
    empty = over_empty and path.is_dir() and not any(path.iterdir())
    if is_taken(path) and not empty:
        raise FileExistsError(f"{path} exists, and nothing is overwritten; give another path")
    with writing(path):
        with contextlib.suppress(FileExistsError):  # a file, where no folder can be made in it
            make_folder(path.parent)
        place = None if is_remote(path) else path.parent
        around = tempfile.TemporaryDirectory(prefix=".jaxcnn-", dir=place)
    with around as folder:
        made = pathlib.Path(folder, path.name)
        try:
            yield made
        except WriteError as error:  # of a file in it
            raise WriteError(error.errno, error.strerror, os.fspath(path)) from error
        with writing(path):
            if is_remote(path):
                _upload(made, path, last)
            else:
                os.rename(made, path)


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[pathlib.Path]:
    """A file on a disk with the content of `path`: itself, or a copy that the end of the block removes. What
    is mapped into memory by then stays.

    Raises:
        FileError: the file cannot be read. WriteError: there is no room for the copy.
    """
    if not is_remote(path):
        assert isinstance(path, pathlib.Path)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxcnn-") as folder:
        copy = pathlib.Path(folder, path.name)
        _download(path, copy)
        yield copy


def _upload(made: pathlib.Path, path: Path, last: str) -> None:
    """Copies a file, or the files in a folder, into a bucket; removes those already there at an error."""
    files = sorted(files_in(made), key=lambda file: file.name == last)
    targets = [path.joinpath(*file.relative_to(made).parts) for file in files]
    try:
        for file, target in zip(files, targets, strict=True):
            assert isinstance(file, pathlib.Path)
            with file.open("rb") as source:
                if file_size(file) <= _PIECE:
                    object_store.write_again(target, source.read())
                    continue
                _upload_pieces(source, target)
    except BaseException:
        for target in targets:
            with contextlib.suppress(OSError):
                object_store.delete(target)
        raise


def _upload_pieces(source: IO[bytes], target: Path) -> None:
    """By gcsfs, since an object of TensorStore is one request."""
    try:
        with target.open("wb") as sink:
            shutil.copyfileobj(source, sink, _PIECE)
    except OSError:
        raise
    except Exception as error:  # gcsfs' own, and those of its connections
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", os.fspath(target)) from error


def _download(path: Path, copy: pathlib.Path) -> None:
    try:
        size = file_size(path)
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", disk_advice(error)) from error

    def piece(file: int, start: int) -> None:
        try:
            data = object_store.read_again(path, start, min(start + _PIECE, size))
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise FileError(path, problem, disk_advice(error)) from error
        with writing(copy):
            os.pwrite(file, data, start)

    with copy.open("wb") as file, concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for done in [pool.submit(piece, file.fileno(), s) for s in range(0, size, _PIECE)]:
            done.result()
