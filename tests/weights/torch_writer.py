"""Files of torch.save, written without torch: byte by byte, so that every part of one can be wrong."""

import io
import pickle
import struct
import zipfile

import numpy as np

KINDS = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(bool): "BoolStorage",
}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
BEGIN, END = b"\x80\x02", b"."


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x0b" + value.to_bytes(11, "little", signed=True)


def several(*items):
    return b"(" + b"".join(items) + b"t"


def named(name):
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def called(name, *arguments):
    return named(name) + several(*arguments) + b"R"


def filled(pairs):
    """An OrderedDict of (key, pickled value)."""
    items = b"".join(text(key) + value for key, value in pairs)
    return called("collections.OrderedDict") + b"(" + items + b"u"


def storage(kind, key, count, location="cpu", legacy=False):
    view = (b"N",) if legacy else ()
    parts = text("storage"), named(f"torch.{kind}"), text(key), text(location), number(count)
    return several(*parts, *view) + b"Q"


def tensor(stored, offset, shape, strides):
    """A tensor on a pickled storage; strides count elements."""
    sizes = several(*map(number, shape)), several(*map(number, strides))
    hooks = called("collections.OrderedDict")
    return called("torch._utils._rebuild_tensor_v2", stored, number(offset), *sizes, b"\x89", hooks)


def state_dict(arrays, legacy=False, location="cpu"):
    """The pickle of C-contiguous arrays, each on a storage of its own: '0', '1', ..."""
    rows = []
    for key, (name, array) in enumerate(arrays.items()):
        kind = KINDS[array.dtype]
        stored = storage(kind, str(key), array.size, location, legacy)
        strides = [stride // array.itemsize for stride in array.strides]
        rows.append((name, tensor(stored, 0, array.shape, strides)))
    return BEGIN + filled(rows) + END


def zip_bytes(content, storages, byteorder=b"little", method=zipfile.ZIP_STORED, more=()):
    """A zip file with a pickle and the bytes of its storages by key."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
        file.writestr("archive/version", b"3\n")
        for name, data in more:
            file.writestr(name, data)
    return buffer.getvalue()


def zip_file(arrays, location="cpu"):
    storages = {str(key): array.tobytes() for key, array in enumerate(arrays.values())}
    return zip_bytes(state_dict(arrays, location=location), storages)


def legacy_bytes(content, storages, little_endian=True):
    """A file of the time before zip files; `storages` are (number of elements, bytes) by key."""
    sizes = {"short": 2, "int": 4, "long": 4}
    about = {"protocol_version": PROTOCOL, "little_endian": little_endian, "type_sizes": sizes}
    heads = [pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, about)]
    data = [struct.pack("<q", count) + run for count, run in storages.values()]
    return b"".join([*heads, content, pickle.dumps(list(storages), 2), *data])


def legacy_file(arrays):
    storages = {str(k): (array.size, array.tobytes()) for k, array in enumerate(arrays.values())}
    return legacy_bytes(state_dict(arrays, legacy=True), storages)
