"""What a compiled program does, read from its text (HLO): which collectives, of how many bytes."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4}
BYTES |= {"f32": 4, "s64": 8, "u64": 8, "f64": 8}

_COLLECTIVE = re.compile(
    rf"^\s*(?:ROOT )?%\S+ = (?P<shape>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_GROUP = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA_GROUP = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_NAME = re.compile(r'op_name="([^"]*)"')


class Sent(NamedTuple):
    """A collective of a compiled program.

    Attributes:
        kind: one of KINDS.
        bytes: of what it puts out on one device; of a reduce-scatter or all-to-all of what it takes.
        dtype: of its largest array.
        devices: that take part together.
        name: the place in the source that it comes from.
    """

    kind: str
    bytes: int
    dtype: str
    devices: int
    name: str


def collectives(text: str) -> list[Sent]:
    """The collectives of a compiled program, in the order of its text."""
    found = []
    for line in text.splitlines():
        match = _COLLECTIVE.match(line)
        if not match:
            continue
        arrays = [(_size(*a), a[0]) for a in _ARRAY.findall(match["shape"])]
        if match["start"] and match["kind"] != "all-reduce":  # (what goes in, what comes out)
            arrays = arrays[len(arrays) // 2 :]
        size, devices = sum(size for size, _ in arrays), _devices(line)
        if match["kind"] == "reduce-scatter":
            size *= devices
        name = _NAME.search(line)
        found.append(Sent(match["kind"], size, max(arrays)[1], devices, name[1] if name else ""))
    return found


def _size(dtype: str, shape: str) -> int:
    return BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)


def _devices(line: str) -> int:
    if group := _GROUP.search(line):
        return len(group[1].split(","))
    if group := _IOTA_GROUP.search(line):
        return int(group[2])
    return 1
