"""Files of jaxcnn's own: written completely or not at all, read with an error that names the file.

Text is UTF-8 whatever the locale says. Whatever the content of a file is, its reader returns what was
expected or raises `FileError`; whatever the disk does, its writer writes the file or raises `WriteError`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from jaxcnn import object_store
from jaxcnn.file_errors import FileError, WriteError, disk_advice, system_error, writing
from jaxcnn.file_shapes import Arrays, Shape, arrays_misfit, is_deep, misfit
from jaxcnn.folders import make_folder
from jaxcnn.paths import Path, is_remote

__all__ = [
    "FileError", "WriteError", "atomic_file", "copy_file", "disk_advice", "exists",
    "parse_json", "read_arrays", "read_bytes", "read_json", "read_lines", "read_text", "remove", "set_aside",
    "system_error", "write_arrays", "write_figure", "write_text", "writing",
]  # fmt: skip

# No file that is read whole is larger; metrics.jsonl has 250 bytes an event.
_LARGEST = 2**31
# What is written to a bucket is on a disk until it is complete, if it is larger.
_IN_MEMORY = 2**24


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file to write that replaces `path` at the end, so that no other process sees half of it.

    Raises:
        WriteError: it cannot be written; `path` is as before.
    """
    if is_remote(path):
        with writing(path), tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
            yield file
            file.seek(0)
            object_store.write_again(path, file.read())
        return
    with writing(path), tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 with `atomic_file`: a kill leaves the old content or the new one."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_arrays(path: Path, *, compressed: bool = False, **arrays: np.ndarray) -> None:
    """Writes a .npz with `atomic_file`. Makes the folder. Raises WriteError if it cannot be written."""
    save = np.savez_compressed if compressed else np.savez
    with writing(path):
        make_folder(path.parent)
    with atomic_file(path) as file:
        save(file, **arrays)  # pyright: ignore[reportArgumentType]


def copy_file(path: Path, to: Path) -> None:
    """Copies a file with `atomic_file`. Raises FileError if it cannot be read."""
    content = read_bytes(path, advice="run the command that writes it")
    with atomic_file(to) as file:
        file.write(content)


def write_figure(path: Path, figure: Any, **options: Any) -> None:
    """Writes a Matplotlib figure as a PNG with `atomic_file`."""
    with atomic_file(path) as file:
        figure.savefig(file, format="png", **options)


def set_aside(path: Path) -> Path:
    """Renames a damaged file to NAME.damaged, or NAME.damaged-2 and so on; returns the new path."""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(aside) or exists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    with writing(aside):
        if is_remote(path):
            object_store.write_again(aside, object_store.read_again(path))
            object_store.delete(path)
        else:
            path.rename(aside)
    return aside


def exists(path: Path) -> bool:
    """Whether there is a file, or on a disk a folder. Raises OSError if object storage does not say."""
    if not is_remote(path):
        return path.exists()
    try:
        object_store.read_again(path, 0, 1)
    except FileNotFoundError:
        return False
    return True


def remove(path: Path) -> None:
    """Deletes a file, if there is one. Raises WriteError."""
    with writing(path):
        if is_remote(path):
            object_store.delete(path)
        else:
            path.unlink(missing_ok=True)


def read_bytes(path: Path, *, advice: str) -> bytes:
    """The content of a file. This and the other readers raise FileError."""
    with _opened(path, advice) as file:
        return file.read()


def read_text(path: Path, *, advice: str) -> str:
    """The text of a UTF-8 file, line breaks as they are."""
    return _decode(read_bytes(path, advice=advice), path, advice)


def read_lines(path: Path, *, advice: str) -> tuple[str, ...]:
    """The lines of a text file, which ends with a line break. Only '\\n' breaks a line."""
    text = read_text(path, advice=advice)
    if not text.strip():
        raise FileError(path, "is empty", advice)
    if not text.endswith("\n"):
        raise FileError(path, "is cut short: its last line has no line break", advice)
    return tuple(text[:-1].split("\n"))


def read_json(path: Path, expect: Shape = object, *, advice: str) -> Any:
    """The value in a JSON file, of the shape `expect`."""
    return parse_json(read_bytes(path, advice=advice), expect, path=path, advice=advice)


def parse_json(
    data: bytes | str, expect: Shape, *, path: Path, advice: str, where: str = ""
) -> Any:
    """The value of JSON text in a file; `where` names its place in it, such as 'line 3'."""

    def wrong(problem: str) -> FileError:
        return FileError(path, f"({where}) {problem}" if where else problem, advice)

    text = data if isinstance(data, str) else _decode(data, path, advice, where)
    if not text.strip():
        raise wrong("is empty")
    try:
        value = json.loads(text, object_pairs_hook=_without_repeated_keys)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        raise wrong(f"is {'cut short' if at_end else 'not JSON'}: {error}") from error
    except RecursionError:
        raise wrong("is nested too deeply") from None
    except ValueError as error:  # a repeated key, or a number of 5,000 digits
        raise wrong(f"is not valid: {error}") from error
    if is_deep(value):
        raise wrong("is nested too deeply")
    if problem := misfit(value, expect, ""):
        raise wrong(f"is not valid: {problem}")
    return value


def read_arrays(path: Path, expect: Arrays, *, advice: str) -> dict[str, np.ndarray]:
    """The arrays `expect` of a .npz file; one whose name ends in '?' may be missing."""
    found: dict[str, np.ndarray] = {}
    with _opened(path, advice) as raw:
        try:
            with np.lib.npyio.NpzFile(raw, allow_pickle=False) as file:
                for name in (name.removesuffix("?") for name in expect):
                    if name in file:
                        found[name] = file[name]
        except Exception as error:  # NumPy, zipfile and zlib raise a dozen types on damaged files
            text = str(error) or type(error).__name__
            raise FileError(path, f"is not a readable .npz file ({text})", advice) from error
    if problem := arrays_misfit(found, expect):
        raise FileError(path, f"is not valid: {problem}", advice)
    return found


def _decode(data: bytes, path: Path, advice: str, where: str = "") -> str:
    place = f"({where}) " if where else ""
    if b"\0" in data:
        problem = f"{place}has zero bytes, which a crash of the machine may leave"
        raise FileError(path, problem, advice)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FileError(path, f"{place}is not UTF-8 (byte {error.start:,})", advice) from error


@contextlib.contextmanager
def _opened(path: Path, advice: str) -> Iterator[IO[bytes]]:
    try:
        if is_remote(path):
            yield io.BytesIO(object_store.read_again(path))
            return
        # Opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileError(path, "is not a regular file", advice)
            if status.st_size > _LARGEST:
                raise FileError(path, f"has {status.st_size:,} bytes, too many to be true", advice)
            yield file
    except FileNotFoundError:
        raise FileError(path, "is missing", advice) from None
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", disk_advice(error)) from error


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(k for k in keys if keys.count(k) > 1)!r} is there twice")
    return found
