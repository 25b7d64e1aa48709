"""NumPy's files: .npz, and the pickled dicts of Caffe's converters."""

import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from jaxcnn.files import FileError
from jaxcnn.weights.formats import open_weights


def indices(*shape, dtype=np.float32):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


# As Frossard's vgg16_weights.npz and jaxcnn's own have them, and what else an .npy can hold.
ARRAYS = {
    "conv1_1_W": indices(3, 3, 3, 4),
    "conv1_1_b": indices(4),
    "fc6_W": indices(500, 300),
    "fc6/kernel": np.asfortranarray(indices(7, 5, 6)),
    "half": indices(3, 2, dtype=np.float16),
    "big": indices(3, 2, dtype=">f8"),
    "scalar": np.array(3, np.int32),
    "empty": np.zeros((0, 2), np.float32),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_an_npz_are_read_by_rows_stored_or_deflated(save, tmp_path):
    save(tmp_path / "a.npz", **ARRAYS)
    file = open_weights(tmp_path / "a.npz")
    assert (file.format, file.facts) == ("npz", {})
    assert list(file.tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        tensor = file.tensors[name]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
        assert np.array_equal(tensor.read(), array), name
        assert tensor.read().flags.c_contiguous
    for name in ("fc6_W", "fc6/kernel"):
        blocks = [
            file.tensors[name].rows(i, min(i + 3, len(ARRAYS[name])))
            for i in range(0, len(ARRAYS[name]), 3)
        ]
        assert np.array_equal(np.concatenate(blocks), ARRAYS[name])
        assert np.array_equal(file.tensors[name].rows(2, 4), ARRAYS[name][2:4])


def test_jaxcnns_own_texts_are_facts(tmp_path):
    facts = {"model": {"name": "vgg"}, "mean": [1.0, 2.0, 3.0], "classes": ["a", "ü"]}
    texts = {name: np.array(json.dumps(value)) for name, value in facts.items()}
    np.savez(tmp_path / "a.npz", **texts, **{"conv1/kernel": indices(3)})
    file = open_weights(tmp_path / "a.npz")
    assert file.facts == facts
    assert list(file.tensors) == ["conv1/kernel"]


def npy(array, shape=None, descr=None):
    """The bytes of an .npy, whose header may lie."""
    file = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    header |= {"shape": shape or array.shape, "descr": descr or header["descr"]}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


def write_zip(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in contents:
            file.writestr(name, content)


def read_all(path):
    return [tensor.read() for tensor in open_weights(path).tensors.values()]


def refused(path, problem):
    tracemalloc.start()
    try:
        with pytest.raises(FileError, match=problem):
            read_all(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


BAD_MEMBERS = {
    "more is declared than there is": (npy(indices(4), (2**40,)), "for 'a' of shape"),
    "less is declared than there is": (npy(indices(4), (3,)), "for 'a' of shape"),
    "objects": (npy(indices(2, dtype=np.int64), descr="|O"), "not of numbers"),
    "records": (npy(indices(2, dtype=np.int64), descr=[("x", "<i4"), ("y", "<i4")]), "not of num"),
    "a negative side": (npy(indices(4), (-4,)), "of shape"),
    "a header that is no dict": (b"\x93NUMPY\x01\x00\x06\x00[1, 2]", "damaged header"),
    "a deep header": (b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000, "damaged header"),
    "a long header": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31), "header of 2,147,483,648"),
    "no array": (b"text of some length", "no array of NumPy"),
    "nothing": (b"", "no array of NumPy"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_a_member_that_is_no_plain_array_is_refused(case, tmp_path):
    content, problem = BAD_MEMBERS[case]
    write_zip(tmp_path / "a.npz", [("a.npy", content)])
    refused(tmp_path / "a.npz", problem)


def test_zip_bombs_and_damaged_zips_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    write_zip(path, [("a.npy", npy(np.zeros(2**20)))], zipfile.ZIP_DEFLATED)
    refused(path, "compressed bytes that expand to 8,388,7")
    write_zip(path, [("a.npy", npy(indices(4)))], zipfile.ZIP_BZIP2)
    refused(path, "compressed otherwise than by deflate")
    content = npy(indices(1000))
    write_zip(path, [("a.npy", content), ("b.npy", content)])
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")

    def changed(place, data):
        path.write_bytes(whole[:place] + data + whole[place + len(data) :])

    second = whole.index(b"PK\x01\x02", directory + 1)
    changed(second + 42, struct.pack("<I", 0))
    refused(path, "no member where 'b.npy' should be")
    changed(second + 46, b"a")
    refused(path, "two members 'a.npy'")
    changed(directory + 20, struct.pack("<II", len(content) + 60, len(content) + 60))
    refused(path, "members that overlap")
    changed(directory + 8, b"\x01")
    refused(path, "encrypted")
    changed(len(content) // 2, b"x")
    refused(path, "a checksum is wrong")
    changed(directory, b"x")
    refused(path, "damaged zip directory")
    changed(whole.index(b"PK\x05\x06") + 12, struct.pack("<I", 2**30))
    refused(path, "too many")
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "no zip directory")


def net():
    """A dict as the converters pickle it."""
    return {
        "conv1": [indices(3, 3, 3, 40), indices(40)],
        "conv2": {"weights": np.asfortranarray(indices(4, 5)), "biases": indices(5, dtype=">f4")},
    }


def python2_pickle(layers):
    """The pickle of an object array as Python 2 wrote it: names of NumPy 1 and bytes as 8-bit strings."""

    def text(content):
        size = bytes([len(content)]) if len(content) < 256 else struct.pack("<I", len(content))
        return (b"U" if len(content) < 256 else b"T") + size + content

    def array(shape, kind, order, fortran, data):
        sides = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in shape) + b"t"
        flags = b"K?" if kind == b"O8" else b"K\x00"
        state = b"(K\x03" + text(order) + b"NNN" + 2 * b"J\xff\xff\xff\xff" + flags + b"tb"
        dtype = b"cnumpy\ndtype\n(" + text(kind) + b"K\x00K\x01tR" + state
        made = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
        )
        order = b"\x88" if fortran else b"\x89"
        return made + b"(K\x01" + sides + dtype + order + data + b"tb"

    def numbers(values):
        order, kind = values.dtype.str[:1].encode(), values.dtype.str[1:].encode()
        return array(values.shape, kind, order, values.flags.fnc, text(values.tobytes("A")))

    items = b""
    for name, held in layers.items():
        values = held if isinstance(held, list) else held.values()
        items += text(name.encode()) + b"](" + b"".join(map(numbers, values)) + b"e"
    return b"\x80\x02" + array((), b"O8", b"|", False, b"](}(" + items + b"ue") + b"."


@pytest.mark.parametrize("python", [2, 3])
def test_dicts_of_converters_are_read_without_running_a_pickle(python, tmp_path):
    path, layers = tmp_path / "bvlc_alexnet.npy", net()
    np.save(path, np.array(layers, object), allow_pickle=True)
    if python == 2:
        start = path.read_bytes().index(b"\n") + 1
        path.write_bytes(path.read_bytes()[:start] + python2_pickle(layers))
        assert np.array_equal(
            np.load(path, allow_pickle=True, encoding="latin1").item()["conv1"][0],
            layers["conv1"][0],
        )
    file = open_weights(path)
    assert (file.format, list(file.facts["layers"])) == ("npy", ["conv1", "conv2"])
    assert list(file.tensors) == ["conv1/weights", "conv1/biases", "conv2/weights", "conv2/biases"]
    for name, tensor in file.tensors.items():
        layer, leaf = name.split("/")
        held = layers[layer]
        array = held[leaf] if isinstance(held, dict) else held[leaf == "biases"]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
        assert np.array_equal(tensor.read(), array), name


class _Runs:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran')",)


BAD_PICKLES = {
    "a call": ({"a": _Runs()}, "asks for builtins.exec"),
    "a list": ([indices(3)], "not one dict of layers|no list of weights"),
    "a number": ({"a": 3}, "no list of weights and biases"),
    "texts": ({"a": ["x", "y"]}, "no array"),
    "an array of objects": ({"a": [np.array([None, 1])]}, "not of numbers"),
    "three arrays": ({"a": [indices(3)] * 3}, "no list of weights and biases"),
    "one array by many names": ({f"{i}": [ARRAYS["fc6_W"]] for i in range(9)}, "the same bytes"),
}


@pytest.mark.parametrize("case", BAD_PICKLES)
def test_a_pickle_of_anything_else_is_refused(case, tmp_path):
    value, problem = BAD_PICKLES[case]
    holder = np.empty((), object)
    holder[()] = value
    np.save(tmp_path / "a.npy", holder, allow_pickle=True)
    refused(tmp_path / "a.npy", problem)


def test_a_single_array_and_half_a_file_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, indices(3))
    refused(path, "one array of float32 and shape .3., not a net")
    np.save(path, np.array(net(), object), allow_pickle=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "is cut short")
    path.write_bytes(whole + b"x")
    refused(path, "not one dict of layers")
