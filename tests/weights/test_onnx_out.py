"""ONNX files: every net and option, run by onnxruntime, equal to jaxcnn's own outputs."""

import json
import subprocess
import sys
import tracemalloc
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from jaxcnn.models import NETS, build
from jaxcnn.models.kernels.dispatch import SWITCH
from jaxcnn.weights.kernel_layout import stored_blocks, to_stored
from jaxcnn.weights.programs import onnx_nodes
from jaxcnn.weights.programs.onnx_writer import program_graph, read_onnx, write_onnx
from jaxcnn.weights.programs.program import make_program
from tests.models.narrow import (
    abstract_variables,
    cache_by_modules,
    features,
    quick_jit,
    random_variables,
    short_googlenet,
)

slow = pytest.mark.slow
# Relative to the standard deviation of the outputs. A wrong file is off by 0.05 or more.
TOLERANCE = 1e-4
CLASSES = tuple(f"class {i}, é" for i in range(6))
MEAN = np.array([123.5, 116.75, 104.25], np.float32)
SMALL = {
    "alexnet": {"image_size": 104, "width": 0.1},
    "vgg": {"image_size": 32, "width": 0.07},
    "googlenet": {"image_size": 64, "width": 0.1},
    "cuda_convnet": {"width": 0.15},
}
# Several options at once; `test_each_option` has each alone.
CASES = {
    "alexnet": ("alexnet", {}),
    "alexnet_whole": ("alexnet", {"lrn": "whole", "lrn_constants": "caffe", "dropout_convention": "paper"}),
    "alexnet_ungrouped": (
        "alexnet",
        {"ungrouped": True, "activation": "tanh", "lrn_constants": "cuda_convnet2", "drop_layer": "conv2"},
    ),
    "alexnet_one_tower": ("alexnet", {"towers": 1, "pooling": "non_overlapping", "drop_layer": "conv3"}),
    "caffenet": ("alexnet", {"order": "pool_norm", "lrn": "whole", "lrn_constants": "caffe"}),
    "torchvision_alexnet": ("alexnet", {"towers": 1, "widths": "one_weird_trick", "lrn": "off"}),
    "torchvision_googlenet": ("googlenet", {"branch5x5": 3, "pool4": "2/2", "lrn": False}),
    "vgg_a_lrn": ("vgg", {"column": "A-LRN"}),
    "vgg_c": ("vgg", {"column": "C", "dropout_convention": "paper"}),
    "googlenet": ("googlenet", {}),
    "googlenet_naive": (
        "googlenet",
        {"module": "naive", "stem": "separable", "head": "fully_connected", "lrn_constants": "paper"},
    ),
    "cuda_convnet": ("cuda_convnet", {}),
    "cuda_convnet_shared": (
        "cuda_convnet",
        {"local": "shared", "activation": "tanh", "pooling": "non_overlapping", "lrn": False},
    ),
}  # fmt: skip


FAST = ("alexnet", "alexnet_ungrouped", "vgg_a_lrn", "googlenet", "cuda_convnet")


def net_and_params(name, fields):
    """Weights with which the posteriors are neither alike nor 0 and 1."""
    return _net_and_params(name, tuple(fields.items()))


@cache_by_modules
def _net_and_params(name, fields):
    net = build(name, num_classes=len(CLASSES), **{**SMALL[name], **dict(fields)})
    params = dict(random_variables(net)["params"])
    last = "fc8" if "fc8" in params else "fc"
    return net, {**params, last: jax.tree.map(lambda leaf: leaf / 50, params[last])}


def pixels(count, height, width):
    return np.random.default_rng(3).integers(0, 256, (count, height, width, 3), np.uint8)


@cache_by_modules
def compiled(net):
    return quick_jit(net.apply)


def expected(net, params, images, mean=MEAN):
    """jaxcnn's logits minus their mean over classes."""
    logits, _ = compiled(net)({"params": params}, images.astype(np.float32) - mean)
    return logits - logits.mean(-1, keepdims=True)


def assert_close(found, wanted, tolerance=TOLERANCE):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * wanted.std()


def logits_of(probabilities):
    """The logits minus their mean."""
    logs = np.log(probabilities.astype(np.float64))
    return logs - logs.mean(-1, keepdims=True)


def check_file(path, net, params, **what):
    """Writes a program of probabilities, checks the file, and compares it on 1 and 3 images."""
    write_onnx(make_program(net, params, MEAN, CLASSES, **what), path, {"file": "a"})
    onnx.checker.check_model(str(path), full_check=True)
    run, images = read_onnx(path), pixels(3, net.image_size, net.image_size)
    wanted = expected(net, params, images)
    assert 0.005 < wanted.std() < 20
    for count in (1, 3):
        found = run(images[:count])
        assert sorted(found) == ["classes", "probabilities"]
        assert tuple(found["classes"]) == CLASSES
        assert_close(logits_of(found["probabilities"]), wanted[:count])


@pytest.mark.parametrize(
    "case", [case if case in FAST else pytest.param(case, marks=slow) for case in CASES]
)
def test_a_net_equals_its_onnx_file(case, tmp_path):
    with short_googlenet():
        check_file(tmp_path / "net.onnx", *net_and_params(*CASES[case]))


NEEDED = {"one_weird_trick": {"towers": 1}}


def each_option():
    for name, kind in NETS.items():
        for field, values in kind.choices.items():
            for value in values:
                if field != "kernel_init":
                    fields = {field: value, **NEEDED.get(value, {})}
                    yield pytest.param(name, fields, id=f"{name}-{field}-{value}")


@slow
@pytest.mark.parametrize(("name", "fields"), [*each_option()])
def test_each_option(name, fields, tmp_path):
    check_file(tmp_path / "net.onnx", *net_and_params(name, fields))


def counts(name, **fields):
    """Nodes of a net at full width; no weights are made."""
    net = build(name, **fields)
    params = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), abstract_variables(net)["params"]
    )
    program = make_program(net, params, MEAN, CLASSES)
    graph, outputs = program_graph(program, onnx.helper.make_node)
    assert outputs == {"probabilities": (1000,)}
    return Counter(node.op_type for node in graph.nodes)


@pytest.mark.slow
def test_counts_of_nodes():
    """Cast, Sub, Transpose and Softmax are there once each, Flatten before the first Gemm alone."""
    alexnet = counts("alexnet")
    assert alexnet["Conv"] == 5
    assert alexnet["MaxPool"] == 3
    assert (alexnet["Split"], alexnet["LRN"], alexnet["Concat"]) == (2, 4, 2)
    assert alexnet.total() == 31
    googlenet = counts("googlenet")
    assert (googlenet["Conv"], googlenet["Relu"], googlenet["MaxPool"]) == (57, 57, 13)
    assert (googlenet["Concat"], googlenet["LRN"], googlenet["Gemm"]) == (9, 2, 1)
    assert googlenet.total() == 145


@slow
def test_counts_of_nodes_of_other_nets():
    assert counts("alexnet", lrn="whole").total() == 25
    assert counts("vgg", column="A-LRN").total() == 32
    assert counts("vgg", column="C").total() == 41


def test_names_shapes_and_metadata(tmp_path):
    net, params = net_and_params("alexnet", {})
    path = tmp_path / "net.onnx"
    write_onnx(make_program(net, params, MEAN, CLASSES), path, {"file": "a"})
    model = onnx.load(str(path))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    (images,) = model.graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim]
    assert (images.name, dims) == ("images", ["N", 104, 104, 3])
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    assert shapes["conv2/kernel"] == (26, 5, 5, 5)  # half of the channels of conv1
    assert shapes["fc6/kernel"] == (410, 26 * 2 * 2)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for layer, leaves in params.items():
        assert np.array_equal(arrays[f"{layer}/bias"], leaves["bias"])
    kernel = np.asarray(params["conv2"]["kernel"])
    assert np.array_equal(arrays["conv2/kernel"], kernel.transpose(3, 2, 0, 1))
    facts = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert tuple(facts["classes"]) == CLASSES
    assert facts["mean"] == MEAN.tolist()
    assert facts["origin"] == {"file": "a"}
    fields = dict(facts["model"])
    assert build(fields.pop("name"), **fields) == net


@pytest.mark.parametrize(
    "layer", ["norm1", "fc7", *(pytest.param(name, marks=slow) for name in ("conv2", "pool5"))]
)
def test_a_layer(layer, tmp_path):
    net, params = net_and_params("alexnet", {"dropout_convention": "paper"})
    path, images = tmp_path / "net.onnx", pixels(3, 104, 104)
    write_onnx(make_program(net, params, MEAN, CLASSES, features=layer), path, {})
    found = read_onnx(path)(images)
    inputs = jnp.asarray(images.astype(np.float32) - MEAN)
    wanted = features(net, {"params": params}, inputs)[layer]
    assert list(found) == ["features"]
    assert_close(found["features"], np.asarray(wanted))
    unused = [t.name for t in onnx.load(str(path)).graph.initializer if t.name == "fc8/kernel"]
    assert not unused


@slow
def test_an_inception_module(tmp_path):
    with short_googlenet():
        net, params = net_and_params("googlenet", {})
        path, images = tmp_path / "net.onnx", pixels(2, 64, 64)
        write_onnx(make_program(net, params, MEAN, CLASSES, features="inception_3a"), path, {})
        inputs = jnp.asarray(images.astype(np.float32) - MEAN)
        wanted = features(net, {"params": params}, inputs, ("inception_3a",))["inception_3a"]
    assert_close(read_onnx(path)(images)["features"], np.asarray(wanted))


@pytest.mark.parametrize(
    "name", ["alexnet", *(pytest.param(name, marks=slow) for name in ("vgg", "googlenet"))]
)
def test_a_score_map(name, tmp_path):
    with short_googlenet():
        net, params = net_and_params(name, {})
        size = (2 * net.image_size, 3 * net.image_size)
        path, images = tmp_path / "net.onnx", pixels(2, *size)
        program = make_program(net, params, MEAN, CLASSES, dense=size)
        write_onnx(program, path, {})
        onnx.checker.check_model(str(path), full_check=True)
        run = quick_jit(lambda *inputs: net.apply(*inputs, method="score_map"))
        inputs = images.astype(np.float32) - MEAN
        scores, _ = run({"params": params}, inputs, np.tile(np.int32(size), (2, 1)))
    found, scores = read_onnx(path)(images), np.asarray(scores)
    assert scores.shape[1] > 1
    assert_close(found["scores"], scores)
    means = scores.mean((1, 2))
    assert_close(logits_of(found["probabilities"]), means - means.mean(-1, keepdims=True))


def test_a_mean_image(tmp_path):
    net, params = net_and_params("vgg", {})
    mean = np.random.default_rng(0).uniform(0, 255, (40, 40, 3)).astype(np.float32)
    path, images = tmp_path / "net.onnx", pixels(2, 32, 32)
    write_onnx(make_program(net, params, mean, CLASSES), path, {})
    wanted = expected(net, params, images, mean[4:-4, 4:-4])
    found = logits_of(read_onnx(path)(images)["probabilities"])
    assert_close(found, wanted)


def bgr(monkeypatch):
    monkeypatch.setattr(
        onnx_nodes.OnnxGraph,
        "kernel",
        changed_kernel(lambda path, kernel: kernel[:, :, ::-1] if path == "conv1" else kernel),
    )


def rows_with_channels_last(monkeypatch):
    def as_channel_major(path, kernel):
        if path != "fc6":
            return kernel
        rows = kernel.reshape(kernel.shape[2], *kernel.shape[:2], kernel.shape[3])
        return rows.transpose(1, 2, 0, 3)

    monkeypatch.setattr(onnx_nodes.OnnxGraph, "kernel", changed_kernel(as_channel_major))


def transposed_in_space(monkeypatch):
    monkeypatch.setattr(
        onnx_nodes.OnnxGraph,
        "kernel",
        changed_kernel(lambda _, kernel: kernel.transpose(1, 0, 2, 3)),
    )


def changed_kernel(change):
    def kernel(graph, path, layout):
        name = f"{path}/kernel"
        array = np.ascontiguousarray(change(path, np.asarray(graph.weights[name])))
        return graph.constant(name, to_stored(array, layout))

    return kernel


def alpha_not_times_n(monkeypatch):
    constants = onnx_nodes.ops.LRN_CONSTANTS["paper"]._replace(alpha_over_n=True)
    monkeypatch.setitem(onnx_nodes.ops.LRN_CONSTANTS, "paper", constants)


def lrn_across_towers(monkeypatch):
    def lrn(graph, node, source):
        return write(graph, onnx_nodes.dataclasses.replace(node, groups=1), source)

    kind = onnx_nodes.layers.LocalResponseNorm
    write = onnx_nodes.WRITERS[kind]
    monkeypatch.setitem(onnx_nodes.WRITERS, kind, lrn)


@pytest.mark.parametrize(
    "mistake",
    [bgr, rows_with_channels_last, transposed_in_space, alpha_not_times_n, lrn_across_towers],
)
def test_the_comparison_sees_a_mistake(mistake, monkeypatch, tmp_path):
    net, params = net_and_params("alexnet", {})
    images = pixels(3, 104, 104)
    wanted = expected(net, params, images)
    mistake(monkeypatch)
    write_onnx(make_program(net, params, MEAN, CLASSES), tmp_path / "net.onnx", {})
    found = logits_of(read_onnx(tmp_path / "net.onnx")(images)["probabilities"])
    assert np.abs(found - wanted).max() > 100 * TOLERANCE * wanted.std()


CHILD = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jaxcnn", "jax", "flax"):
            raise ImportError("must not be imported here: " + name)
sys.meta_path.insert(0, Refuse())
import numpy, onnxruntime
session = onnxruntime.InferenceSession("net.onnx")
images = numpy.load("images.npy")
names = [output.name for output in session.get_outputs()]
for count in (1, 3):
    outputs = dict(zip(names, session.run(None, {"images": images[:count]})))
    numpy.save(f"probabilities_{count}.npy", outputs["probabilities"])
"""


def test_a_process_without_jaxcnn_runs_it(tmp_path):
    net, params = net_and_params("vgg", {})
    images = pixels(3, 32, 32)
    write_onnx(make_program(net, params, MEAN, CLASSES), tmp_path / "net.onnx", {})
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = expected(net, params, images)
    for count in (1, 3):
        assert_close(logits_of(np.load(tmp_path / f"probabilities_{count}.npy")), wanted[:count])


def test_a_large_kernel_is_not_copied(tmp_path):
    net = build("vgg", column="A", width=0.25, num_classes=6)
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), abstract_variables(net)["params"]
    )
    program = make_program(net, params, MEAN, CLASSES)
    assert params["fc6"]["kernel"].nbytes > 25e6
    tracemalloc.start()
    try:
        write_onnx(program, tmp_path / "net.onnx", {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "net.onnx").stat().st_size > 30e6
    assert peak < 12e6


def test_blocks_of_a_kernel_are_its_rows():
    kernel = np.arange(7 * 7 * 64 * 300, dtype=np.float32).reshape(7, 7, 64, 300)
    for layout in ("OIHW", "O(IHW)"):
        blocks = list(stored_blocks(kernel, layout))
        assert len(blocks) > 1
        assert np.array_equal(np.concatenate(blocks), to_stored(kernel, layout))


def test_without_onnx_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    net, params = net_and_params("vgg", {})
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxcnn\[onnx\]'"):
        write_onnx(make_program(net, params, MEAN, CLASSES), tmp_path / "net.onnx", {})
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_onnx_itself_runs_it(monkeypatch, tmp_path):
    net, params = net_and_params("vgg", {})
    write_onnx(make_program(net, params, MEAN, CLASSES), tmp_path / "net.onnx", {})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    images = pixels(2, 32, 32)
    found = read_onnx(tmp_path / "net.onnx")(images)
    wanted = expected(net, params, images)
    assert_close(logits_of(found["probabilities"]), wanted)
    assert tuple(found["classes"]) == CLASSES


FULL = {
    "alexnet": {}, "alexnet_whole": {"lrn": "whole", "image_size": 227, "lrn_constants": "caffe"},
    "vgg_a_lrn": {"column": "A-LRN"}, "vgg_c": {"column": "C"}, "vgg_d": {"column": "D"},
    "vgg_e": {"column": "E"}, "googlenet": {},
}  # fmt: skip


@slow
@pytest.mark.parametrize("case", FULL)
def test_full_width(case, tmp_path, monkeypatch):
    monkeypatch.setenv(SWITCH, "off")
    name = case.partition("_")[0]
    full = {"width": 1.0, "image_size": 224, **FULL[case]}
    check_file(tmp_path / "net.onnx", *net_and_params(name, full))
