"""Which files of a folder are images: those with a known suffix, and others by their first bytes.

Only a file whose suffix is not known is opened, so listing a million of .jpg, or of .json beside them, costs
no more than their names.
"""

import collections
import os
import stat

from jaxcnn.data.errors import DataError
from jaxcnn.data.sources.retries import retry
from jaxcnn.paths import Path

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp"),
    *(".png", ".bmp", ".dib", ".gif", ".webp"),
)
# Never images; there may be one beside each image.
_OTHER_SUFFIXES = (
    *(".json", ".xml", ".csv", ".md", ".html", ".yaml", ".yml", ".log"),
    *(".py", ".npy", ".npz", ".db", ".pkl"),
)
FORMATS = "JPEG, PNG, GIF, BMP or WebP"
# Made by systems and archives beside a user's files, with copies or thumbnails of them inside.
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")
_SNIFFED = 18
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_MOST_KINDS = 8

# How many entries were left out, by kind: a suffix, or why.
LeftOut = collections.Counter[str]


def is_hidden(name: str) -> bool:
    """Whether a name never counts: it begins with a dot (`._x.jpg`, `.DS_Store`), or the system made it."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def find_images(folder: str | Path, left_out: LeftOut, *, recursive: bool = True) -> list[str]:
    """Returns the paths of a folder's images, relative to it and sorted; adds what is left out to `left_out`.

    Folders inside are searched too, with links to folders, if `recursive`.

    Raises:
      DataError: a folder cannot be listed, or a file without a known suffix cannot be read for a while.
    """
    return sorted(_search(os.fspath(folder), "", left_out, recursive, ()))


def _search(
    folder: str, prefix: str, left_out: LeftOut, recursive: bool, above: tuple[os.stat_result, ...]
) -> list[str]:
    images, others, folders = [], [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                image = name.lower().endswith(SUFFIXES)
                if is_hidden(name):
                    # Nobody misses .DS_Store, but a name like that of an image is said.
                    left_out["beginning with a dot"] += image
                    left_out[f"folder {name}"] += name in _SYSTEM_FOLDERS
                elif image and not entry.is_dir(follow_symlinks=False):
                    images.append(prefix + name)
                else:
                    (folders if is_folder(entry) else others).append(name)
        here = os.stat(folder)
    except OSError as error:
        raise DataError(
            f"cannot list {folder}: {error.strerror}; make it readable, or move it away"
        ) from error
    for name in others:
        suffix = os.path.splitext(name)[1].lower()[:20] or "without suffix"
        try:
            if suffix not in _OTHER_SUFFIXES and _begins_like_an_image(os.path.join(folder, name)):
                images.append(prefix + name)
            else:
                left_out[suffix] += 1
        except OSError as error:
            left_out[f"{suffix} ({error.strerror})"] += 1
    for name in folders:
        inside = os.path.join(folder, name)
        if not recursive:
            left_out["folder"] += 1
        elif any(os.path.samestat(os.stat(inside), one) for one in (*above, here)):
            left_out["link to a folder around it"] += 1
        else:
            images += _search(inside, f"{prefix}{name}/", left_out, recursive, (*above, here))
    return images


def is_folder(entry: os.DirEntry) -> bool:
    """Whether a folder's entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere
        return False


def _begins_like_an_image(path: str) -> bool:
    """Whether a regular file begins like an image of a format that we decode."""
    begin = retry(lambda: _first_bytes(path), path)
    if begin.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")):
        return True
    if begin.startswith(b"BM"):
        return int.from_bytes(begin[14:18], "little") in _BMP_HEADERS
    return begin.startswith(b"RIFF") and begin[8:12] == b"WEBP"


def _first_bytes(path: str) -> bytes:
    # O_NONBLOCK: opening a FIFO would wait for its writer.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        regular = stat.S_ISREG(os.fstat(file).st_mode)
        return os.pread(file, _SNIFFED, 0) if regular else b""
    finally:
        os.close(file)


def describe(left_out: LeftOut) -> str:
    """Returns the counts as a text, the most frequent first: `3 .txt, 1 without suffix`."""
    ordered = sorted((-count, kind) for kind, count in left_out.items() if count)
    kinds = [f"{-count:,} {kind}" for count, kind in ordered]
    rest = f" and {len(kinds) - _MOST_KINDS} more kinds" if len(kinds) > _MOST_KINDS else ""
    return ", ".join(kinds[:_MOST_KINDS]) + rest
