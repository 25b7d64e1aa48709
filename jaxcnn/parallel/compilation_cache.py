"""Where compiled programs are kept from one start to the next, and who may put some there."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from jaxcnn.parallel.accelerators import Environment


def use_compilation_cache(environment: Environment, folder: str) -> tuple[str, str]:
    """Has JAX keep compiled programs in `folder`, those that took a second and more, and take them from
    there; JAX_COMPILATION_CACHE_DIR wins. Made, with mode 0700, where there is none.

    Returns:
        A (name, text) row for a person.

    Raises:
        ValueError: others could put programs there, which this process would run; or it is no folder.
    """
    if before := environment.get("JAX_COMPILATION_CACHE_DIR"):
        return "cache", f"{before}, by JAX_COMPILATION_CACHE_DIR; not checked who can write there"
    if "://" in folder:
        raise ValueError(
            f"--compilation_cache takes a folder of this machine, got {folder}; for another store set "
            "JAX_COMPILATION_CACHE_DIR, and see that only you can write there"
        )
    path = Path(folder).expanduser().resolve()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(path)
        kept = sum(entry.name.endswith("-cache") for entry in path.iterdir())
    except OSError as error:
        raise ValueError(f"--compilation_cache={folder}: {error}; name another folder") from error
    import jax

    jax.config.update("jax_compilation_cache_dir", str(path))
    return "cache", f"{path}, {kept} compiled programs; whoever writes there runs code here"


def _check_ours(path: Path) -> None:
    """Raises ValueError where another user than this one can put programs into `path`, or has."""
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
            f"chmod 700 {shlex.quote(str(path))}"
        )
