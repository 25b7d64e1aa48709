"""Caffe's files, written here byte by byte."""

import os

import numpy as np
import pytest

from jaxcnn.files import FileError
from jaxcnn.weights import mean_image
from jaxcnn.weights.formats import caffe, open_weights, proto_numbers, protobuf
from jaxcnn.weights.formats.caffe import is_caffemodel, read_caffemodel, read_mean_image
from tests.weights.caffe_writer import (
    Layer,
    binaryproto,
    blob,
    caffemodel,
    field,
    prototxt,
    raw_float,
    values,
    varint,
)

LAYERS = [
    Layer("data", "Data", (), "data"),
    Layer("conv1", "Convolution", ("data",), "conv1", blobs=(values(4, 3, 2, 2), values(4))),
    Layer("relu1", "ReLU", ("conv1",), "conv1"),
    Layer("fc/6", "InnerProduct", ("conv1",), "fc6", blobs=(values(5, 16), values(5))),
]


@pytest.fixture
def write(tmp_path):
    def write(content, name="net.caffemodel"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("v1", [False, True])
def test_every_kind_of_file_gives_the_arrays(write, v1, legacy, double, packed):
    content = caffemodel(LAYERS, "tiny", v1=v1, legacy=legacy, double=double, packed=packed)
    file = read_caffemodel(write(content))
    expected = {f"{layer.name}/{i}": b for layer in LAYERS for i, b in enumerate(layer.blobs)}
    assert list(file.tensors) == list(expected)
    assert file.facts["layers"] == {layer.name: layer.kind for layer in LAYERS}
    assert file.facts["net"] == "tiny"
    for name, array in expected.items():
        tensor = file.tensors[name]
        assert tensor.shape == array.shape
        assert tensor.dtype == (np.float64 if double else np.float32)
        np.testing.assert_array_equal(tensor.read(), array)
        np.testing.assert_array_equal(tensor.rows(1, 3), array[1:3])
        assert tensor.rows(1, 3).flags.c_contiguous


def test_only_the_bytes_of_the_rows_are_read(write, monkeypatch):
    rows, columns = 300, 5000
    layer = Layer("fc6", "InnerProduct", blobs=(values(rows, columns),))
    path = write(caffemodel([layer]))
    read = []
    preadv = os.preadv

    def counted(descriptor, buffers, offset):
        read.append(sum(len(b) for b in buffers))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    tensor = read_caffemodel(path).tensors["fc6/0"]
    assert sum(read) < 30_000  # headers
    read.clear()
    np.testing.assert_array_equal(tensor.rows(200, 202), layer.blobs[0][200:202])
    assert read == [2 * columns * 4]


def test_packed_and_unpacked_pieces_of_one_array_are_joined(write):
    shape = field(7, field(1, varint(7)))
    packed = field(5, np.arange(2, 5, dtype="<f4").tobytes())
    data = raw_float(5, 0) + raw_float(5, 1) + packed + raw_float(5, 5) + raw_float(5, 6)
    layer = field(1, "a") + field(2, "Scale") + field(7, shape + data)
    tensor = read_caffemodel(write(field(100, layer))).tensors["a/0"]
    np.testing.assert_array_equal(tensor.read(), np.arange(7, dtype=np.float32))
    np.testing.assert_array_equal(tensor.rows(1, 6), np.arange(1, 6, dtype=np.float32))


def test_unknown_fields_groups_and_gradients_are_skipped(write):
    group = varint(50 << 3 | 3) + field(51, b"x") + varint(52 << 3 | 3) + varint(52 << 3 | 4)
    group += varint(50 << 3 | 4)
    gradient = field(6, values(4).tobytes())
    layer = group + field(1, "a") + field(2, "Bias") + field(7, blob(values(4)) + gradient) + group
    content = field(77, 5) + field(1, "net") + group + field(100, layer) + field(300, b"rest")
    file = read_caffemodel(write(content))
    np.testing.assert_array_equal(file.tensors["a/0"].read(), values(4))


def one_blob(content, kind="Convolution"):
    return field(100, field(1, "a") + field(2, kind) + field(7, content))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (one_blob(blob(values(2, 3)) + field(5, b"\0" * 4)), r"\[2, 3\], but 7 numbers"),
        (one_blob(field(7, field(1, varint(2**62) * 2))), "but 0 numbers"),
        (one_blob(field(1, 2**40) + field(2, 2**40)), "is empty"),
        (one_blob(field(7, field(1, varint(-2) * 2)) + field(5, b"\0" * 16)), "-2"),
        (one_blob(field(5, b"\0" * 6)), "no float32 numbers"),
        (one_blob(b""), "is empty"),
        (one_blob(blob(values(2)) + field(8, b"\0" * 16)), "float64"),
        (one_blob(b"\x2a\xff\xff\xff\xff\x0f"), "damaged"),
        (one_blob(b"\x2a" + b"\xff" * 11), "does not end"),
        (field(100, field(1, b"\xff\xfe")), "UTF-8"),
        (field(100, 5), "no message"),
        (b"\0\0\0\0", "begins no field"),
        (varint(9 << 3 | 3) * 40, "groups"),
        (varint(9 << 3 | 3), "does not end"),
        (varint(9 << 3 | 4), "never began"),
        (field(2, field(1, b"v0")), "V0"),
        (field(100, field(1, "data")), "no weights"),
        (b"", "no weights"),
        (one_blob(blob(values(2))) * 2, "two layers"),
    ],
)  # fmt: skip
def test_a_damaged_file_gives_an_error_that_says_where(write, content, problem):
    with pytest.raises(FileError, match=problem):
        read_caffemodel(write(content))


def test_half_a_file_is_cut_short(write):
    content = caffemodel(LAYERS)
    # A message has no length of its own: without its last layers a net is a whole one.
    whole = {len(caffemodel(LAYERS[:count])) for count in range(2, 4)}
    for size in set(range(0, len(content), 13)) - whole:
        with pytest.raises(FileError, match=r"cut short|no weights"):
            read_caffemodel(write(content[:size]))
    for size in whole:
        assert list(read_caffemodel(write(content[:size])).tensors) == ["conv1/0", "conv1/1"]


def test_what_takes_more_memory_than_bytes_is_limited(write, monkeypatch):
    monkeypatch.setattr(caffe, "_MOST_LAYERS", 3)
    with pytest.raises(FileError, match="more than 3 layers"):
        read_caffemodel(write(field(100, b"") * 4))
    monkeypatch.setattr(protobuf, "_MOST_FIELDS", 100)
    with pytest.raises(FileError, match="more than 100 fields"):
        read_caffemodel(write(field(77, 5) * 101))
    monkeypatch.setattr(proto_numbers, "_MOST_PIECES", 5)
    pieces = field(5, b"\0" * 4) * 6
    with pytest.raises(FileError, match="more than 5 pieces"):
        read_caffemodel(write(one_blob(field(7, field(1, 6)) + pieces)))


def test_a_file_that_shrinks_after_its_headers_were_read(write):
    path = write(caffemodel(LAYERS))
    tensor = read_caffemodel(path).tensors["fc/6/0"]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FileError, match="cut short"):
        tensor.read()


def test_folders_fifos_and_missing_files(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in (".", "fifo", "none"):
        with pytest.raises(FileError):
            read_caffemodel(tmp_path / name)


def test_mean_image(write):
    image = np.random.default_rng(0).uniform(0, 255, (3, 5, 6)).astype(np.float32)
    for content in (binaryproto(image), blob(image), blob(image[None], double=True)):
        found = read_mean_image(write(content, "mean.binaryproto"))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, image)
    with pytest.raises(FileError, match=r"its shape is \[4, 5\]"):
        read_mean_image(write(blob(values(4, 5)), "mean.binaryproto"))


def test_mean_image_of_either_program_is_the_same_in_rgb(write, tmp_path):
    image = np.random.default_rng(0).uniform(0, 255, (3, 9, 9)).astype(np.float32)
    path = write(binaryproto(image), "mean")
    np.save(tmp_path / "mean.npy", image.astype(np.float64))
    means = image[::-1].mean((1, 2)).tolist()
    for file in (path, tmp_path / "mean.npy"):
        found = mean_image.read_mean_image(file, 8, means)
        np.testing.assert_array_equal(found, image[::-1].transpose(1, 2, 0))
    with pytest.raises(FileError, match="not in BGR"):
        mean_image.read_mean_image(path, 8, [mean + 2 for mean in means])
    with pytest.raises(FileError, match="a side of 9"):
        mean_image.read_mean_image(path, 10, means)
    with pytest.raises(FileError, match="damaged"):
        mean_image.read_mean_image(write(b"no image", "text"), 8, means)


def test_files_are_recognised_by_their_content(write, tmp_path):
    for v1 in (False, True):
        assert is_caffemodel(tmp_path, caffemodel(LAYERS, v1=v1)[:64])
        assert open_weights(write(caffemodel(LAYERS, v1=v1), "x.pth")).format == "caffemodel"
        with pytest.raises(FileError, match=r"give the \.caffemodel"):
            open_weights(write(prototxt(LAYERS, 8, v1=v1).encode(), "deploy.prototxt"))
    with pytest.raises(FileError, match=r"give the \.caffemodel"):
        open_weights(write(b"# a net\nlayers {\n", "train_val"))
    with pytest.raises(FileError, match="--mean_image"):
        open_weights(write(binaryproto(values(3, 4, 4)), "mean.binaryproto"))
    for content in (b"PK\3\4", b"\x89HDF\r\n", b"\x93NUMPY", b"\x80\2", b"{}", b"name", b""):
        assert not is_caffemodel(tmp_path, content)
