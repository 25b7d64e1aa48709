"""Pickles read as data: what Python writes, and what none may do."""

import collections
import os
import pickle
import struct
import tracemalloc

import pytest

from jaxcnn.weights.formats import restricted_pickle
from jaxcnn.weights.formats.restricted_pickle import Built, Global, PickleError, Span, load
from jaxcnn.weights.formats.stored_bytes import FileBytes


def loaded(folder, content, **options):
    (folder / "a.pkl").write_bytes(content)
    return load(FileBytes(folder / "a.pkl"), **options)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_those_of_pickle(protocol, tmp_path):
    shared = ("a", 1.5)
    value = {"x": [None, True, False, shared, shared, ()], "y": {}, "ü" * 300: (1, 2, 3, 4), 7: []}
    value["numbers"] = [0, 255, 256, 65_536, -1, -(2**31), 2**31, 2**63, -(10**50), 1e-300]
    assert loaded(tmp_path, pickle.dumps(value, protocol)).value == value


def test_long_runs_of_bytes_stay_in_the_file(tmp_path):
    content = pickle.dumps([b"short", b"x" * 5000], 3)
    short, span = loaded(tmp_path, content).value
    assert short == b"short"
    assert isinstance(span, Span)
    assert content[span.start : span.start + span.size] == b"x" * 5000


def test_strings_of_python_2(tmp_path):
    value = loaded(
        tmp_path, b"\x80\x02]q\x00(U\x03a\xffbT\x00\x01\x00\x00" + b"y" * 256 + b"e."
    ).value
    assert value == ["a\xffb", Span(16, 256)]


def test_pickles_that_follow_each_other(tmp_path):
    first, second = pickle.dumps([1], 2), pickle.dumps({"b": 2}, 2)
    stop = loaded(tmp_path, first + second).stop
    assert stop == len(first)
    assert loaded(tmp_path, first + second, start=stop) == ({"b": 2}, len(first + second))


def test_names_are_those_of_the_table(tmp_path):
    class Thing(Built):
        def set_state(self, state):
            self.state = state

    def thing():
        return Thing()

    content = b"\x80\x02cm\nthing\n)RK\x05bcm\nkind\n\x86."
    made, kind = loaded(tmp_path, content, table={"m.thing": thing, "m.kind": 3}).value
    assert made.state == 5
    assert kind == Global("m.kind", 3)
    with pytest.raises(PickleError, match=r"asks for m\.kind") as raised:
        loaded(tmp_path, content, table={"m.thing": thing})
    assert raised.value.name == "m.kind"
    with pytest.raises(PickleError, match="calls what is no function"):
        loaded(tmp_path, b"\x80\x02cm\nkind\n)R.", table={"m.kind": 3})
    with pytest.raises(PickleError, match="missing 1 required"):
        loaded(tmp_path, b"\x80\x02cm\nf\n)R.", table={"m.f": lambda x: x})


def test_a_persistent_id_is_what_the_caller_makes_of_it(tmp_path):
    content = b"\x80\x02K\x01K\x02\x86Q."
    assert loaded(tmp_path, content, persistent=sum).value == 3
    with pytest.raises(PickleError, match="something outside"):
        loaded(tmp_path, content)


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_run(protocol, tmp_path):
    with pytest.raises(PickleError, match=r"asks for posix\.mkdir"):
        loaded(tmp_path, pickle.dumps(Runs(tmp_path / "made"), protocol))
    assert not (tmp_path / "made").exists()
    with pytest.raises(PickleError, match=r"asks for collections\.OrderedDict"):
        loaded(tmp_path, pickle.dumps(collections.OrderedDict(), protocol))


BOMBS = {
    "a text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "an integer that is not there": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
    "empty dicts": b"\x80\x02" + b"}" * 10**4,
    "a tower of tuples": b"\x80\x02)" + b"\x85" * 3_000 + b"K\x01\x86.",
    "a key that is a tower": b"\x80\x02}" + b")" + b"\x85" * 3_000 + b"K\x01s.",
    "a list in itself": b"\x80\x02]q\x00h\x00ah\x00a.",
    "no end": b"\x80\x02K\x01",
    "nothing": b"",
    "a mark kept": b"\x80\x02(q\x00.",
    "a mark returned": b"\x80\x02(.",
    "pops nothing": b"\x80\x02\x86.",
    "no memo": b"\x80\x02h\x05.",
    "half an item": b"\x80\x02}(K\x01u.",
    "appends to a number": b"\x80\x02K\x01K\x02a.",
    "state of a number": b"\x80\x02K\x01K\x02b.",
    "values left": b"\x80\x02K\x01K\x02.",
    "not UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "a protocol to come": b"\x80\x09K\x01.",
    "a text without end as a name": b"\x80\x02c" + b"m" * 10**5 + b"\n.",
    "protocol 0": b"cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_and_damage_are_refused_in_little_memory(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(restricted_pickle, "_MOST_INSTRUCTIONS", 9_000)
    read = kind in ("a tower of tuples", "a list in itself")  # which harm nobody
    (tmp_path / "b.pkl").write_bytes(BOMBS[kind])
    tracemalloc.start()
    try:
        load(FileBytes(tmp_path / "b.pkl"))
    except PickleError:
        refused = True
    else:
        refused = False
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused != read
    assert peak < 3e6
