"""Weights out and in again: equal bit for bit, and what cannot be exported is refused with the reason."""

import dataclasses
import math
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal, assert_array_max_ulp

from jaxcnn.files import FileError
from jaxcnn.models import NETS, build
from jaxcnn.models.kernels.dispatch import SWITCH
from jaxcnn.weights import weight_exports
from jaxcnn.weights.choices import Choices
from jaxcnn.weights.formats import open_weights
from jaxcnn.weights.formats.torch_writer import write_torch
from jaxcnn.weights.net_weights import Leaf, NetWeights, param_shapes
from jaxcnn.weights.programs.onnx_writer import write_onnx
from jaxcnn.weights.programs.program import make_program
from jaxcnn.weights.read import read_weights
from jaxcnn.weights.sources import SOURCES
from jaxcnn.weights.torchvision_layout import state_dict
from jaxcnn.weights.weight_exports import export_weights, weights_of
from tests.models.narrow import quick_jit, random_variables, short_googlenet
from tests.weights.torchvision_nets import import_torchvision, preprocess

slow = pytest.mark.slow
CLASSES = tuple(f"class {i}, é" for i in range(6))
OWN_MEAN = np.array([123.5, 116.75, 104.25], np.float32)
SMALL = {
    "alexnet": {"image_size": 72, "width": 0.125},
    "vgg": {"image_size": 64, "width": 0.125},
    "googlenet": {"image_size": 64, "width": 0.125},
    "cuda_convnet": {"width": 0.125},
}


def torch_mean(name):
    return np.asarray(SOURCES["torchvision"].conventions[name].mean, np.float32)


def indexed(name, mean=OWN_MEAN, origin=None, **fields):
    """Weights whose values are their own index, so that no axis can change places."""
    model = {"name": name, "num_classes": len(CLASSES), **SMALL[name], **fields}
    leaves = {}
    for path, shape in param_shapes(build(**model)).items():
        array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
        assert array.size < 2**24  # exact in float32
        leaves[path] = Leaf(shape, lambda array=array: array)
    return NetWeights(model, leaves, mean, CLASSES, origin or {"run": "a", "step": 3})


def assert_equal(found, weights, close=()):
    """Leaves and model are equal; of the leaves in `close` the last bit may differ."""
    assert found.leaves.keys() == weights.leaves.keys()
    for path, leaf in weights.leaves.items():
        wanted, got = leaf.read(), found.leaves[path].read()
        assert got.dtype == np.float32
        if path in close:
            assert_array_max_ulp(got, wanted, maxulp=1)
        else:
            assert_array_equal(got, wanted)
    assert found.net == weights.net
    assert_array_equal(found.mean, weights.mean)
    assert found.classes == weights.classes


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("format_name", ["safetensors", "npz"])
def test_a_file_with_our_names_is_the_net_again(name, format_name, tmp_path):
    path = tmp_path / f"out.{format_name}"
    with short_googlenet():
        weights = indexed(name)
        assert export_weights(weights, format_name, path) == ()
        found = read_weights(path)
        assert_equal(found, weights)
    assert found.origin["before"]["run"] == "a"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "name",
    ["alexnet", "cuda_convnet", *(pytest.param(n, marks=slow) for n in ("vgg", "googlenet"))],
)
def test_an_onnx_file_is_the_net_again(name, tmp_path):
    weights, path = indexed(name), tmp_path / "out.onnx"
    program = make_program(weights.net, weights.params(), weights.mean, CLASSES)
    write_onnx(program, path, weights.origin)
    found = read_weights(path)
    assert_equal(found, weights)
    assert found.origin["before"]["run"] == "a"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b"classes\x12", b"klasses\x12", "names its net, but not its classes"),
        (b"[123.5, ", b'["x.5", ', "neither three numbers nor an image"),
        (b'"OIHW"', b'"OIHX"', "unknown layouts"),
    ],
)
def test_damaged_metadata_of_an_onnx_file_are_an_error(old, new, problem, tmp_path):
    weights, path = indexed("cuda_convnet"), tmp_path / "out.onnx"
    program = make_program(weights.net, weights.params(), weights.mean, CLASSES)
    write_onnx(program, path, {})
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(FileError, match=problem):
        read_weights(path)


def test_an_onnx_file_of_a_layer_is_no_net(tmp_path):
    weights, path = indexed("alexnet"), tmp_path / "out.onnx"
    program = make_program(weights.net, weights.params(), weights.mean, CLASSES, features="pool5")
    write_onnx(program, path, {})
    with pytest.raises(FileError, match="fc6/kernel: missing"):
        read_weights(path)


OPTIONS = {
    "vgg": {"column": "A-LRN", "dropout_convention": "paper"},
    "alexnet": {"towers": 1, "drop_layer": "conv3", "lrn": "whole", "dtype": "bfloat16"},
    "googlenet": {"module": "naive", "stem": "separable", "head": "fully_connected"},
    "cuda_convnet": {"local": "shared", "activation": "tanh"},
}


@slow
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("format_name", ["safetensors", "npz"])
def test_options_travel_with_the_weights(name, format_name, tmp_path):
    weights = indexed(name, **OPTIONS[name])
    export_weights(weights, format_name, tmp_path / "out")
    assert_equal(read_weights(tmp_path / "out"), weights)


@pytest.mark.parametrize("format_name", ["safetensors", "npz"])
def test_a_mean_image_travels_with_the_weights(format_name, tmp_path):
    mean = np.random.default_rng(0).uniform(0, 255, (72, 72, 3)).astype(np.float32)
    weights = indexed("alexnet", mean=mean, lrn="off")
    export_weights(weights, format_name, tmp_path / "out")
    assert_equal(read_weights(tmp_path / "out"), weights)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "column", ["A", pytest.param("B", marks=slow), "D", pytest.param("E", marks=slow)]
)
def test_torchvisions_layout_is_the_net_again(column, suffix, tmp_path):
    """Kernels of conv1 are scaled and scaled back, which may change their last bit."""
    weights = indexed("vgg", mean=torch_mean("vgg"), column=column)
    path = tmp_path / f"out{suffix}"
    notes = export_weights(weights, "torchvision", path)
    assert notes[0].startswith(
        "conv1 takes RGB, 0..255 minus (123.675, 116.28, 103.53), divided by"
    )
    assert notes[1:] == (
        "torchvision's own class has width 1, this net 0.125",
        "torchvision's own class reads a map of 7x7, this net one of 2x2 (image_size=64)",
    )
    found = read_weights(path, Choices(source="torchvision", classes=CLASSES))
    assert_equal(found, weights, close=["conv1_1/kernel"])


TORCH_ALEXNET = {"towers": 1, "widths": "one_weird_trick", "lrn": "off"}
TORCH_GOOGLENET = {"branch5x5": 3, "pool4": "2/2", "lrn": False, "dropout": 0.2}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("alexnet", TORCH_ALEXNET),
        pytest.param("googlenet", TORCH_GOOGLENET, marks=slow),
    ],
)
def test_torchvisions_other_nets_are_the_nets_again(name, fields, tmp_path):
    """GoogLeNet's batch normalizations become the identity and a bias, exactly."""
    weights, path = indexed(name, mean=torch_mean(name), **fields), tmp_path / "out.pth"
    export_weights(weights, "torchvision", path)
    size = weights.model["image_size"]
    net = f"{name} image_size={size} " + " ".join(f"{k}={v}" for k, v in fields.items())
    found = read_weights(path, Choices(source="torchvision", net=net, classes=CLASSES))
    assert_equal(found, weights, close=["conv1/kernel"])


def test_another_mean_is_moved_with_its_bound(tmp_path):
    """As VGG's own mean: exact inside, off by the padding's share at the border."""
    mean = np.array([123.68, 116.779, 103.939], np.float32)
    net = build("vgg", column="A", num_classes=len(CLASSES), **SMALL["vgg"])
    params = random_variables(net)["params"]
    weights = weights_of(net, params, mean, CLASSES, {})
    _, moved, *_ = export_weights(weights, "torchvision", tmp_path / "out.pth")
    assert "mean moved from (123.68, 116.779, 103.939) to torchvision's: exact but at" in moved
    bound = float(moved.rpartition(" ")[2])
    found = read_weights(tmp_path / "out.pth", Choices(source="torchvision", classes=CLASSES))
    assert_array_equal(found.mean, torch_mean("vgg"))
    images = np.random.default_rng(1).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)

    def first_layer(kernel, bias, mean):
        padded = np.pad(images - mean, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.einsum("bhwcij,ijco->bhwo", windows, kernel) + bias

    kernels = (
        [np.asarray(w.leaves[f"conv1_1/{leaf}"].read()) for leaf in ("kernel", "bias")]
        for w in (weights, found)
    )
    ours, theirs = (
        first_layer(*arrays, m) for arrays, m in zip(kernels, (mean, found.mean), strict=True)
    )
    error = np.abs(ours - theirs)
    assert error[:, 1:-1, 1:-1].max() < 1e-5 * ours.std()
    assert 0.5 * bound < error.max() < 1.001 * bound


REFUSED = {
    "vgg_c": ({"name": "vgg", "column": "C"}, "its own has column=A or column=B or column=D or"),
    "vgg_a_lrn": ({"name": "vgg", "column": "A-LRN"}, "its own has column=A or"),
    "vgg_paper_dropout": ({"name": "vgg", "dropout_convention": "paper"}, "dropout_convention=inverted"),
    "alexnet": ({"name": "alexnet"}, "its own has towers=1, lrn=off"),
    "googlenet": ({"name": "googlenet"}, "its own has lrn=False"),
    "cuda_convnet": ({"name": "cuda_convnet"}, "torchvision has no cuda_convnet"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_net_that_torchvision_lacks_is_refused_with_the_fields_that_differ(case, tmp_path):
    model, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason):
        export_weights(indexed(**model), "torchvision", tmp_path / "out.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mean", "reason"),
    [
        (np.full(3, 127.5, np.float32), "the means differ by up to 23.97 grey levels"),
        (np.zeros((64, 64, 3), np.float32), "subtracts a mean image"),
    ],
)
def test_a_mean_that_cannot_be_folded_is_refused(mean, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        export_weights(indexed("vgg", mean=mean), "torchvision", tmp_path / "out.pth")
    assert not list(tmp_path.iterdir())


def test_another_suffix_and_a_file_that_exists_are_refused(tmp_path):
    weights, path = indexed("cuda_convnet"), tmp_path / "out.npz"
    with pytest.raises(ValueError, match=r"must end in \.pth, \.pt, \.safetensors"):
        export_weights(weights, "torchvision", path)
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        export_weights(weights, "npz", path)
    assert path.read_text() == "mine"


def test_a_file_that_is_another_when_it_is_read_is_not_left(tmp_path, monkeypatch):
    def changed(path, weights):
        bias = Leaf((8,), lambda: np.ones(8, np.float32))
        leaves = {**weights.leaves, "conv1/bias": bias}
        write(path, dataclasses.replace(weights, leaves=leaves))

    write = weight_exports.write_weights
    monkeypatch.setattr(weight_exports, "write_weights", changed)
    with pytest.raises(OSError, match=r"another one when it is read: conv1/bias"):
        export_weights(indexed("cuda_convnet"), "safetensors", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_pth_file_is_aligned_plain_and_the_same_each_time(tmp_path):
    arrays = {
        "a.weight": np.arange(30, dtype=np.float32).reshape(2, 3, 5),
        "b": np.float32(7).reshape(()),
        "c": np.zeros((0, 3), np.float32),
        "d": np.arange(7, dtype=np.float32),
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    for name in ("one.pth", "two.pth"):
        write_torch(tmp_path / name, shapes, arrays.__getitem__)
    content = (tmp_path / "one.pth").read_bytes()
    assert content == (tmp_path / "two.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.pth") as archive:
        assert archive.testzip() is None
        for number, array in enumerate(arrays.values()):
            member = archive.getinfo(f"archive/data/{number}")
            assert member.compress_type == zipfile.ZIP_STORED
            start = content.index(member.filename.encode()) + len(member.filename)
            start += len(member.extra)
            assert start % 64 == 0
            assert content[start : start + array.nbytes] == array.tobytes()
    found = open_weights(tmp_path / "one.pth").tensors
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert_array_equal(found[name].read(), array)
    with pytest.raises(ValueError, match=r"d has shape \(7,\), expected \(8,\)"):
        write_torch(tmp_path / "three.pth", {"d": (8,)}, arrays.__getitem__)
    assert not (tmp_path / "three.pth").exists()


TORCH_NETS = {
    "vgg11": {"name": "vgg", "column": "A"},
    "vgg13": {"name": "vgg", "column": "B"},
    "vgg16": {"name": "vgg", "column": "D"},
    "vgg19": {"name": "vgg", "column": "E"},
    "alexnet": {"name": "alexnet", **TORCH_ALEXNET},
    "googlenet": {"name": "googlenet", **TORCH_GOOGLENET},
}  # fmt: skip


@slow
@pytest.mark.parametrize("kind", TORCH_NETS)
def test_torchvision_loads_it_strictly_and_computes_the_same(kind, tmp_path, monkeypatch):
    torchvision = import_torchvision()
    import safetensors.torch
    import torch

    monkeypatch.setenv(SWITCH, "off")
    fields = dict(TORCH_NETS[kind])
    name = fields.pop("name")
    net = build(name, num_classes=len(CLASSES), **fields)
    params = random_variables(net)["params"]
    mean = torch_mean(name)
    weights = weights_of(net, params, mean, CLASSES, {})
    for suffix in (".pth", ".safetensors"):
        (note,) = export_weights(weights, "torchvision", tmp_path / f"out{suffix}")
        assert "as torchvision's does" in note
    theirs = torch.load(tmp_path / "out.pth", weights_only=True, mmap=True)
    also = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert theirs.keys() == also.keys()
    assert all(torch.equal(theirs[key], also[key]) for key in theirs)
    extra = {"transform_input": True, "aux_logits": False, "init_weights": False}
    made = getattr(torchvision.models, kind)(
        num_classes=len(CLASSES), **(extra if name == "googlenet" else {})
    )
    made.load_state_dict(theirs, strict=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    with torch.no_grad():
        found = made.eval()(preprocess(images)).numpy()
    run = quick_jit(net.apply)

    def ours(images):
        return np.asarray(run({"params": params}, images.astype(np.float32) - mean)[0])

    wanted = ours(images)
    assert np.abs(found - wanted).max() < 1e-4 * wanted.std()
    assert np.abs(found - ours(images[..., ::-1])).max() > 1e-2 * wanted.std()


def test_a_state_dict_names_every_array_once():
    arrays = state_dict(indexed("vgg", mean=torch_mean("vgg"), column="A")).arrays
    assert len(arrays) == 2 * 11
    assert arrays["features.0.weight"].shape == (8, 3, 3, 3)
    assert arrays["classifier.0.weight"].shape == (512, 64 * 2 * 2)
    assert {leaf.read().shape == leaf.shape for leaf in arrays.values()} == {True}
