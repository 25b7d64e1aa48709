"""The names and shapes of the files of a packed data set, which sources/packed.py describes."""

from jaxcnn.paths import Path
from jaxcnn.printable import shell_quote

FORMAT = 1
METADATA, INDEX = "split.json", "index.npy"
SPLIT = {
    "source": str,
    "class_names": [str],
    "shorter_side": int,
    "square": bool,
    "shards": [int],
    "shard_sha256?": [str],
    "index_sha256": str,
    "sha256?": str,
    "unreadable?": int,
}
PARTIAL = ".{}.partial"
INDEX_FIELDS = (
    ("shard", "<i4"),
    ("offset", "<i8"),
    ("length", "<i8"),
    ("label", "<i4"),
    ("readable", "?"),
)  # and `name`, bytes


def shard_name(number: int) -> str:
    return f"{number:05d}.rgb"


def partial_folder(root: Path, split: str) -> Path:
    """The folder of a split that is not complete yet."""
    return root / PARTIAL.format(split)


def how_to_pack(root: Path) -> str:
    return "pack with: jaxcnn prepare SOURCE --pack --shorter_side=256 " + shell_quote(
        f"--out={root}"
    )
