"""ONNX files, written and read by the onnx package, and read here without it."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from jaxcnn.files import FileError
from jaxcnn.models import build
from jaxcnn.weights.formats import open_weights
from jaxcnn.weights.formats.onnx_file import initializers, read_onnx
from jaxcnn.weights.formats.onnx_graph import Reading
from jaxcnn.weights.formats.onnx_sizes import graph_difference, map_sizes
from jaxcnn.weights.kernel_layout import from_stored
from jaxcnn.weights.match import match
from tests.weights.caffe_writer import field, values, varint

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
KINDS = {
    TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16, TensorProto.INT8: np.int8, TensorProto.UINT8: np.uint8,
    TensorProto.INT16: np.int16, TensorProto.UINT16: np.uint16, TensorProto.INT32: np.int32,
    TensorProto.UINT32: np.uint32, TensorProto.INT64: np.int64, TensorProto.UINT64: np.uint64,
    TensorProto.BOOL: np.bool_,
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(tensors, nodes=(), inputs=(), **options):
        graph = helper.make_graph(list(nodes), "graph", list(inputs), [], list(tensors), **options)
        path = tmp_path / "net.onnx"
        path.write_bytes(helper.make_model(graph).SerializeToString())
        return path

    return write


def image(*shape):
    return helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_number_in_either_place(write, kind, raw):
    dtype = KINDS[kind]
    array = np.array([[0, 1, 2], [77, 100, 127]]).astype(dtype)
    if np.dtype(dtype).kind == "i":
        array[1] *= -1
    given = array.tobytes() if raw else array.ravel()
    tensor = helper.make_tensor("w", kind, array.shape, given, raw=raw)
    found = read_onnx(write([tensor])).tensors["w"]
    expected = numpy_helper.to_array(tensor)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.read(), expected)
    np.testing.assert_array_equal(found.rows(1, 2), expected[1:])
    np.testing.assert_array_equal(found.read(), array)


def test_scalars_constants_and_lists_of_integers(write):
    scalar = numpy_helper.from_array(np.float32(3), "scalar")
    axes = numpy_helper.from_array(np.arange(3), "axes")
    names = helper.make_tensor("names", TensorProto.STRING, [2], [b"cat", b"dog"])
    kernel = numpy_helper.from_array(values(2, 3), "inner")
    constant = helper.make_node("Constant", [], ["w"], value=kernel)
    path = write([scalar, axes, names], [constant])
    tensors = read_onnx(path).tensors
    assert set(tensors) == {"scalar", "w"}
    assert tensors["scalar"].read() == 3
    np.testing.assert_array_equal(tensors["w"].read(), values(2, 3))
    assert set(initializers(path)) == {"scalar", "w", "axes"}


def external():
    tensor = numpy_helper.from_array(values(2), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")
    return tensor


def changed(**fields):
    tensor = numpy_helper.from_array(values(2, 3), "w")
    for name, value in fields.items():
        if isinstance(value, list):
            tensor.ClearField(name)
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (external(), "another file, which is not followed"),
        (changed(dims=[2, 4]), r"\[2, 4\], but 6 numbers"),
        (changed(dims=[2**40, 2**40]), "but 6 numbers"),
        (changed(dims=[-2, -3]), "-2"),
        (changed(dims=[1] * 65), "65 integers"),
        (changed(float_data=[1.0] * 6), "fields 4, 9"),
        (changed(data_type=TensorProto.COMPLEX64), "type 14, which is not read"),
        (changed(data_type=0), "type 0, which is not read"),
        (changed(raw_data=b"12345"), "float32 numbers"),
        (changed(raw_data=b""), "but 0 numbers"),
    ],
)
def test_arrays_that_are_refused(write, tensor, problem):
    with pytest.raises(FileError, match=problem):
        read_onnx(write([tensor]))


def test_files_that_are_refused(write, tmp_path):
    kernel = numpy_helper.from_array(values(2), "w")
    with pytest.raises(FileError, match="two arrays 'w'"):
        read_onnx(write([kernel, kernel]))
    indices = numpy_helper.from_array(np.arange(2))
    sparse = helper.make_sparse_tensor(kernel, indices, [9])
    with pytest.raises(FileError, match="sparse"):
        read_onnx(write([], sparse_initializer=[sparse]))
    with pytest.raises(FileError, match="sparse"):
        read_onnx(write([], [helper.make_node("Constant", [], ["w"], sparse_value=sparse)]))
    gemm = helper.make_node("Gemm", ["image", "w"], ["out"], name="fc", alpha=0.5)
    with pytest.raises(FileError, match=r"'fc'.*more than W x"):
        read_onnx(write([changed()], [gemm]))
    whole = write([kernel]).read_bytes()
    path = tmp_path / "half.onnx"
    for size in range(0, len(whole) - 7, 5):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError):
            initializers(path)["w"].read()
    endless = field(2, 6) + field(5, b"\xff" * 8)
    path.write_bytes(field(1, 8) + field(7, field(5, endless)))
    with pytest.raises(FileError, match="do not end"):
        open_weights(path)
    long = field(2, 6) + field(5, b"\xff" * 11 + varint(1)) + field(1, 1)
    path.write_bytes(field(1, 8) + field(7, field(5, long + field(8, "w"))))
    with pytest.raises(FileError, match="long integer"):
        initializers(path)["w"].read()


FAST = {"light_bvlc_alexnet", "light_vgg19"}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] * (path.stem not in FAST), id=path.stem)
        for path in sorted(LIGHT.glob("*.onnx"))
    ],
)
def test_the_light_copies_of_the_model_zoo(path):
    graph = onnx.load(path).graph
    found = initializers(path)
    for tensor in graph.initializer:
        expected = numpy_helper.to_array(tensor)
        assert found[tensor.name].dtype == expected.dtype
        np.testing.assert_array_equal(found[tensor.name].read(), expected)
    kinds = {"Conv", "Gemm", "MatMul"}
    reshaped = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    uses = [list(node.input[1:]) for node in graph.node if node.op_type in kinds]
    file = open_weights(path)
    reads = [[r.kernel, *[r.bias] * bool(r.bias)] for r in file.facts["reads"]]
    assert reads == [[reshaped.get(name, name) for name in names] for names in uses]
    assert file.format == "onnx"


@pytest.mark.parametrize(
    ("name", "net", "graph", "ours"),
    [
        ("light_bvlc_alexnet", {"name": "alexnet"}, (54, 26, 12, 6), "55, 27, 13, 6"),
        (
            "light_inception_v1",
            {"name": "googlenet"},
            (112, 55, 27, 13, 6, 1),
            "112, 56, 28, 14, 7",
        ),
        ("light_vgg19", {"name": "vgg", "column": "E"}, (224, 112, 56, 28, 14, 7), ""),
    ],
)
def test_names_of_the_model_zoo_and_the_difference_of_its_graphs(name, net, graph, ours):
    file = read_onnx(LIGHT / f"{name}.onnx")
    found = match(file)  # nothing is missing, nothing is left over
    assert found.form.program == "caffe2"
    assert net.items() <= found.model.items()
    assert "order" not in found.model
    assert not found.dropped
    assert map_sizes(file) == graph
    theirs = ", ".join(map(str, graph[: ours.count(",") + 1]))
    text = f"on images of 224 pixels the file's graph has maps of {theirs}, this net of {ours}"
    assert graph_difference(file, build(**net)) == (text if ours else "")


def test_an_array_that_the_graph_fills_is_not_made():
    tensor = read_onnx(LIGHT / "light_vgg19.onnx").tensors["fc6_w_0"]
    assert tensor.shape == (4096, 25088)
    with pytest.raises(FileError, match="fills it with one number"):
        tensor.rows(0, 1)


def test_layouts_are_those_that_the_graph_computes_with(write):
    """A convolution, then products on its map flattened in both orders, by onnxruntime."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    generator = np.random.default_rng(0)
    shapes = {"conv": (4, 3, 2, 2), "first": (5, 24), "last": (24, 6), "turned": (7, 5)}
    arrays = {n: generator.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    arrays |= {f"{n}_bias": generator.normal(size=k).astype(np.float32) for n, k in
               (("conv", 4), ("first", 5), ("last", 6))}  # fmt: skip
    flat = numpy_helper.from_array(np.array([0, 24]), "flat")
    nodes = [
        helper.make_node("Conv", ["image", "conv", "conv_bias"], ["map"], kernel_shape=[2, 2]),
        helper.make_node("Flatten", ["map"], ["rows"]),
        helper.make_node("Gemm", ["rows", "first", "first_bias"], ["one"], transB=1, name="a"),
        helper.make_node("Transpose", ["map"], ["hwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["hwc", "flat"], ["hwc_rows"]),
        helper.make_node("MatMul", ["hwc_rows", "last"], ["product"], name="b"),
        helper.make_node("Add", ["product", "last_bias"], ["two"]),
        helper.make_node("Transpose", ["turned"], ["turned_t"], perm=[1, 0]),
        helper.make_node("Identity", ["turned_t"], ["turned_i"]),
        helper.make_node("MatMul", ["one", "turned_i"], ["three"], name="c"),
    ]
    tensors = [flat, *(numpy_helper.from_array(a, n) for n, a in arrays.items())]
    path = write(tensors, nodes, [image(2, 3, 3, 4)])
    file = read_onnx(path)
    reads = file.facts["reads"]
    assert reads == (
        Reading("map", "Conv", "conv", "OIHW", "conv_bias"),
        Reading("a", "Gemm", "first", "O(IHW)", "first_bias"),
        Reading("b", "MatMul", "last", "(HWI)O", "last_bias"),
        Reading("c", "MatMul", "turned", "O(IHW)", ""),
    )
    assert list(file.tensors)[:4] == ["conv", "conv_bias", "first", "first_bias"]
    model = onnx.load(path)
    del model.graph.output[:]
    for name, size in (("map", (2, 4, 2, 3)), ("one", (2, 5)), ("two", (2, 6)), ("three", (2, 7))):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, size))
    model.ir_version, model.opset_import[0].version = 9, 18
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(model.SerializeToString(), options)
    pixels = generator.normal(size=(2, 3, 3, 4)).astype(np.float32)
    maps, one, two, three = session.run(None, {"image": pixels})
    ours = {r.kernel: r for r in reads}

    def product(name, inputs, shape):
        kernel = from_stored(file.tensors[name].read(), ours[name].layout, shape)
        bias = file.tensors[ours[name].bias].read() if ours[name].bias else 0
        return np.einsum("bhwi,hwio->bo", inputs, kernel) + bias

    last = maps.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(product("first", last, (2, 3, 4, 5)), one, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(product("last", last, (2, 3, 4, 6)), two, rtol=1e-4, atol=1e-4)
    vector = one[:, None, None]
    np.testing.assert_allclose(product("turned", vector, (1, 1, 5, 7)), three, rtol=1e-4, atol=1e-4)


def test_sizes_of_maps(write):
    kernel = numpy_helper.from_array(values(8, 3, 5, 5), "w")
    nodes = [
        helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2], dilations=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node(
            "MaxPool", ["b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, name="p"
        ),
        helper.make_node(
            "AveragePool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"
        ),
        helper.make_node("Conv", ["d", "w"], ["e"], strides=[0, 0]),
        helper.make_node("GlobalAveragePool", ["d"], ["f"]),
    ]
    maps = read_onnx(write([kernel], nodes, [image(1, 40, 43, 3)])).facts["graph"]
    # (40 - 9) // 2 + 1 = 16; ceil((16 - 3) / 2) + 1 = 8; 4. In the other direction 18, 9, 5.
    assert maps == {
        "input": (40, 43),
        "maps": {"a": (16, 18), "p": (8, 9), "d": (4, 5), "f": (1, 1)},
    }
    assert read_onnx(write([kernel], nodes, [image(1, "h", "w", 3)])).facts["graph"] == {}
