"""A net as an ONNX file: uint8 images in, the program's outputs and the class names out.

The graph is made with onnx.helper; the file is written here, one parameter after the other, so that a net of
575 MB takes little more memory than it has.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxcnn.files import atomic_file
from jaxcnn.models import NETS, net_fields
from jaxcnn.models.layer_graph import Concatenation, Images, Node, layer_graph
from jaxcnn.weights.formats.onnx_own import PRODUCER
from jaxcnn.weights.programs.onnx_nodes import OPSET, Initializer, OnnxGraph
from jaxcnn.weights.programs.program import INPUT, Program

BATCH = "N"
# Of the same time as the opset: older runtimes refuse what onnx would write by default.
IR_VERSION = 8
USAGE = """\
import onnxruntime
session = onnxruntime.InferenceSession("FILE.onnx")
outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"images": images})))
"""


def write_onnx(program: Program, path: Path, origin: Mapping[str, Any]) -> None:
    """Writes `program` as an ONNX file of opset 18, with the class names as an output and in the metadata.

    Raises:
        ValueError: the package onnx is not installed.
        WriteError: the file cannot be written.
    """
    onnx = load_onnx()
    graph, outputs = program_graph(program, onnx.helper.make_node)
    floats, strings = onnx.TensorProto.FLOAT, onnx.TensorProto.STRING
    images = (BATCH, *program.size, 3)
    inputs = [onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, images)]
    infos = [
        onnx.helper.make_tensor_value_info(name, floats, (BATCH, *shape))
        for name, shape in outputs.items()
    ]
    constants = []
    if "probabilities" in outputs:
        names, shape = [name.encode() for name in program.classes], (len(program.classes),)
        constants.append(onnx.helper.make_tensor("classes", strings, shape, names))
        infos.append(onnx.helper.make_tensor_value_info("classes", strings, shape))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "jaxcnn", inputs, infos, constants, doc_string=USAGE),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
        producer_version=importlib.metadata.version("jaxcnn"),
    )
    onnx.helper.set_model_props(model, _metadata(program, graph.layouts, origin))
    with atomic_file(path) as file:
        _write_model(file, model, graph.initializers)


def program_graph(
    program: Program, make_node: Callable[..., Any]
) -> tuple[OnnxGraph, dict[str, tuple[int, ...]]]:
    """The graph from the images to the outputs, and the outputs' shapes for one image."""
    layers = layer_graph(program.net, program.dense)
    graph = OnnxGraph(make_node, layers, program.weights)
    mean = graph.constant("mean", program.mean[None])
    floats = graph.add("Cast", [INPUT], "images_float", to=1)
    centered = graph.add("Sub", [floats, mean], "images_minus_mean")
    graph.input(
        _images(layers.scores), graph.add("Transpose", [centered], "nchw", perm=[0, 3, 1, 2])
    )
    if program.features:
        node = layers.outputs[program.features]
        _channels_last(graph, graph.output(node), node, "features")
        return graph, {"features": node.shape}
    scores, shape = graph.output(layers.scores), layers.scores.shape
    if not program.dense:
        graph.add("Softmax", [scores], "probabilities", axis=-1)
        return graph, {"probabilities": shape}
    _channels_last(graph, scores, layers.scores, "scores")
    positions = graph.constant("positions", np.array([2, 3], np.int64))
    means = graph.add("ReduceMean", [scores, positions], "mean_scores", keepdims=0)
    graph.add("Softmax", [means], "probabilities", axis=-1)
    return graph, {"probabilities": shape[-1:], "scores": shape}


def read_onnx(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The function from images to outputs that an ONNX file holds: run by onnxruntime where it is installed,
    else by onnx's own evaluator, which is slower.

    Raises:
        ValueError: neither package is installed.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        load_onnx()
        session = importlib.import_module("onnx.reference").ReferenceEvaluator(str(path))
        names = session.output_names
    else:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {INPUT: images}), strict=True))


def load_onnx() -> Any:
    """The package onnx; a ValueError that says how to install it."""
    try:
        import onnx
    except ImportError as error:
        advice = "ONNX files are written with the package onnx: pip install 'jaxcnn[onnx]'"
        raise ValueError(f"{advice} ({error})") from error
    return onnx


def _images(node: Node) -> Images:
    while not isinstance(node, Images):
        node = node.sources[0] if isinstance(node, Concatenation) else node.source
    return node


def _channels_last(graph: OnnxGraph, tensor: str, node: Node, name: str) -> None:
    if len(node.shape) == 1:
        graph.add("Identity", [tensor], name)
    else:
        graph.add("Transpose", [tensor], name, perm=[0, 2, 3, 1])


def _metadata(
    program: Program, layouts: Mapping[str, str], origin: Mapping[str, Any]
) -> dict[str, str]:
    """What `formats.onnx_own` reads again."""
    net = program.net
    name = next(name for name, kind in NETS.items() if type(net) is kind)
    facts = {
        "model": {"name": name} | {field: getattr(net, field) for field in net_fields(name)},
        "classes": program.classes,
        "mean": (program.mean[0, 0] if program.mean.size == 3 else program.mean).tolist(),
        "layouts": dict(layouts),
        "origin": dict(origin),
    }
    return {key: json.dumps(value) for key, value in facts.items()}


def _write_model(file: IO[bytes], model: Any, initializers: Mapping[str, Initializer]) -> None:
    """Writes `model` with these constants at the end of its graph. A message of protobuf is its fields one
    after the other, each with a tag and, here, a length."""
    onnx = load_onnx()
    heads = {}
    for name, constant in initializers.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(constant.dtype)
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=constant.shape)
        size = math.prod(constant.shape) * constant.dtype.itemsize
        head = tensor.SerializeToString() + _head(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, size)
        heads[name] = _head(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(head) + size) + head, size
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    length = len(graph) + sum(len(head) + size for head, size in heads.values())
    file.write(
        model.SerializeToString() + _head(onnx.ModelProto.GRAPH_FIELD_NUMBER, length) + graph
    )
    for name, (head, size) in heads.items():
        file.write(head)
        written = sum(file.write(block.data) for block in initializers[name].blocks())
        assert written == size, name


def _head(field: int, length: int) -> bytes:
    """The tag of a field whose content has a length, and the length."""
    numbers = []
    for number in (field << 3 | 2, length):
        while number > 127:
            numbers.append(number & 127 | 128)
            number >>= 7
        numbers.append(number)
    return bytes(numbers)
