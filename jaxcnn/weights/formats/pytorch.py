"""PyTorch's files of weights (.pth, .pt): zip files, and those of the time before (until 1.5). torch is not
needed, and the pickle inside is not run."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from jaxcnn.files import FileError
from jaxcnn.weights.formats.pytorch_tensors import TABLE, Storage, View, load_storage
from jaxcnn.weights.formats.restricted_pickle import Loaded, PickleError, load
from jaxcnn.weights.formats.stored_bytes import AGAIN, FileBytes
from jaxcnn.weights.formats.zip_members import MAGIC, Member, members
from jaxcnn.weights.tensors import WeightsFile

# 0x1950A86A20F9469CFC6C, the first number of a file that is no zip file, as pickled.
_LEGACY_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
_LEGACY_PROTOCOL = 1001
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x80-\x95(-}]|c[\w.]+\n[\w.]+\n")
_LARGEST_PICKLE = 2**24
# Where training programs keep the weights beside other things.
_PARALLEL = "module."  # of the names of a model in DataParallel
_INSIDE = ("state_dict", "model_state_dict", "model")
_SAVE = "torch.save(model.state_dict(), 'weights.pth')"
_OTHER_ORDER, _ON_A_PC = "is not in little-endian byte order", f"save it on a PC: {_SAVE}"
_ONLY_WEIGHTS = f"if you trust it, load it with what wrote it and save the weights alone: {_SAVE}"


def recognises(path: Path, head: bytes) -> bool:
    """Whether the file is one of torch.save, weights or not."""
    if head.startswith(MAGIC):
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        if name.endswith(b"/data.pkl"):  # the first member that torch writes, also in half a file
            return True
        try:
            return any(name.endswith("/data.pkl") for name in members(path))
        except FileError:
            return False
    return head[:1] == b"\x80" and _LEGACY_MAGIC in head[:32]


def is_pickle(path: Path, head: bytes) -> bool:
    """Whether the file is a pickle of another program, of protocol 2 to 5 or one that begins with a name."""
    del path
    return _PICKLE.match(head) is not None


def refuse_pickle(path: Path) -> WeightsFile:
    """Raises FileError."""
    raise FileError(
        path,
        "is a pickle, a program that makes any objects; it was not run",
        f"if you trust it, load it with what wrote it and save its arrays: numpy.savez, or {_SAVE}",
    )


def read(path: Path) -> WeightsFile:
    """The tensors of a state_dict, without DataParallel's prefix of names. Facts: 'inside', the key of the
    dict that holds it, where one does.

    Raises:
        FileError: it is damaged, or holds another object: a module or a TorchScript program.
    """
    file, storages = FileBytes(path), {}
    zipped = file.read(0, min(file.size, len(MAGIC))).tobytes() == MAGIC
    value, places = (_read_zip if zipped else _read_legacy)(file, storages)
    views, facts = _state_dict(path, value)
    if all(name.startswith(_PARALLEL) for name in views):
        views = {name.removeprefix(_PARALLEL): view for name, view in views.items()}
    tensors = {}
    for name, view in views.items():
        if view.storage.key not in places:
            raise FileError(path, f"lacks the storage {view.storage.key} of {name}", AGAIN)
        tensors[name] = view.tensor(name, places[view.storage.key])
    return WeightsFile(path, "pytorch", tensors, facts)


def _state_dict(path: Path, value: Any) -> tuple[dict[str, View], dict[str, Any]]:
    """(the tensors by name, facts) of a pickled value."""
    facts: dict[str, Any] = {}
    for key in _INSIDE:
        if type(value) is dict and type(value.get(key)) is dict:
            value, facts = value[key], {"inside": key}
            break
    if type(value) is not dict or not value:
        kinds = {View: "one tensor", dict: "an empty dict", list: "a list"}
        kind = kinds.get(type(value), "another object")
        raise FileError(path, f"holds {kind}, not a state_dict", f"save one: {_SAVE}")
    others = [f"{key!s:.60}" for key, item in value.items() if not isinstance(item, View)]
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise FileError(path, f"holds what is no tensor: {shown}", f"save a state_dict: {_SAVE}")
    if not all(isinstance(key, str) for key in value):
        raise FileError(path, "has tensors without names", f"save a state_dict: {_SAVE}")
    return value, facts


def _load(file: FileBytes, start: int, storages: dict[str, Storage]) -> Loaded:
    """The pickle at a byte of a file; puts the storages that it refers to into `storages`."""
    try:
        return load(file, start, TABLE, partial(_keep_storage, storages))
    except PickleError as error:
        if error.name:
            problem = f"is not weights alone: its pickle {error}, which was not run"
            raise FileError(file.path, problem, _ONLY_WEIGHTS) from error
        raise FileError(file.path, f"is damaged: its pickle {error}", AGAIN) from error


def _keep_storage(storages: dict[str, Storage], identity: Any) -> Storage:
    storage = load_storage(identity)
    known = storages.setdefault(storage.key, storage)
    if (known.dtype, known.count) != (storage.dtype, storage.count):
        raise ValueError(f"has the storage {storage.key} in two kinds")
    return storage


def _read_zip(file: FileBytes, storages: dict[str, Storage]) -> tuple[Any, dict[str, FileBytes]]:
    """The pickled value, and where the storages are by key."""
    found = members(file.path)
    pickles = [name for name in found if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise FileError(file.path, f"has {len(pickles)} members data.pkl, expected one", AGAIN)
    folder = pickles[0].removesuffix("data.pkl")
    if any(name.startswith((f"{folder}code/", f"{folder}constants.pkl")) for name in found):
        advice = f"load it with torch.jit.load as model and save its weights: {_SAVE}"
        raise FileError(file.path, "is a program (TorchScript), not weights alone", advice)
    order = found.get(f"{folder}byteorder")
    if order is not None and _content(file, "byteorder", order, 16) != b"little":
        raise FileError(file.path, _OTHER_ORDER, _ON_A_PC)
    _content(file, "data.pkl", found[pickles[0]], _LARGEST_PICKLE)  # compares its checksum
    value = _load(found[pickles[0]].packed, 0, storages).value
    places = {}
    for storage in storages.values():
        name, size = f"{folder}data/{storage.key}", storage.count * storage.dtype.itemsize
        if name not in found:
            raise FileError(file.path, f"lacks its member {name}", AGAIN)
        places[storage.key] = _stored(file, name, found[name])
        if found[name].size != size:
            problem = f"has {found[name].size:,} bytes in {name}, expected {size:,}"
            raise FileError(file.path, problem, AGAIN)
    return value, places


def _content(file: FileBytes, name: str, member: Member, most: int) -> bytes:
    _stored(file, name, member)
    if member.size > most:
        raise FileError(file.path, f"has {member.size:,} bytes in {name}, too many", _ONLY_WEIGHTS)
    return member.content().read(0, member.size).tobytes()


def _stored(file: FileBytes, name: str, member: Member) -> FileBytes:
    if not member.stored:
        raise FileError(file.path, f"has its member {name} compressed", f"save it anew: {_SAVE}")
    return member.packed


def _read_legacy(file: FileBytes, storages: dict[str, Storage]) -> tuple[Any, dict[str, FileBytes]]:
    """As `_read_zip`. Five pickles, then each storage after the number of its elements."""
    heads, stop = [], 0
    for _ in range(5):
        head, stop = _load(file, stop, storages)
        heads.append(head)
    _, protocol, about, value, keys = heads
    if protocol != _LEGACY_PROTOCOL or type(about) is not dict or type(keys) is not list:
        raise FileError(file.path, "is damaged: its first values are not those of torch", AGAIN)
    if about.get("little_endian") is not True:
        raise FileError(file.path, _OTHER_ORDER, _ON_A_PC)
    places = {}
    for key in keys:
        if type(key) is not str or key not in storages or key in places:
            raise FileError(file.path, "is damaged: it lists storages that it does not use", AGAIN)
        storage = storages[key]
        count = int.from_bytes(file.part(stop, 8).read(0, 8).tobytes(), "little")
        if count != storage.count:
            problem = f"has {count:,} elements in the storage {key}, expected {storage.count:,}"
            raise FileError(file.path, problem, AGAIN)
        places[key] = file.part(stop + 8, count * storage.dtype.itemsize)
        stop += 8 + places[key].size
    if stop != file.size:
        raise FileError(file.path, f"goes on after its last storage at byte {stop:,}", AGAIN)
    return value, places
