"""Dense evaluation of real ImageNet images of many shapes, where this checkout has them.

`python -m pytest -m slow -s tests/evaluation/test_real_images.py` prints the figures of docs/evaluation.md.
"""

import math
import tarfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data import EvalLoader
from jaxcnn.data.jpeg import read_header
from jaxcnn.evaluation import Forward, choose_crops, evaluate, image_posteriors
from jaxcnn.evaluation.forward import mean_scores
from jaxcnn.evaluation.protocols import Dense, MultiCrop
from jaxcnn.models import build
from jaxcnn.parallel import make_placement
from tests.models.narrow import quick_jit

ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "imagenet_200.tar"
MEAN = np.array([123.68, 116.779, 103.939], np.float32)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"needs the real images of {ARCHIVE}"),
]


class Photographs:
    """`count` images of the archive, spread over its aspect ratios: from the extremes, or from the middle
    of each of `count` equal shares."""

    class_names = tuple("abcde")

    def __init__(self, count, extremes=True):
        with tarfile.open(ARCHIVE) as tar:
            files = [tar.extractfile(m).read() for m in tar if m.name.endswith(".JPEG")]
        files.sort(key=lambda data: math.log(read_header(data).height / read_header(data).width))
        last = len(files) - 1
        places = [i * last // (count - 1) for i in range(count)]
        if not extremes:
            places = [(2 * i + 1) * last // (2 * count) for i in range(count)]
        self.files = [files[place] for place in places]
        self.ids = np.arange(count)

    def __len__(self):
        return len(self.files)

    def read(self, index):
        return self.files[index], index % 5

    def name(self, index):
        return f"photograph {index}"


def net_and_params(name, **fields):
    """Weights with which all of an image reaches the scores."""
    net = build(name, num_classes=1000, **fields)
    images = jnp.zeros((1, net.image_size, net.image_size, 3))
    shapes = jax.eval_shape(net.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)

    def draw(leaf):
        std = np.float32(math.sqrt(2 / max(1, math.prod(leaf.shape[:-1]))))
        return jnp.asarray(std * rng.standard_normal(leaf.shape, np.float32))

    return net, jax.tree.map(draw, shapes)


@pytest.mark.parametrize(
    ("name", "fields", "count"),
    [
        ("alexnet", {}, 60),
        ("googlenet", {}, 60),
        ("vgg", {"column": "D", "width": 0.25}, 60),
        ("vgg", {"column": "D"}, 4),
    ],
    ids=["alexnet", "googlenet", "vgg_d_quarter", "vgg_d"],
)
def test_buckets_equal_one_image_at_a_time(name, fields, count):
    net, params = net_and_params(name, **fields)
    source, protocol = Photographs(count), Dense(flip=False)
    forward = Forward(net, MEAN, make_placement(data=1), 4 if count > 4 else 2)
    found, pixels = {}, {}
    with EvalLoader(source, choose_crops(forward, protocol)) as loader:

        def kept():
            for image in loader:
                (pixels[image.position],) = image.pixels.values()
                yield image

        for image, values in image_posteriors(forward, params, kept(), protocol):
            found[image.position] = values
    alone = quick_jit(
        lambda p, i, s: mean_scores(*net.apply({"params": p}, i, s, method="score_map"))
    )
    worst = 0.0
    for position, image in pixels.items():
        images = jnp.asarray(image[None].astype(np.float32) - MEAN)
        scores = alone(params, images, jnp.asarray([image.shape[:2]], jnp.int32))
        expected = np.asarray(jax.nn.log_softmax(scores[0]), np.float64)
        difference = np.abs(found[position] - expected).max() / np.abs(np.asarray(scores)).max()
        worst = max(worst, difference)
    shapes = sorted({(s.height, s.width) for s in forward.compiled})
    sizes = len({image.shape for image in pixels.values()})
    print(
        f"\n{name} {fields}: {count} images of {sizes} sizes, {len(shapes)} compilations {shapes}, "
        f"largest difference / largest logit {worst:.1e}"
    )
    assert len(found) == count
    assert len(shapes) <= 8
    assert worst <= 1e-5


def test_dense_is_ten_times_faster_than_fifty_crops():
    """VGG D at full width, one run: the same four usual images, both compiled before."""
    net, params = net_and_params("vgg", column="D")
    source = Photographs(4, extremes=False)
    forward = Forward(net, MEAN, make_placement(data=1), 2)
    seconds = {}
    for protocol, warm_up in ((Dense(), Dense()), (MultiCrop(), MultiCrop(grid=1))):
        evaluate(forward, params, source, warm_up, split="val")
        began = time.perf_counter()
        evaluate(forward, params, source, protocol, split="val")
        seconds[protocol.label(224)] = (time.perf_counter() - began) / len(source)
    dense, crops = seconds["dense(256)"], seconds["multi_crop(256->224)"]
    print(
        f"\nVGG D, 4 images: dense {dense:.2f} s an image, 50 crops {crops:.2f} s: {crops / dense:.1f} times"
    )
    assert crops / dense >= 10
