"""Files that are mapped into memory, and become an error instead of SIGBUS if they are cut short."""

import mmap
import os

from jaxcnn.data.errors import DataError
from jaxcnn.paths import Path


class MappedFile:
    """A whole file as a memoryview, `data`. Its pages are page cache, which the system can reclaim.

    Touching a page beyond the end of a file kills the process (SIGBUS). `check` before each read takes about
    a microsecond; a file that is cut in the milliseconds between the check and the copy is still fatal.
    """

    def __init__(self, path: Path, size: int | None, advice: str):
        """`size` in bytes is what the file must have; None takes what it has.

        Raises:
          DataError: it has another size.
          OSError: it cannot be read.
        """
        self._path, self._advice = path, advice
        with open(path, "rb") as file:
            seen = os.fstat(file.fileno()).st_size
            self._size = seen if size is None else size
            if seen != self._size:
                raise DataError(f"{path} has {seen:,} bytes, expected {size:,}; {advice}")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.data = memoryview(self._map)

    def __len__(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> memoryview:
        """Returns a part of the file, which is not copied. Raises as `check`."""
        self.check()
        return self.data[offset : offset + length]

    def check(self) -> None:
        """Raises a DataError if the file is shorter than when it was opened."""
        seen = self._map.size()  # by fstat
        if seen < self._size:
            raise DataError(
                f"{self._path} was cut short while it was in use: {seen:,} bytes, expected {self._size:,}; "
                f"{self._advice}"
            )
