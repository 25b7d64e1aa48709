"""Narrow nets, and images of given sizes as a source: what the tests of protocols share."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxcnn.evaluation import Forward, evaluate
from jaxcnn.models import build
from jaxcnn.parallel import make_placement

CLASSES = 5
MEAN = np.array([120.0, 110.0, 100.0], np.float32)
# AlexNet needs 64 pixels.
NETS = {
    "alexnet": {"image_size": 72, "width": 0.1},
    "vgg": {"image_size": 32, "width": 0.07, "column": "A"},
    "googlenet": {"image_size": 32, "width": 0.1},
}
# One of each protocol's kind, in the scales of a net of 32 pixels.
SMALL = [
    "centre",
    "ten_crops",
    "dense",
    "dense scales=(32,40) flip=False",
    "multi_crop",
    "multi_crop_dense scales=(32,48)",
    "crops_144",
]


def net_and_params(name, **fields):
    """Weights of which posteriors are far from uniform, and not so far that a grey level decides."""
    net = build(name, num_classes=CLASSES, **NETS[name] | fields)
    images = jnp.zeros((1, net.image_size, net.image_size, 3))
    shapes = jax.eval_shape(net.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(7)

    def draw(path, leaf):
        last = path[0].key in ("fc8", "fc")
        inputs = max(1, np.prod(leaf.shape[:-1]))
        gain = 0.04 if last else 1.5
        return jnp.asarray(rng.normal(0, gain / np.sqrt(inputs), leaf.shape), jnp.float32)

    return net, jax.tree_util.tree_map_with_path(draw, shapes)


def forward_of(net, mean=MEAN, batch_size=8, devices=1):
    return Forward(net, mean, make_placement(data=devices), batch_size)


def judge(name, source, protocol, *, mean=MEAN, batch_size=8, devices=1, **fields):
    """The judgement of a narrow net, posteriors kept."""
    net, params = net_and_params(name, **fields)
    forward = forward_of(net, mean, batch_size, devices)
    params = forward.placement.put_replicated(params)
    return evaluate(forward, params, source, protocol, split="val", keep=True, threads=2)


def pixels_of(height, width, seed=0):
    coarse = np.random.default_rng([seed, height, width]).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


class Images:
    """PNGs, which decode exactly, of the given (height, width); labels go round the classes."""

    class_names = tuple("abcde")

    def __init__(self, sizes, broken=()):
        self.pixels = [pixels_of(*size, seed=i) for i, size in enumerate(sizes)]
        self.broken = broken
        self.ids = np.arange(len(sizes)) + 10

    def __len__(self):
        return len(self.pixels)

    def read(self, index):
        if index in self.broken:
            return b"no image", index % CLASSES
        buffer = io.BytesIO()
        Image.fromarray(self.pixels[index]).save(buffer, "PNG")
        return buffer.getvalue(), index % CLASSES

    def name(self, index):
        return f"image {index}"
