"""Threads that nothing has to wait for: a read from a stalled disk may never return.

`concurrent.futures.ThreadPoolExecutor` joins its threads when it is shut down and when the interpreter exits,
so a read that hangs would keep a process from saving its state or from ending.
"""

import contextlib
import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

Value = TypeVar("Value")

_POLL_SECONDS = 0.2
# How long `close` waits for threads that work; healthy ones end sooner.
_CLOSE_SECONDS = 1.0


class PoolClosed(RuntimeError):
    """The pool was closed, so that what was waited for may never be done."""


class _Worker(threading.Thread):
    """A daemon thread that does the work in a queue, to the first None."""

    def __init__(self, work: Any, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work

    def run(self) -> None:
        while (item := self._work.get()) is not None:
            _do(*item)
            del item  # while it waits for the next, it keeps no arrays alive


def _do(future: "Future[Any]", function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(*arguments))
    except BaseException as error:
        future.set_exception(error)


class ThreadPool:
    """Daemon threads that call functions, in the order of `submit`. `close` waits for none that hangs."""

    def __init__(self, threads: int, name: str) -> None:
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [_Worker(self._work, f"{name}_{i}") for i in range(threads)]
        self.closed = False
        # Also when nobody closes it: at garbage collection, or the end of the program.
        self._end = weakref.finalize(self, _end, self._work, threads)
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Value], *arguments: Any) -> "Future[Value]":
        """Calls `function(*arguments)` in a thread. Raises PoolClosed."""
        if self.closed:
            raise PoolClosed("this pool of threads was closed")
        future: Future[Value] = Future()
        self._work.put((future, function, arguments))
        return future

    def submit_after(
        self, others: "Sequence[Future[Any]]", function: Callable[..., Value], *arguments: Any
    ) -> "Future[Value]":
        """As `submit`, as soon as all of `others`, at least one, are done or have failed."""
        if self.closed:
            raise PoolClosed("this pool of threads was closed")
        future: Future[Value] = Future()
        done = itertools.count(1)  # whose `next` no other thread can interrupt

        def count(_: "Future[Any]") -> None:
            if next(done) == len(others):
                self._work.put((future, function, arguments))

        for other in others:
            other.add_done_callback(count)
        return future

    def wait_for(
        self, future: "Future[Value]", check_stop: Callable[[], None] = lambda: None
    ) -> Value:
        """Returns the result of `future`, or raises its error.

        Args:
            check_stop: called now and then while the result is not there; raises to stop waiting.

        Raises:
            PoolClosed: another thread closed the pool.
        """
        while not self.closed:
            if future.done():
                return future.result()
            check_stop()
            wait([future], timeout=_POLL_SECONDS)
        raise PoolClosed("this pool of threads was closed")

    def close(self) -> None:
        """Drops the work that has not begun, and waits a moment for the threads. May be called twice."""
        if self.closed:
            return
        self.closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._work.get_nowait()[0].cancel()
        self._end()
        until = time.monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


def _end(work: Any, threads: int) -> None:
    for _ in range(threads):
        work.put(None)


def run_in_thread(work: Callable[[], Value], check_stop: Callable[[], None]) -> Value:
    """Returns the result of `work`, called in a thread of its own, or raises its error. The thread is left
    behind if `check_stop`, which is called meanwhile, raises."""
    pool = ThreadPool(1, "jaxcnn-reader")
    try:
        return pool.wait_for(pool.submit(work), check_stop)
    finally:
        pool.close()


def busy_threads() -> list[str]:
    """Names of the threads of all pools that have not ended: some of them may hang in a read."""
    return [thread.name for thread in threading.enumerate() if isinstance(thread, _Worker)]
