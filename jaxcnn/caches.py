"""Where libraries keep caches. Each cache is optional: without a home folder that can be written, as in a
container that runs under another user, the caches are temporary, or there are none."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import tempfile
from pathlib import Path

from jaxcnn.paths import cache_folder, home_folder


@functools.cache
def use_writable_caches() -> None:
    """Gives libraries a temporary folder if the user's folder for caches cannot be written; says so once.

    Call it before numba, matplotlib or Keras is imported. Without a home folder some of them make a folder
    whose name is `~`, and matplotlib raises.
    """
    usual = cache_folder()
    caches = usual if usual and _writable(usual) else temporary_folder()
    if usual is None or caches is not usual:
        kept = f"they are in {caches} until this process ends" if caches else "there are none"
        logging.getLogger(__name__).warning(
            "cannot write to the folder for caches %s: %s, and each start compiles the image resize again; "
            "to keep them name a folder: XDG_CACHE_HOME=DIR", usual or "~/.cache", kept
        )  # fmt: skip
    try:
        tempfile.gettempdir()
    except (
        FileNotFoundError
    ):  # TensorFlow asks for one when it is imported, and does not write there
        tempfile.tempdir = str(caches or "/tmp")
    named, home = os.environ.get("XDG_CACHE_HOME"), home_folder()
    as_named = caches is usual and named in (None, "", str(caches))
    if caches and not (as_named and home and _writable(home)):
        os.environ["XDG_CACHE_HOME"] = str(caches)
        os.environ.setdefault("MPLCONFIGDIR", str(caches / "matplotlib"))
        os.environ.setdefault("KERAS_HOME", str(caches / "keras"))


@functools.cache
def temporary_folder() -> Path | None:
    """A folder that only this user can read, removed when this process ends; None if no place is writable."""
    for place in (None, "/dev/shm"):
        try:
            folder = tempfile.mkdtemp(prefix="jaxcnn-", dir=place)
        except OSError:
            continue
        atexit.register(_remove, folder, os.getpid())
        return Path(folder)
    return None


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not at the end of a forked process
        shutil.rmtree(folder, ignore_errors=True)


def _writable(folder: Path) -> bool:
    """Whether a file can be written in `folder`, which is created if absent. Permissions do not tell: the
    disk may be full or read-only."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"0")
    except OSError:
        return False
    return True
