"""What a path is: a file or folder on a local disk, or in a bucket of Google Cloud Storage (gs://).

Local paths are pathlib's, paths in buckets are `epath.Path` of etils; both have the same methods, so the code
that uses a path need not know where it leads. Local ones are not etils' as well, because etils takes the name
of a folder for a pattern in `glob`, `/gs/...` for a bucket, and knows no links. `user_path` is the only place
that makes a path of what a user types.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import pathlib
import re
from typing import TypeAlias, TypeGuard

# etils would choose TensorFlow's client where TensorFlow is installed. That cannot be pointed to another
# server (a private endpoint, or one on this machine), waits for minutes, and has credentials of its own.
os.environ.setdefault("EPATH_USE_TF", "false")

from etils import epath

Path: TypeAlias = pathlib.Path | epath.Path

SERVED = "a path on a local disk or file server, or gs://BUCKET/..."
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//?)")
# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
# https://google.github.io/tensorstore/environment.html: less than a byte a second for half a minute.
_TENSORSTORE = {
    "CONNECT_TIMEOUT_SECONDS": "10",
    "LOW_SPEED_TIME_SECONDS": "30",
    "LOW_SPEED_LIMIT_BYTES": "1",
}
_REFUSED = {
    "s3": "Orbax 0.12 saves no checkpoint there ('Checkpoint path should be absolute')",
    "file": "give the path without file://",
}


def user_path(text: str | os.PathLike[str]) -> Path:
    """The absolute path that a user means by `text`: `~` is the home folder, a relative path begins in the
    current folder, and gs://BUCKET/... is in a bucket. Nothing else has a meaning: neither `*` nor `[...]`.

    Raises:
        ValueError: it is empty; or begins with `~` and there is no such user or home folder; or has a scheme
            that is not served, or is no valid path in a bucket; or a package for buckets is missing.
    """
    text = os.fspath(text)
    if not text:
        raise ValueError("the path is empty")
    scheme = _SCHEME.match(text)
    if scheme and (scheme[2] == "//" or scheme[1].lower() == "gs"):
        return _bucket_path(text, scheme[1])
    try:
        return pathlib.Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(
            f"the ~ of {text!r} cannot be expanded: {error}; give the whole path"
        ) from None


def local_path(text: str | os.PathLike[str], what: str) -> pathlib.Path:
    """`user_path` of what has to be on a local disk or file server; `what` names it in the error.

    Raises:
        ValueError: it is in a bucket, or as `user_path`.
    """
    path = user_path(text)
    if is_remote(path):
        raise ValueError(
            f"{what} cannot be in a bucket: {path}; give a path on a local disk or file server"
        )
    assert isinstance(path, pathlib.Path)
    return path


def path_argument(text: str) -> Path:
    """A type of argument of a command: `user_path`, whose errors argparse shows."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def cache_folder() -> pathlib.Path | None:
    """The user's folder for caches, $XDG_CACHE_HOME or ~/.cache; None if there is no home folder.

    Raises:
        ValueError: XDG_CACHE_HOME is in a bucket, or as `user_path`.
    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return local_path(named, "the folder for caches, XDG_CACHE_HOME,")
    home = home_folder()
    return home / ".cache" if home else None


def home_folder() -> pathlib.Path | None:
    """The user's home folder, if there is one."""
    home = pathlib.Path(os.path.expanduser("~"))
    return home if home.is_absolute() else None


def is_remote(path: str | os.PathLike[str]) -> TypeGuard[epath.Path]:
    """Whether a path that `user_path` made leads to a bucket."""
    return isinstance(path, epath.Path) and is_bucket_name(os.fspath(path))


def is_bucket_name(text: str) -> bool:
    """Whether a text is how a path in a bucket is shown."""
    return text.startswith("gs://")


def bucket_and_key(path: str | os.PathLike[str]) -> tuple[str, str]:
    """(the bucket, the name of the object in it) of a path in a bucket."""
    bucket, _, key = os.fspath(path).removeprefix("gs://").partition("/")
    return bucket, key


def resolved(path: Path) -> Path:
    """`path` with links followed, as far as there are links."""
    return path if is_remote(path) else path.resolve()


def file_size(path: Path) -> int:
    """The size of a file in bytes. Raises OSError if there is none."""
    return path.stat().st_size if isinstance(path, pathlib.Path) else path.stat().length


def _bucket_path(text: str, scheme: str) -> epath.Path:
    if scheme != "gs":
        reason = _REFUSED.get(scheme.lower())
        why = f": {reason}" if reason else ""
        raise ValueError(f"{scheme}:// is not served ({text}){why}; give {SERVED}")
    bucket, *parts = text.removeprefix("gs:").lstrip("/").split("/")
    if not text.startswith("gs://") or text.startswith("gs:///"):
        raise ValueError(f"{text} is no path in a bucket: give gs://BUCKET/... with two slashes")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            f"{text} names no bucket: {bucket!r} is not its name, which has 3 or more lowercase letters, "
            "digits, '-', '_' and '.', and begins and ends with a letter or digit"
        )
    if bad := sorted({*"*?[]#\r\n"} & {*text}):
        raise ValueError(
            f"{text!r} has {' '.join(map(repr, bad))}, which clients of object storage take for patterns: "
            "use another name"
        )
    if {".", ".."} & {*parts}:
        raise ValueError(f"{text}: object storage has no '.' and '..'; write the path without them")
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(f"{text} needs the package gcsfs: pip install 'jaxcnn[gcs]'")
    _quiet()
    return epath.Path(text)


def _quiet() -> None:
    """Sets up gcsfs, the client of etils: no lines of its own besides its errors, and no listing from memory,
    since other processes write too. A request of TensorStore that hangs ends, so that it is tried
    again."""
    from fsspec.config import conf

    for name in ("gcsfs", "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for protocol in ("gs", "gcs"):
        conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    for name, value in _TENSORSTORE.items():
        os.environ.setdefault(f"TENSORSTORE_CURL_{name}", value)
