"""What native code of one thread prints on C's `stderr`: kept from the terminal, and given to its caller.

libjpeg prints its complaints without the image's name, and cannot be told not to. To redirect file descriptor
2 would take the messages of all threads, the last ones before a crash among them. Instead C's variable
`stderr` is set, once, to a stream whose function keeps what a thread prints inside `Capture`, and writes all
else to descriptor 2 at once. The function is compiled, so it needs no lock of Python's.

The stream has no file descriptor. The interpreter prints its own fatal errors through that descriptor: they
lose their text, but not faulthandler's traceback. Python's sys.stderr is not affected.
"""

import atexit
import ctypes
import functools
import inspect
import os
import threading
from typing import Any

import numpy as np

from jaxcnn.caches import use_writable_caches

# A slot is one thread's: its number or 0, the length of the text, the text.
_SLOTS, _WORDS = 4096, 64
_ROOM = 8 * (_WORDS - 2)
_UNBUFFERED = 2
_LOCK = threading.Lock()


class Capture:
    """A context in which what this thread prints on C's `stderr` is kept; `text` holds it afterwards.

    Captures of one thread do not nest. Without support by C's library (`is_supported`) nothing is kept.
    """

    text = ""

    def __enter__(self) -> "Capture":
        slots, free, _ = _install()
        with _LOCK:
            self._slot = free.pop() if free else None
        if self._slot is not None:
            slots[self._slot, 1] = 0
            slots[self._slot, 0] = threading.get_ident()
        return self

    def __exit__(self, *unused: object) -> None:
        slots, free, _ = _install()
        if self._slot is None:
            return
        slot = slots[self._slot]
        slot[0] = 0
        if slot[1]:
            self.text = slot[2:].tobytes()[: slot[1]].decode(errors="replace")
        with _LOCK:
            free.append(self._slot)


def is_supported() -> bool:
    """Whether `Capture` keeps anything on this system."""
    return _install()[2]


@functools.cache
def _install() -> tuple[np.ndarray, list[int], bool]:
    with _LOCK:  # `cache` lets two threads in at the same time
        return _install_once()


@functools.cache
def _install_once() -> tuple[np.ndarray, list[int], bool]:
    """Replaces C's `stderr`; returns uint64[_SLOTS,_WORDS], the numbers of the free slots, and whether it is
    done."""
    slots = np.zeros((_SLOTS, _WORDS), np.uint64)
    library: Any = ctypes.CDLL(None)
    try:
        make, variable = library.fopencookie, ctypes.c_void_p.in_dll(library, "stderr")
    except (AttributeError, ValueError):  # not Linux
        return slots, [], False
    make.restype = ctypes.c_void_p
    make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _Functions]
    library.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    stream = make(slots.ctypes.data, b"w", _Functions(None, _compile().address, None, None))
    if not stream or library.setvbuf(stream, None, _UNBUFFERED, 0):
        return slots, [], False
    before, variable.value = variable.value, stream
    # What is printed after Python's end, by C's exit functions, must not reach the freed function.
    atexit.register(setattr, variable, "value", before)
    # A forked child has none of the threads whose numbers stand in the slots.
    os.register_at_fork(after_in_child=lambda: slots[:, 0].fill(0))
    return slots, list(range(_SLOTS)), True


class _Functions(ctypes.Structure):
    """C's cookie_io_functions_t."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("read", "write", "seek", "close")]


@functools.cache
def _compile() -> Any:
    """Returns the stream's function as a numba cfunc."""
    from numba import carray, cfunc, types  # pyright: ignore[reportPrivateImportUsage]

    word, pointer = types.uintp, types.voidptr
    write = types.ExternalFunction("write", types.intp(types.int32, pointer, word))
    this_thread = types.ExternalFunction("pthread_self", word())

    def keep_or_write(cookie, text, size):
        slots = carray(cookie, (_SLOTS, _WORDS), np.uint64)
        thread = this_thread()
        for i in range(_SLOTS):
            if slots[i, 0] == thread:
                kept = carray(cookie, (_SLOTS, 8 * _WORDS), np.uint8)
                given = carray(text, size, np.uint8)
                used = np.intp(slots[i, 1])
                more = min(np.intp(size), _ROOM - used)
                for k in range(more):
                    kept[i, 16 + used + k] = given[k]
                slots[i, 1] = used + more
                return size
        return max(write(2, text, size), 0)

    # Tests wrap functions to check types; numba must compile the function inside.
    function, signature = inspect.unwrap(keep_or_write), types.intp(pointer, pointer, word)
    use_writable_caches()
    try:
        return cfunc(signature, cache=True)(function)
    except Exception:  # its cache cannot be used, as resize.py says
        return cfunc(signature)(function)
