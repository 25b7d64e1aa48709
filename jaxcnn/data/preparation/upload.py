"""Data sets for buckets: prepared in a temporary local folder, as TFDS writes only to disks, and uploaded."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from jaxcnn import object_store
from jaxcnn.data.errors import DataError
from jaxcnn.data.sources.tfds import index_all
from jaxcnn.data.sources.tfds_metadata import METADATA_FILE, find_prepared
from jaxcnn.data.threads import ThreadPool
from jaxcnn.files import read_bytes
from jaxcnn.paths import Path, file_size, is_remote
from jaxcnn.printable import say

# Files uploaded at a time; each is in memory meanwhile, and TFDS's have 100 to 200 MB.
_UPLOADS = 4


@contextlib.contextmanager
def prepared_in(data_dir: Path, name: str) -> Iterator[Path]:
    """The folder to prepare the data set `name` in: `data_dir`, or if that is in a bucket a temporary one,
    from which the data set is uploaded at the end.

    Raises:
      DataError: the data set cannot be uploaded.
    """
    if not is_remote(data_dir):
        yield data_dir
        return
    with tempfile.TemporaryDirectory(prefix="jaxcnn-prepare-") as temporary:
        local = pathlib.Path(temporary)
        yield local
        folder = find_prepared(name, local)
        assert folder is not None
        # Its index is uploaded too, so that no start has to read the headers of all records.
        index_all(folder)
        upload(folder, data_dir / folder.relative_to(local))


def upload(folder: Path, to: Path) -> None:
    """Uploads the files of a prepared data set to a folder in a bucket, its description last: without that,
    what an interrupted upload leaves is no data set. The same command writes the same objects again.

    Raises:
      DataError: they cannot be written.
    """
    names = sorted(path.name for path in folder.iterdir())
    total = sum(file_size(folder / name) for name in names)
    say(f"uploading {len(names):,} files, {total / 1e9:.3g} GB, to {to}")
    pool = ThreadPool(_UPLOADS, "jaxcnn-upload")
    with contextlib.closing(pool):
        try:
            rest = [name for name in names if name != METADATA_FILE]
            for task in [pool.submit(_upload_file, folder / name, to / name) for name in rest]:
                pool.wait_for(task)
            _upload_file(folder / METADATA_FILE, to / METADATA_FILE)
        except OSError as error:
            raise DataError(
                f"cannot write {error.filename or to}: {error.strerror}; what is there looks like no "
                "data set: mend this and give the same command again"
            ) from error


def _upload_file(path: Path, to: Path) -> None:
    object_store.write_again(to, read_bytes(path, advice="give the same command again"))
