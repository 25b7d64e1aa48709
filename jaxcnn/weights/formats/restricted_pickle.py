"""Pickles as data: numbers, texts, lists, dicts and objects of a few named kinds. Nothing is imported or run.

A pickle is a program for a machine with a stack. This machine knows the instructions with which arrays are
saved (protocols 2 to 5), looks names up in a given table only, and calls what the table has for them. Long
runs of bytes stay in the file. An instruction takes some 100 bytes of memory, and their number is limited.

The instructions: docs.python.org/3/library/pickletools.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxcnn.weights.formats.pickle_reader import PickleError, PickleReader, Span
from jaxcnn.weights.formats.stored_bytes import Bytes

__all__ = ["Built", "Global", "Loaded", "PickleError", "Span", "load"]

# torchvision's GoogLeNet, with all its batch normalizations, has 14,000.
_MOST_INSTRUCTIONS = 100_000
_HIGHEST_PROTOCOL = 5
_MARK = object()


class Global(NamedTuple):
    """A name of the table.

    Attributes:
        name: 'module.name'.
        value: what the table has for it; called if a pickle calls the name.
    """

    name: str
    value: Any


class Built:
    """Base of what a function of the table returns for an object that is given its state afterwards."""

    def set_state(self, state: Any) -> None:
        """Raises TypeError or ValueError for a state that cannot be."""
        raise NotImplementedError


class Loaded(NamedTuple):
    """A value and where its pickle ends in the source."""

    value: Any
    stop: int


def load(
    source: Bytes,
    start: int = 0,
    table: Mapping[str, Any] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Loaded:
    """The value of the pickle at `start` of a source.

    Runs of at least 256 bytes are a Span; shorter ones bytes, or str where Python 2 wrote them (Latin-1).
    Keys of dicts are texts or numbers. The state of a dict is ignored.

    Args:
        table: 'module.name' -> a function of the arguments that the pickle has, or any other value. The
            function gets whatever a pickle can hold: it raises TypeError or ValueError for what it cannot
            take, and takes no more time and memory than the pickle spent on its arguments.
        persistent: what to make of a persistent id; as a function of the table.

    Raises:
        PickleError: it is damaged, asks for a name that is not in the table, or has an instruction that no
            saved array needs. FileError: the source cannot be read.
    """
    machine = _Machine(PickleReader(source, start), table or {}, persistent)
    try:
        return Loaded(machine.run(), machine.reader.position)
    except PickleError:
        raise
    except IndexError:
        raise machine.error("takes more values than there are") from None
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise machine.error(f"is damaged ({error})") from error


class _Machine:
    def __init__(
        self,
        reader: PickleReader,
        table: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        self.reader = reader
        self._table, self._persistent = table, persistent
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def error(self, problem: str) -> PickleError:
        return PickleError(f"{problem}, before byte {self.reader.position:,}")

    def run(self) -> Any:
        for _ in range(_MOST_INSTRUCTIONS):
            code = self.reader.take(1)
            if code == b".":
                value = self.pop()
                if self.stack:
                    raise self.error("leaves values behind")
                return value
            if code in _CONSTANTS:
                self.stack.append(_CONSTANTS[code])
            elif code in _VALUES:
                self.stack.append(_VALUES[code](self.reader))
            elif code in _STEPS:
                _STEPS[code](self)
            else:
                raise self.error(f"has the instruction {code!r}")
        raise self.error(f"has more than {_MOST_INSTRUCTIONS:,} instructions")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise self.error("takes a mark for a value")
        return value

    def pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def pop_some(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def check_protocol(self) -> None:
        if (protocol := self.reader.number("<B")) > _HIGHEST_PROTOCOL:
            raise self.error(f"has the protocol {protocol}")

    def get(self, number: int) -> None:
        self.stack.append(self._memo[number])

    def put(self, number: int | None = None) -> None:
        value = self.pop()
        self._memo[len(self._memo) if number is None else number] = value
        self.stack.append(value)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise self.error("appends to what is no list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target, keys = self.stack[-1], values[::2]
        if type(target) is not dict or len(values) % 2:
            raise self.error("sets items of what is no dict")
        # The hash of a tuple within a tuple, and so on, would need more of C's stack than there is.
        if not all(isinstance(key, str | int | float | bytes) for key in keys):
            raise self.error("has a key that is no text or number")
        target.update(zip(keys, values[1::2], strict=True))

    def find(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise self.error("asks for a name that is no text")
        full = f"{module}.{name}"
        if full not in self._table:
            raise PickleError(f"asks for {full}", full)
        self.stack.append(Global(full, self._table[full]))

    def call(self) -> None:
        function, arguments = self.pop_some(2)
        if not isinstance(function, Global) or not callable(function.value):
            raise self.error("calls what is no function")
        if type(arguments) is not tuple:
            raise self.error(f"calls {function.name} without arguments")
        self.stack.append(function.value(*arguments))

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Built):
            target.set_state(state)
        elif type(target) is not dict:
            raise self.error("sets the state of what has none")

    def load_persistent(self) -> None:
        if self._persistent is None:
            raise self.error("refers to something outside")
        self.stack.append(self._persistent(self.pop()))


# Instructions that put a value on the stack: always the same, or one that follows them.
_CONSTANTS = {b"(": _MARK, b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_VALUES: dict[bytes, Callable[[PickleReader], Any]] = {
    b"J": lambda r: r.number("<i"),
    b"K": lambda r: r.number("<B"),
    b"M": lambda r: r.number("<H"),
    b"\x8a": lambda r: r.integer(),
    b"G": lambda r: r.number(">d"),
    b"X": lambda r: r.text("<I"),
    b"\x8c": lambda r: r.text("<B"),
    b"\x8d": lambda r: r.text("<Q"),
    b"T": lambda r: r.string("<I"),
    b"U": lambda r: r.string("<B"),
    b"B": lambda r: r.run("<I"),
    b"C": lambda r: r.run("<B"),
    b"\x8e": lambda r: r.run("<Q"),
}  # fmt: skip
# The others.
_STEPS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.check_protocol(),
    b"\x95": lambda m: m.reader.number("<Q"),  # the size of a frame
    b"]": lambda m: m.stack.append([]),
    b"}": lambda m: m.stack.append({}),
    b"t": lambda m: m.stack.append(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.stack.append(tuple(m.pop_some(1))),
    b"\x86": lambda m: m.stack.append(tuple(m.pop_some(2))),
    b"\x87": lambda m: m.stack.append(tuple(m.pop_some(3))),
    b"h": lambda m: m.get(m.reader.number("<B")),
    b"j": lambda m: m.get(m.reader.number("<I")),
    b"q": lambda m: m.put(m.reader.number("<B")),
    b"r": lambda m: m.put(m.reader.number("<I")),
    b"\x94": lambda m: m.put(),
    b"a": lambda m: m.append(m.pop_some(1)),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b"s": lambda m: m.set_items(m.pop_some(2)),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"c": lambda m: m.find(m.reader.line(), m.reader.line()),
    b"\x93": lambda m: m.find(*m.pop_some(2)),
    b"R": lambda m: m.call(),
    b"\x81": lambda m: m.call(),
    b"b": lambda m: m.build(),
    b"Q": lambda m: m.load_persistent(),
}  # fmt: skip
