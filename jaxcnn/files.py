"""Files of jaxcnn's own: written completely or not at all, in UTF-8 whatever the locale says."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file to write that replaces `path` at the end, so that no other process sees half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 with `atomic_file`: a kill leaves the old content or the new one."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes a .npz with `atomic_file`. Makes the folder. Raises OSError if it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
