"""Persistent compilation cache, with a permission check."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from jaxcnn.parallel.accelerators import Environment
from jaxcnn.paths import local_path
from jaxcnn.printable import shell_quote


def use_compilation_cache(environment: Environment, folder: str) -> tuple[str, str]:
    """Makes JAX cache compiled programs in `folder`, if their compilation takes a second or more.

    JAX_COMPILATION_CACHE_DIR takes precedence. The folder is created with mode 0700 if it does not exist.

    Returns:
        A (name, text) row for the console.

    Without permission or space for the folder, programs are not kept.

    Raises:
        ValueError: `folder` is not a folder, or other users can write programs there, which this process
            would run.
    """
    if before := environment.get("JAX_COMPILATION_CACHE_DIR"):
        return "cache", f"{before}, from JAX_COMPILATION_CACHE_DIR; its permissions are not checked"
    try:
        path = local_path(folder, "--compilation_cache").resolve()
    except ValueError as error:
        raise ValueError(
            f"--compilation_cache takes a folder of this machine, got {folder} ({error}); for another store "
            "set JAX_COMPILATION_CACHE_DIR, and make sure that only you can write there"
        ) from error
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(path)
        kept = sum(entry.name.endswith("-cache") for entry in path.iterdir())
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"--compilation_cache={folder}: {error}; name another folder") from error
    except OSError as error:
        return "cache", f"none: {path} cannot be used ({error.strerror}); each start compiles"
    import jax

    jax.config.update("jax_compilation_cache_dir", str(path))
    return "cache", f"{path}, {kept} compiled programs; users who can write there can run code here"


def _check_ours(path: Path) -> None:
    """Raises ValueError if another user owns or can write files in `path`."""
    mode, danger = path.stat().st_mode, "whose programs would run in this process"
    for entry in (path, *path.iterdir()):
        owner = entry.lstat().st_uid
        if owner != os.getuid():
            raise ValueError(
                f"{entry} belongs to another user (number {owner}), {danger}; name a folder of your own "
                "or a new one: --compilation_cache=DIR"
            )
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(
            f"other users can write to {path} (mode {mode & 0o777:o}), {danger}; to keep them out type: "
            f"chmod 700 {shell_quote(str(path))}"
        )
