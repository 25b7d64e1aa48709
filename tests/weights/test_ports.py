"""Files of other programs' names and layouts, made of a drawn net: the import gives its parameters again."""

import numpy as np
import pytest

from jaxcnn.files import FileError
from jaxcnn.weights.choices import Choices
from jaxcnn.weights.kernel_layout import to_stored
from jaxcnn.weights.read import read_weights
from tests.weights import keras_files, matconvnet_files
from tests.weights.drawn import drawn_weights
from tests.weights.matconvnet_files import cells

VGG = {"column": "D", "image_size": 64, "width": 0.125}  # fc6 reads a map of 2x2
ALEXNET = {"image_size": 99, "width": 0.125, "lrn": "whole", "lrn_constants": "caffe"}
CLASSES = tuple("abcde")
MEAN = np.array([123.5, 116.5, 103.5], np.float32)
TENSORFLOW = {"conv": "HWIO", "fc6": "(HWI)O", "fc": "IO"}
CONVOLUTIONS = dict.fromkeys(TENSORFLOW, "HWIO")


def drawn(name="vgg", **fields):
    weights = drawn_weights(
        name, classes=CLASSES, **({**VGG} if name == "vgg" else ALEXNET) | fields
    )
    return {path: leaf.read() for path, leaf in weights.leaves.items()}


def stored(params, layouts, order="RGB"):
    """Layer -> (kernel, bias), as a program with channels of `order` stores them."""
    found = {}
    for path, kernel in params.items():
        layer, leaf = path.rsplit("/", 1)
        if leaf == "kernel":
            if order == "BGR" and not found:
                kernel = kernel[:, :, ::-1]
            layout = layouts.get(layer, layouts["fc" if layer.startswith("fc") else "conv"])
            found[layer] = to_stored(kernel, layout), params[f"{layer}/bias"]
    return found


def keras_arrays(params):
    """By Keras's names."""
    found = {}
    layers = stored(params, TENSORFLOW, "BGR").values()
    for name, (kernel, bias) in zip(keras_files.LAYERS, layers, strict=True):
        found |= {f"{name}/kernel": kernel, f"{name}/bias": bias}
    return found


def assert_imported(path, params, **choices):
    weights = read_weights(path, Choices(classes=CLASSES, **choices))
    assert weights.leaves.keys() == params.keys()
    for name, array in params.items():
        np.testing.assert_array_equal(weights.leaves[name].read(), array, err_msg=name)
    return weights


@pytest.mark.parametrize("kind", ["weights.h5", "keras"])
def test_kerass_vgg16(kind, tmp_path):
    params, path = drawn(), tmp_path / f"a.{kind}"
    write = {"weights.h5": keras_files.write_weights_h5, "keras": keras_files.write_keras}[kind]
    write(path, keras_arrays(params))
    weights = assert_imported(path, params, source="keras")
    assert weights.mean == pytest.approx([123.68, 116.779, 103.939])
    with pytest.raises(FileError, match=r"--source=.*keras"):
        read_weights(path)


def test_frossards_vgg16(tmp_path):
    params, path = drawn(), tmp_path / "vgg16_weights.npz"
    arrays = {}
    for layer, (kernel, bias) in stored(params, TENSORFLOW).items():
        arrays |= {f"{layer}_W": kernel, f"{layer}_b": bias}
    np.savez(path, **arrays)
    assert assert_imported(path, params, source="frossard").model["column"] == "D"


def test_torontos_nets(tmp_path):
    params, path = drawn(), tmp_path / "vgg16.npy"
    np.save(path, np.array({k: list(v) for k, v in stored(params, TENSORFLOW, "BGR").items()}))
    assert_imported(path, params, source="toronto")
    params, path = drawn("alexnet"), tmp_path / "bvlc_alexnet.npy"
    np.save(path, np.array({k: list(v) for k, v in stored(params, TENSORFLOW, "BGR").items()}))
    with pytest.raises(FileError, match=r"fits 2 nets.*order=norm_pool.*order=pool_norm"):
        read_weights(path)
    for order in ("norm_pool", "pool_norm"):
        net = f"alexnet order={order}"
        assert assert_imported(path, params, source="toronto", net=net).model["order"] == order


@pytest.mark.parametrize("order", ["norm_pool", "pool_norm"])
def test_matconvnets_alexnet_and_caffenet_differ_by_the_order_of_layers(order, tmp_path):
    params, path = drawn("alexnet"), tmp_path / "a.mat"
    variables = matconvnet_files.simple_nn(stored(params, CONVOLUTIONS), MEAN, CLASSES)
    kinds = ("normalize", "pool") if order == "norm_pool" else ("pool", "lrn")
    others = [{"name": f"{kind}1", "type": kind} for kind in kinds]
    variables["layers"] = cells([*others, *variables["layers"][0]])
    matconvnet_files.write(path, variables)
    weights = assert_imported(path, params, source="matconvnet")
    assert weights.model.get("order", "norm_pool") == order
    assert weights.mean == pytest.approx(MEAN)


def test_matconvnets_vgg_has_its_mean_and_classes(tmp_path):
    params, path = drawn(), tmp_path / "a.mat"
    image = np.full((64, 64, 3), MEAN)
    variables = matconvnet_files.simple_nn(stored(params, CONVOLUTIONS), image, CLASSES)
    matconvnet_files.write(path, variables)
    weights = read_weights(path, Choices(source="matconvnet"))
    assert weights.classes == CLASSES
    assert weights.mean == pytest.approx(MEAN)


BRANCHES = {
    "conv1x1": "out0", "conv3x3_reduce": "reduction1", "conv3x3": "out1", "conv5x5_reduce": "reduction2",
    "conv5x5": "out2", "pool_proj": "out3",
}  # fmt: skip


@pytest.mark.slow
def test_matconvnets_googlenet(tmp_path):
    weights = drawn_weights("googlenet", classes=CLASSES, width=0.125)
    params, path = {k: leaf.read() for k, leaf in weights.leaves.items()}, tmp_path / "a.mat"
    stem = {"conv1": "conv1", "conv2_reduce": "reduction2", "conv2": "conv2", "fc": "cls3_fc"}
    modules, arrays = [], {}
    for layer, pair in stored(params, CONVOLUTIONS).items():
        module, _, name = layer.partition("/")
        if name and module not in modules:
            modules.append(module)
        there = f"icp{modules.index(module) + 1}_{BRANCHES[name]}" if name else stem[layer]
        arrays |= {f"{there}_filter": pair[0], f"{there}_bias": pair[1]}
    matconvnet_files.write(path, matconvnet_files.dag_nn(arrays, MEAN))
    assert_imported(path, params, source="matconvnet", net="googlenet image_size=32")
