"""What both loaders share: threads that work ahead in order, and the policy for corrupt images."""

import abc
import contextlib
import functools
import itertools
import logging
import os
import pathlib
import platform
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from jaxcnn.data.errors import DataError
from jaxcnn.data.sources.source import Read, Source, begin
from jaxcnn.data.threads import ThreadPool
from jaxcnn.printable import printable_name

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")
# beartype, which checks types in tests, does not read typing.Self here.
_Self = TypeVar("_Self", bound="Loader")

# The value of every pixel of a corrupt image.
MID_GREY = 128
# A data set is damaged if more than this share of its images is corrupt, and at least this many.
_MAX_CORRUPT, _MIN_COUNT = 0.01, 10
# Reads in flight from a bucket, each of which waits for tens of milliseconds.
_READERS = 64


def available_cores() -> int:
    """Returns the number of cores that this process may use; a container or a scheduler may limit it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """Returns the model of this machine's processor."""
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        line = next(line for line in lines if line.startswith("model name"))
        return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def default_readers(source: Source) -> int:
    """Returns the number of reads in flight apart from decoding: 64 for a source in a bucket, else none."""
    return _READERS if in_bucket(source) else 0


def in_bucket(source: Source) -> bool:
    """Whether a source is in a bucket, where many reads can be begun by one thread."""
    while (base := getattr(source, "base", None)) is not None:
        source = base
    return getattr(source, "in_bucket", False)


class Loader(abc.ABC, Generic[_T]):
    """An iterator that makes an item of each input, by threads that work ahead of the consumer, in order.

    Use it in a `with` block, or call `close()`. At most `ahead` + 1 items are in preparation or ready. An
    exception in a thread is raised by the `next()` of its item, and closes the loader.

    With `readers`, that many reads are in flight in further threads, and the others only decode what was
    read, so that the latency of a network does not cost a core. `reads` is how many one thread begins.

    `check_stop` is called now and then while `next()` waits, since a read may hang; it raises to leave.
    """

    def __init__(
        self,
        inputs: Iterable[Any],
        threads: int,
        ahead: int,
        check_stop: Callable[[], None] = lambda: None,
        readers: int = 0,
        reads: int = 1,
    ):
        self._ahead, self._check_stop = ahead, check_stop
        self._pool = ThreadPool(threads, "jaxcnn-data")
        self._readers: ThreadPool | None = None
        if readers:
            self._readers = ThreadPool(-(-readers // reads), "jaxcnn-reader")
        self._reads = reads
        self._inputs = iter(inputs)
        self._pending: deque[Any] = deque()
        self._fill()  # the first items are prepared while the caller compiles

    @abc.abstractmethod
    def _submit(self, given: Any) -> Any:
        """Starts the work for an item in `_pool`; returns what `_finish` needs."""

    @abc.abstractmethod
    def _finish(self, submitted: Any) -> _T:
        """Waits for the work of `_submit`; returns the item."""

    def __iter__(self: _Self) -> _Self:
        return self

    def __next__(self) -> _T:
        try:
            self._fill()
            if not self._pending:
                raise StopIteration
            return self._finish(self._pending.popleft())
        except BaseException:
            self.close()
            raise

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops what the threads prepared; they end, except one whose read hangs. Another thread's `next()`
        raises PoolClosed. May be called more than once."""
        self._inputs = iter(())
        self._pending.clear()
        self._pool.close()
        if self._readers:
            self._readers.close()

    def _submit_reads(
        self,
        source: Source,
        positions: Sequence[int],
        function: Callable[..., Any],
        *arguments: Any,
    ) -> "Future[Any]":
        """Calls `function(reads, *arguments)` in `_pool`, with a `Read` for each of the positions."""
        if self._readers is None:
            reads = [functools.partial(source.read, position) for position in positions]
            return self._pool.submit(function, reads, *arguments)
        step = self._reads
        parts = [positions[i : i + step] for i in range(0, len(positions), step)]
        begun = [self._readers.submit(_read_all, source, part) for part in parts]

        def work() -> Any:
            return function([read for one in begun for read in one.result()], *arguments)

        return self._pool.submit_after(begun, work)

    def _result(self, future: "Future[Any]") -> Any:
        return self._pool.wait_for(future, self._check_stop)

    def _fill(self) -> None:
        missing = self._ahead + 1 - len(self._pending)
        self._pending.extend(map(self._submit, itertools.islice(self._inputs, missing)))


def _read_all(source: Source, positions: Sequence[int]) -> list[Read]:
    """Reads some images at the same time; returns what gives each result, or raises its error."""
    begun = [_begin(source, position) for position in positions]
    return [_finished(read) for read in begun]


def _begin(source: Source, position: int) -> Read:
    try:
        return begin(source, position)
    except Exception as error:
        return _raises(error)


def _finished(read: Read) -> Read:
    try:
        result = read()
    except Exception as error:
        return _raises(error)
    return lambda: result


def _raises(error: Exception) -> Read:
    def read() -> tuple[bytes, int]:
        raise error

    return read


class CorruptCounter:
    """Logs each corrupt image of `source` once; raises if there are too many.

    `names` lists them in the order in which they were found. `consequence` ends the log message: what
    happens to the image.
    """

    def __init__(self, source: Source, consequence: str):
        self.names: list[str] = []
        self._source = source
        self._consequence = consequence

    def note(self, position: int, problem: str, seen: int) -> None:
        """Records that the image at `position`, the last of `seen` images, is corrupt.

        Raises:
          DataError: so many images are corrupt that the data set must be damaged.
        """
        name = self._source.name(position)
        if name not in self.names:
            self.names.append(name)
            _LOGGER.warning(
                "corrupt image %s: %s; it is %s", printable_name(name), problem, self._consequence
            )
        seen = min(seen, len(self._source))
        if len(self.names) >= _MIN_COUNT and len(self.names) > _MAX_CORRUPT * seen:
            raise DataError(
                f"{len(self.names)} of the first {seen} images are corrupt, more than {_MAX_CORRUPT:.0%}: "
                "the data set is damaged or is not what its name says; the first ones are "
                f"{', '.join(map(printable_name, self.names[:5]))}; prepare or copy it again"
            )
