"""ONNX files with names of a converter's own: found by the order of the graph, equal in onnxruntime."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from jaxcnn.files import FileError
from jaxcnn.models import build
from jaxcnn.weights.choices import Choices
from jaxcnn.weights.inspection import inspect_weights
from jaxcnn.weights.kernel_layout import to_stored
from jaxcnn.weights.read import read_weights
from tests.models.narrow import quick_jit, random_variables

NET = build("vgg", column="A", width=1 / 16, image_size=64, num_classes=1000)
FULL = ("fc6", "fc7", "fc8")
MEAN = np.array([123.68, 116.779, 103.939], np.float32)


def written(params, style):
    """The net as a converter writes it, in BGR: 'tf2onnx' flattens channels last and multiplies, with the
    biases in nodes of their own, and stores its arrays last first; 'gemm' flattens channels first;
    'norm' has batch normalizations instead of the convolutions' biases."""
    nodes, tensors, value = [], [], "image"

    def array(content, name):
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(content), name))
        return name

    def node(kind, *inputs, **attributes):
        nodes.append(helper.make_node(kind, inputs, [f"value_{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    for index, (layer, leaves) in enumerate(params.items()):
        kernel, bias = np.asarray(leaves["kernel"]), np.asarray(leaves["bias"])
        bias = array(bias, f"{index}/Squeeze:0")
        if layer not in FULL:
            if index == 0:
                kernel = kernel[:, :, ::-1]
            weights = array(to_stored(kernel, "OIHW"), f"{index}/ReadVariableOp:0")
            biases = () if style == "norm" else (bias,)
            value = node("Conv", value, weights, *biases, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            if style == "norm":
                count = kernel.shape[-1]
                scale, mean, variance = np.random.default_rng(index).uniform(0.5, 1.5, (3, count))
                others = [
                    array(a.astype(np.float32), f"{index}/{i}")
                    for i, a in enumerate((scale, mean, variance))
                ]
                value = node(
                    "BatchNormalization", value, others[0], bias, *others[1:], epsilon=0.01
                )
            value = node("Relu", value)
            if layer in ("conv1_1", "conv2_1", "conv3_2", "conv4_2", "conv5_2"):
                value = node("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
            continue
        if layer == "fc6":
            if style == "tf2onnx":
                value = node("Transpose", value, perm=[0, 2, 3, 1])
            value = node("Flatten", value)
        if style == "tf2onnx":
            weights = array(to_stored(kernel, "(HWI)O"), f"{index}/MatMul")
            value = node("Add", node("MatMul", value, weights), bias)
        else:
            weights = array(to_stored(kernel, "O(IHW)"), f"{index}/Gemm")
            value = node("Gemm", value, weights, bias, transB=1)
        value = value if layer == "fc8" else node("Relu", value)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])
    logits = helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 1000])
    graph = helper.make_graph(nodes, style, [image], [logits], tensors[::-1])
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "style", ["tf2onnx", *(pytest.param(style, marks=slow) for style in ("gemm", "norm"))]
)
def test_a_net_by_the_order_of_its_layers(tmp_path, style):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    names = [f"conv{n}" for n in ("1_1", "2_1", "3_1", "3_2", "4_1", "4_2", "5_1", "5_2")]
    drawn = random_variables(NET)["params"]
    model = written({name: drawn[name] for name in (*names, *FULL)}, style)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileError, match="--source"):
        read_weights(path)
    choices = Choices(source="oxford")
    assert inspect_weights(path, choices).facts["names"] == "of onnx"
    found = read_weights(path, choices)
    assert found.net == NET
    assert found.model["column"] == "A"
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32) - MEAN
    session = runtime.InferenceSession(model.SerializeToString())
    expected = session.run(None, {"image": images[..., ::-1].transpose(0, 3, 1, 2)})[0]
    forward = quick_jit(lambda params, x: NET.apply({"params": params}, x)[0])

    def error(params):
        return np.abs(forward(params, images) - expected).max() / expected.std()

    params = found.params()
    assert error(params) < 1e-4
    rows = params["fc6"]["kernel"].transpose(1, 0, 2, 3)
    assert error({**params, "fc6": {**params["fc6"], "kernel": rows}}) > 1e-2


def test_the_graph_of_the_model_zoo_differs_and_is_not_taken():
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    facts = inspect_weights(folder / "light_bvlc_alexnet.onnx", Choices()).facts
    assert facts["graph"].endswith("its weights are taken, not its graph")
