"""Caffe files that OpenCV's importer of Caffe runs: jaxcnn, which imports the same bytes, gives its logits.

Only another program's results show a wrong import; accuracy does not.
"""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn.models import build
from jaxcnn.weights.choices import Choices
from jaxcnn.weights.kernel_layout import from_stored, to_stored
from jaxcnn.weights.read import read_weights
from tests.models.narrow import cache_by_modules, quick_jit, random_variables, short_googlenet
from tests.weights import caffe_nets
from tests.weights.caffe_writer import caffemodel, prototxt

cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

TOLERANCE = 1e-4  # of the deviation of the logits
ALEXNET = {"name": "alexnet", "lrn": "whole", "lrn_constants": "caffe", "image_size": 227}
# (fields of the net, its layers in Caffe, Caffe's names, source, how --net says it)
NETS = {
    "alexnet": (ALEXNET, caffe_nets.alexnet, {}, "bvlc", ""),
    "caffenet": (
        {**ALEXNET, "order": "pool_norm"},
        functools.partial(caffe_nets.alexnet, order=caffe_nets.POOL_BEFORE_NORM), {}, "bvlc", "",
    ),
    "vgg": ({"name": "vgg", "column": "D", "image_size": 96}, caffe_nets.vgg, {}, "oxford", ""),
    "googlenet": ({"name": "googlenet"}, caffe_nets.googlenet, caffe_nets.GOOGLENET, "bvlc", ""),
}  # fmt: skip
FILES = {"new": {}, "V1": {"v1": True, "legacy": True}}


def blobs_of(params, names):
    """Caffe's name of a layer -> its blobs: kernels OIHW, fully connected ones as rows, conv1 in BGR."""
    leaves = flatten_dict(params, sep="/")
    kernels = {
        path.removesuffix("/kernel"): leaf
        for path, leaf in leaves.items()
        if path.endswith("kernel")
    }
    theirs = {ours: name for name, ours in names.items()} or {name: name for name in kernels}
    blobs = {}
    for index, name in enumerate(sorted(kernels, key=list(theirs).index)):
        kernel = np.asarray(kernels[name])
        layout = "O(IHW)" if name.rpartition("/")[2].startswith("fc") else "OIHW"
        kernel = kernel[:, :, ::-1] if index == 0 else kernel
        blobs[theirs[name]] = to_stored(kernel, layout), np.asarray(leaves[f"{name}/bias"])
    return blobs


@functools.cache
def random_net(name, width):
    model, layers, names, *_ = NETS[name]
    net = build(**model, width=width)
    params = random_variables(net, train=True)["params"]
    blobs = blobs_of(params, names)
    return net, params, layers(blobs), caffe_nets.heads(blobs) if name == "googlenet" else []


@cache_by_modules
def forward(net):
    return quick_jit(lambda params, images: net.apply({"params": params}, images)[0])


def by_opencv(folder, net, layers, heads, images, mean, **options):
    """(logits of OpenCV on BGR images minus the mean, the weights file), from files that are written here;
    `heads` are in the weights file only."""
    text, weights = folder / "deploy.prototxt", folder / "weights.caffemodel"
    text.write_text(prototxt(layers, net.image_size, v1=options.get("v1", False)))
    weights.write_bytes(caffemodel(layers + heads, **options))
    theirs = cv2.dnn.readNetFromCaffe(str(text), str(weights))
    theirs.setInput(np.ascontiguousarray((images - mean)[..., ::-1].transpose(0, 3, 1, 2)))
    return theirs.forward(layers[-1].name), weights


def difference(net, params, images, expected):
    """The largest error of the net's logits, relative to their deviation."""
    found = np.asarray(forward(net)(params, images))
    return np.abs(found - expected).max() / expected.std()


def wrong_imports(params, first):
    """What a wrong program would have read from the same file."""
    leaves = flatten_dict(params, sep="/")
    kernel = leaves[f"{first}/kernel"]
    yield "no BGR flip", {**leaves, f"{first}/kernel": kernel[:, :, ::-1]}
    convolutions = {p: k for p, k in leaves.items() if k.ndim == 4 and not p.startswith("fc")}
    turned = {path: kernel.transpose(1, 0, 2, 3) for path, kernel in convolutions.items()}
    yield "transposed kernels", {**leaves, **turned}
    if "fc6/kernel" in leaves:
        rows = to_stored(leaves["fc6/kernel"], "O(IHW)")
        left = from_stored(rows, "O(HWI)", leaves["fc6/kernel"].shape)
        yield "rows left channel-major", {**leaves, "fc6/kernel": left}


def pictures(side):
    """Two images of 0..255, and a mean."""
    images = np.random.default_rng(1).integers(0, 256, (2, side, side, 3)).astype(np.float32)
    return images, np.array([120.0, 110.0, 100.0], np.float32)


def check(name, width, folder, options):
    net, drawn, layers, heads = random_net(name, width)
    *_, source, text = NETS[name]
    images, mean = pictures(net.image_size)
    expected, weights = by_opencv(folder, net, layers, heads, images, mean, **options)
    found = read_weights(weights, Choices(source=source, net=text))
    assert found.net == net
    params = found.params()
    jax.tree.map(np.testing.assert_array_equal, params, drawn)
    compare(net, params, images - mean, expected)


def compare(net, params, images, expected):
    """The right import gives the logits of OpenCV, and no wrong one does."""
    assert difference(net, params, images, expected) < TOLERANCE
    for what, leaves in wrong_imports(params, "conv1" if "conv1" in params else "conv1_1"):
        error = difference(net, unflatten_dict(leaves, sep="/"), images, expected)
        assert error > 100 * TOLERANCE, what


@pytest.mark.parametrize("files", FILES)
def test_vgg(tmp_path, files):
    check("vgg", 1 / 16, tmp_path, FILES[files])


def test_alexnet(tmp_path):
    check("alexnet", 1 / 8, tmp_path, {})


def test_caffenet_pools_before_it_normalizes(tmp_path):
    check("caffenet", 1 / 8, tmp_path, {})
    net, params, layers, _ = random_net("caffenet", 1 / 8)
    images = np.random.default_rng(1).normal(0, 50, (1, 227, 227, 3)).astype(np.float32)
    expected, _ = by_opencv(tmp_path, net, layers, [], images, np.zeros(3, np.float32))
    assert difference(net, params, images, expected) < TOLERANCE
    alexnet = net.clone(order="norm_pool")
    assert difference(alexnet, params, images, expected) > 100 * TOLERANCE


def test_googlenet(tmp_path):
    """Of three modules, which compile in less time; the whole net, with its heads, is in a slow test."""
    names = caffe_nets.GOOGLENET
    with short_googlenet():
        net = build("googlenet", width=1 / 8)
        params = random_variables(net)["params"]
        layers = caffe_nets.googlenet(blobs_of(params, names), modules=("3a", "4a", "5a"))
        images, mean = pictures(224)
        expected, _ = by_opencv(tmp_path, net, layers, [], images, mean)
        compare(net, params, images - mean, expected)


@pytest.mark.slow
@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("name", NETS)
def test_at_a_quarter_of_the_width(tmp_path, name, files):
    check(name, 1 / 4, tmp_path, FILES[files])
