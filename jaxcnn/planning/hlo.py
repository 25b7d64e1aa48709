"""Parses the collectives of a compiled program from its text (HLO): kinds, bytes, and overlapped work.

XLA:TPU schedules an asynchronous all-reduce as a chain of fusions: one that starts it
(`AsyncCollectiveStart`), any number that do other work and contain the same all-reduce
(`async_collective_fusion_config`), and one that ends it. Other asynchronous collectives are a `-start`
and a `-done` instruction with the overlapped work between them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4}
BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8}

_COLLECTIVE = re.compile(
    rf"^\s*(?:ROOT )?%\S+ = (?P<shape>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_GROUP = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA_GROUP = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_MESH_GROUP = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")  # since jaxlib 0.12
_AXIS = re.compile(r"'(\w+)'(?:=(\d+))?")
_NAME = re.compile(r'op_name="([^"]*)"')
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = .*?[\}\)\]] ([a-z][\w\-]*)\(")
_CALLS = re.compile(r"calls=%([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CHAIN = re.compile(r'chain_id="(\d+)"')
_OPERANDS = re.compile(r"%([\w.\-]+)")
_WORK = ("fusion", "convolution", "dot", "custom-call", "while", "call")
_CARRIED = '"async_collective_fusion_config"'


class Carrier(NamedTuple):
    """Work that overlaps a collective.

    Attributes:
        name: its source operation, or the name of the instruction.
        cycles: XLA:TPU's estimate; 0 if there is none.
    """

    name: str
    cycles: int


class Transfer(NamedTuple):
    """A collective of a compiled and scheduled program.

    Attributes:
        kind: one of KINDS.
        bytes: size of its output on one device; for a reduce-scatter or all-to-all, of its input.
        dtype: of its largest array.
        devices: number of devices per group.
        name: the source operation (`op_name`) that it comes from.
        what: the source operation that computed its largest input.
        asynchronous: whether other work can overlap it.
        carriers: the overlapped work.
    """

    kind: str
    bytes: int
    dtype: str
    devices: int
    name: str
    what: str = ""
    asynchronous: bool = False
    carriers: tuple[Carrier, ...] = ()

    @property
    def cycles(self) -> int:
        return sum(carrier.cycles for carrier in self.carriers)

    def record(self) -> dict[str, Any]:
        """A JSON-serializable record."""
        return self._asdict() | {"carriers": [carrier._asdict() for carrier in self.carriers]}


def read_transfers(text: str) -> list[Transfer]:
    """Lists the collectives of a scheduled program once each, in start order, with the overlapped work."""
    computations, entry = _computations(text)
    names = sorted(computations, key=lambda name: name == entry)  # the entry last
    return [t for name in names for t in _scheduled(computations[name], computations)]


def cycles(text: str) -> int:
    """Sums XLA:TPU's estimated cycles of a program's computation; 0 for other platforms."""
    computations, entry = _computations(text)
    return sum(map(_cycles, computations[entry]))


def layer(name: str) -> str:
    """Layer of an op_name: conv1_2 of `jit(step)/.../VGG.forward/conv1_2/conv`; else the last part."""
    parts = name.split("/")
    inside = [i for i, part in enumerate(parts) if part.endswith(".forward")]
    return "/".join(parts[inside[0] + 1 : -1]) or parts[-1] if inside else parts[-1]


def _scheduled(lines: list[str], computations: Mapping[str, list[str]]) -> list[Transfer]:
    """Lists the transfers of one computation."""
    done: list[Transfer] = []
    under_way: dict[str, int] = {}  # position in `done`, by chain or by the name of the -start

    def carry(key: str, line: str) -> None:
        at = under_way[key]
        carrier = Carrier(_first(_NAME, line) or _first(_INSTRUCTION, line), _cycles(line))
        done[at] = done[at]._replace(carriers=(*done[at].carriers, carrier))

    by_name = {m[1]: line for line in lines if (m := _INSTRUCTION.match(line))}
    for line in lines:
        match = _INSTRUCTION.match(line)
        if not match or (
            _CARRIED in line and _collective(line)
        ):  # counted where its fusion is called
            continue
        name, kind = match[1], match[2]
        carried = _carried(line, computations)
        if carried and (found := _collective(carried)):
            chain = _first(_CHAIN, carried)
            body = "".join(computations[_first(_CALLS, line)])
            if "AsyncCollectiveStart" in body:
                under_way[chain] = len(done)
                done.append(found._replace(what=_origin(line, by_name), asynchronous=True))
            elif "AsyncCollectiveDone" not in body and chain in under_way:
                carry(chain, line)
        elif found := _collective(line):
            started = kind.endswith("-start")
            if started:
                under_way[name] = len(done)
            done.append(found._replace(what=_origin(line, by_name), asynchronous=started))
        elif kind.endswith("-done"):
            under_way.pop(_OPERANDS.findall(line.partition("(")[2])[0], None)
        elif kind in _WORK:
            for key in under_way:
                if key.startswith(KINDS):
                    carry(key, line)
    return done


def _carried(line: str, computations: Mapping[str, list[str]]) -> str:
    """The line of the collective that a fusion starts, overlaps or ends; '' for other instructions."""
    body = computations.get(_first(_CALLS, line), ())
    return next((inner for inner in body if _CARRIED in inner and _collective(inner)), "")


def _origin(line: str, by_name: Mapping[str, str]) -> str:
    """The source operation of a collective's largest input, traced through copies and tuples."""
    for step in range(8):
        names = [n for n in _OPERANDS.findall(line.partition(" = ")[2]) if n in by_name]
        if not names:
            break
        line = by_name[names[0] if step else max(names, key=lambda n: _bytes(by_name[n]))]
        found = _NAME.search(line)
        if found and not found[1].rpartition("/")[2].startswith(("psum", "all_", "reduce_scatter")):
            return found[1]
    return ""


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Returns (the lines of each computation, the name of the entry computation)."""
    found: dict[str, list[str]] = {}
    current, entry = "", ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = match[2]
            found[current] = []
            entry = current if match[1] else entry
        elif line.startswith("}"):
            current = ""
        elif current:
            found[current].append(line)
    return found, entry


def _collective(line: str) -> Transfer | None:
    """Parses the collective of a line; None if the line has none."""
    match = _COLLECTIVE.match(line)
    if not match:
        return None
    arrays = [(_size(*a), a[0]) for a in _ARRAY.findall(match["shape"])]
    if match["start"] and match["kind"] != "all-reduce":  # (inputs, outputs)
        arrays = arrays[len(arrays) // 2 :]
    size, devices = sum(size for size, _ in arrays), _devices(line)
    if match["kind"] == "reduce-scatter":
        size *= devices
    return Transfer(match["kind"], size, max(arrays)[1], devices, _first(_NAME, line))


def _bytes(line: str) -> int:
    """Size of an instruction's output."""
    shape = line.partition(" = ")[2].partition("(%")[0]
    return sum(_size(*a) for a in _ARRAY.findall(shape) if a[0] in BYTES)


def _cycles(line: str) -> int:
    return int(_first(_CYCLES, line) or 0)


def _first(pattern: re.Pattern[str], line: str) -> str:
    found = pattern.search(line)
    return found[1] if found else ""


def _size(dtype: str, shape: str) -> int:
    return BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)


def _devices(line: str) -> int:
    if group := _GROUP.search(line):
        return len(group[1].split(","))
    if group := _IOTA_GROUP.search(line):
        return int(group[2])
    if group := _MESH_GROUP.search(line):
        sizes = {name: int(size) for name, size in _AXIS.findall(group[1])}
        return math.prod(sizes[name] for name, _ in _AXIS.findall(group[2]))
    return 1
